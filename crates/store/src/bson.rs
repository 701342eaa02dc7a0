//! Writes BSON into one buffer (<https://bsonspec.org/spec.html>).
//!
//! A flush is one command with a thousand documents. Writing them in place costs a few copies of each field; through
//! `Document` or serde each message would become dozens of small allocations first.

use std::fmt::{Display, Write as _};

use mongodb::bson::RawDocumentBuf;

use crate::StoreError;

/// A document under construction, with others nested in it. Keys must not contain NUL; they are all our own.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Where each open document or array began.
    open: Vec<usize>,
}

impl Writer {
    pub(crate) fn new(capacity: usize) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(capacity), open: Vec::with_capacity(4) };
        writer.begin();
        writer
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.key(0x02, key);
        self.length(value.len() + 1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn display(&mut self, key: &str, value: impl Display) {
        self.key(0x02, key);
        let start = self.bytes.len();
        self.length(0);
        // Writing to memory does not fail.
        let _ = write!(Text(&mut self.bytes), "{value}");
        self.bytes.push(0);
        self.patch(start, self.bytes.len() - start - 4);
    }

    pub(crate) fn int64(&mut self, key: &str, value: i64) {
        self.key(0x12, key);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// In milliseconds.
    pub(crate) fn date(&mut self, key: &str, value: i64) {
        self.key(0x09, key);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bool(&mut self, key: &str, value: bool) {
        self.key(0x08, key);
        self.bytes.push(value.into());
    }

    pub(crate) fn begin_document(&mut self, key: &str) {
        self.key(0x03, key);
        self.begin();
    }

    pub(crate) fn begin_array(&mut self, key: &str) {
        self.key(0x04, key);
        self.begin();
    }

    /// A document as the `index`th element of the open array.
    pub(crate) fn begin_element(&mut self, index: usize) {
        self.bytes.push(0x03);
        let _ = write!(Text(&mut self.bytes), "{index}");
        self.bytes.push(0);
        self.begin();
    }

    /// Ends the document or array begun last.
    pub(crate) fn end(&mut self) {
        self.bytes.push(0);
        if let Some(start) = self.open.pop() {
            self.patch(start, self.bytes.len() - start);
        }
    }

    /// How many bytes there are; a mark for [`Writer::truncate`].
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was written since `mark`, which must be of the innermost open document.
    pub(crate) fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    pub(crate) fn finish(mut self) -> Result<RawDocumentBuf, StoreError> {
        while !self.open.is_empty() {
            self.end();
        }
        RawDocumentBuf::from_bytes(self.bytes)
            .map_err(|error| StoreError::Rejected { code: None, reason: error.to_string() })
    }

    fn begin(&mut self) {
        self.open.push(self.bytes.len());
        self.length(0);
    }

    fn key(&mut self, kind: u8, key: &str) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(0);
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&bounded(length).to_le_bytes());
    }

    fn patch(&mut self, at: usize, length: usize) {
        self.bytes[at..at + 4].copy_from_slice(&bounded(length).to_le_bytes());
    }
}

/// A length that does not fit is far beyond what is sent: the document is taken back.
fn bounded(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, RawDocumentBuf, doc};

    use super::Writer;

    #[test]
    fn what_is_written_is_what_the_driver_would_write() {
        let mut writer = Writer::new(0);
        writer.string("text", "a\0é");
        writer.display("shown", format_args!("{}-{}", 1, "x"));
        writer.int64("number", -5);
        writer.date("date", -5);
        writer.bool("yes", true);
        writer.begin_array("list");
        for index in 0..11 {
            writer.begin_element(index);
            writer.int64("i", index as i64);
            writer.end();
        }
        let mark = writer.len();
        writer.begin_element(11);
        writer.string("gone", "");
        writer.end();
        writer.truncate(mark);
        writer.end();
        writer.begin_document("last");
        let list: Vec<_> = (0..11_i64).map(|i| doc! { "i": i }).collect();
        let expected = doc! { "text": "a\0é", "shown": "1-x", "number": -5_i64, "date": DateTime::from_millis(-5), "yes": true, "list": list, "last": {} };
        assert_eq!(writer.finish().unwrap(), RawDocumentBuf::from_document(&expected).unwrap());
    }
}
