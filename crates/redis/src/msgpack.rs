//! Positional values in msgpack, on top of `rmp`: the few types that entries and publications need. Reading any bytes never panics.

use rmp::{Marker, decode, encode};

/// Appends positional values to bytes. Writing to memory can't fail.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// An empty writer with room for this many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Appends the head of an array.
    #[must_use]
    pub fn array(mut self, len: u32) -> Self {
        let _ = encode::write_array_len(&mut self.0, len);
        self
    }

    /// Appends an unsigned integer.
    #[must_use]
    pub fn uint(mut self, value: u64) -> Self {
        let _ = encode::write_uint(&mut self.0, value);
        self
    }

    /// Appends a signed integer.
    #[must_use]
    pub fn int(mut self, value: i64) -> Self {
        let _ = encode::write_sint(&mut self.0, value);
        self
    }

    /// Appends bytes.
    #[must_use]
    pub fn bin(mut self, value: &[u8]) -> Self {
        let _ = encode::write_bin(&mut self.0, value);
        self
    }

    /// Appends a text.
    #[must_use]
    pub fn str(self, value: &str) -> Self {
        self.raw(value.as_bytes())
    }

    /// Appends bytes with the marker of a text, because the msgpack decoder in Redis's Lua has no binary type.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        let _ = encode::write_str_len(&mut self.0, u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    /// Appends a text, or nil.
    #[must_use]
    pub fn maybe_str(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.str(value),
            None => self.nil(),
        }
    }

    /// Appends nil.
    #[must_use]
    pub fn nil(mut self) -> Self {
        self.0.push(Marker::Null.to_u8());
        self
    }
}

/// Reads positional values from the front of a slice; `None`: the next value has another type, or the bytes end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The length of an array.
    pub fn array(&mut self) -> Option<u32> {
        decode::read_array_len(&mut self.0).ok()
    }

    /// An unsigned integer.
    pub fn uint(&mut self) -> Option<u64> {
        decode::read_int(&mut self.0).ok()
    }

    /// A signed integer.
    pub fn int(&mut self) -> Option<i64> {
        decode::read_int(&mut self.0).ok()
    }

    /// Bytes.
    pub fn bin(&mut self) -> Option<&'a [u8]> {
        let len = decode::read_bin_len(&mut self.0).ok()?;
        self.take(len)
    }

    /// A text.
    pub fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.raw()?).ok()
    }

    /// The bytes of a text, whether they are UTF-8 or not.
    pub fn raw(&mut self) -> Option<&'a [u8]> {
        let len = decode::read_str_len(&mut self.0).ok()?;
        self.take(len)
    }

    /// A text; `Some(None)` for nil.
    pub fn maybe_str(&mut self) -> Option<Option<&'a str>> {
        if self.skip_nil() { Some(None) } else { self.str().map(Some) }
    }

    /// An unsigned integer; `Some(None)` for nil.
    pub fn maybe_uint(&mut self) -> Option<Option<u64>> {
        if self.skip_nil() { Some(None) } else { self.uint().map(Some) }
    }

    /// Skips a nil; says whether there was one.
    pub fn skip_nil(&mut self) -> bool {
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
