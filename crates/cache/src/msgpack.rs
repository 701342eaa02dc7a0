//! The few msgpack shapes that positional values need, on top of `rmp`. Reading never fails otherwise than with `None`.

use rmp::{Marker, decode, encode};

/// Appends positional values. Writing to memory can't fail.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn array(mut self, len: u32) -> Self {
        let _ = encode::write_array_len(&mut self.0, len);
        self
    }

    pub(crate) fn uint(mut self, value: u64) -> Self {
        let _ = encode::write_uint(&mut self.0, value);
        self
    }

    pub(crate) fn int(mut self, value: i64) -> Self {
        let _ = encode::write_sint(&mut self.0, value);
        self
    }

    pub(crate) fn bin(mut self, value: &[u8]) -> Self {
        let _ = encode::write_bin(&mut self.0, value);
        self
    }

    pub(crate) fn str(self, value: &str) -> Self {
        self.raw(value.as_bytes())
    }

    /// Bytes under the string marker: the decoder in Redis's Lua knows no binary type.
    pub(crate) fn raw(mut self, value: &[u8]) -> Self {
        let _ = encode::write_str_len(&mut self.0, u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn maybe_str(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.str(value),
            None => self.nil(),
        }
    }

    pub(crate) fn nil(mut self) -> Self {
        self.0.push(Marker::Null.to_u8());
        self
    }
}

/// Takes positional values off the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array(&mut self) -> Option<u32> {
        decode::read_array_len(&mut self.0).ok()
    }

    pub(crate) fn uint(&mut self) -> Option<u64> {
        decode::read_int(&mut self.0).ok()
    }

    pub(crate) fn int(&mut self) -> Option<i64> {
        decode::read_int(&mut self.0).ok()
    }

    pub(crate) fn bin(&mut self) -> Option<&'a [u8]> {
        let len = decode::read_bin_len(&mut self.0).ok()?;
        self.take(len)
    }

    pub(crate) fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.raw()?).ok()
    }

    pub(crate) fn raw(&mut self) -> Option<&'a [u8]> {
        let len = decode::read_str_len(&mut self.0).ok()?;
        self.take(len)
    }

    /// `Some(None)` for nil.
    pub(crate) fn maybe_str(&mut self) -> Option<Option<&'a str>> {
        if self.skip_nil() { Some(None) } else { self.str().map(Some) }
    }

    /// `Some(None)` for nil.
    pub(crate) fn maybe_uint(&mut self) -> Option<Option<u64>> {
        if self.skip_nil() { Some(None) } else { self.uint().map(Some) }
    }

    pub(crate) fn skip_nil(&mut self) -> bool {
        let nil = self.0.first() == Some(&Marker::Null.to_u8());
        if nil {
            self.0 = &self.0[1..];
        }
        nil
    }

    fn take(&mut self, len: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}
