//! Decodes records: takes a record borrowed from the client; returns an owned message, or the reason why it is none.

use holdfast_kafka::{BorrowedMessage, Headers, RecordView};
use holdfast_message::Message;
use holdfast_message::record::{self, SCHEMA_VERSION, header};
use holdfast_service::trace::TraceParent;

/// A record that was read.
#[derive(Debug)]
pub struct Incoming {
    /// The record's partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// The decoded content.
    pub content: Content,
}

/// The content of a record.
#[derive(Debug)]
pub enum Content {
    /// A message.
    Message {
        /// The message.
        message: Message,
        /// The trace context in its headers.
        trace: Option<TraceParent>,
        /// Whether the recent list may lack it.
        uncached: bool,
    },
    /// No valid message: it becomes a dead letter.
    Undecodable {
        /// A short word for the metric.
        reason: &'static str,
        /// The decoding error.
        detail: String,
        /// The record's original bytes.
        original: Original,
    },
    /// A message in a newer schema, which only a newer worker can decode.
    Newer {
        /// The schema version in the record.
        version: String,
    },
}

/// A record's bytes and headers.
#[derive(Debug, Clone, Default)]
pub struct Original {
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The record's headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Original {
    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value) + 64).sum();
        size_of::<Self>() + length(&self.key) + length(&self.value) + headers
    }

    /// Rebuilds a message's record: encoding is deterministic.
    pub fn of(message: &Message, trace: Option<TraceParent>) -> Self {
        let text = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
        let mut headers = vec![
            text(header::CONTENT_TYPE, record::CONTENT_TYPE.to_owned()),
            text(header::SCHEMA_VERSION, SCHEMA_VERSION.to_string()),
        ];
        headers.extend(trace.map(|trace| text(header::TRACEPARENT, trace.to_string())));
        Self { key: Some(message.chat.to_string().into_bytes()), value: Some(record::encode(message)), headers }
    }
}

/// Decodes a record.
pub fn read(record: &BorrowedMessage<'_>) -> Incoming {
    Incoming { partition: record.partition(), offset: record.offset(), content: content(record) }
}

fn content(record: &BorrowedMessage<'_>) -> Content {
    let (mut version, mut trace, mut uncached) = (None, None, false);
    for header in record.headers().map(Headers::iter).into_iter().flatten() {
        match header.key {
            header::SCHEMA_VERSION => version = header.value,
            header::TRACEPARENT => {
                trace = header.value.and_then(|value| TraceParent::parse(std::str::from_utf8(value).ok()?));
            }
            header::UNCACHED => uncached = true,
            _ => {}
        }
    }
    if let Some(version) = version.and_then(newer) {
        return Content::Newer { version };
    }
    match record::decode(record.payload().unwrap_or_default()) {
        Ok(message) => Content::Message { message, trace, uncached },
        Err(error) => {
            Content::Undecodable { reason: error.reason(), detail: error.to_string(), original: original(record) }
        }
    }
}

/// The schema version, if it is newer than this worker's. A header that is no number is ignored; then the value decides.
fn newer(version: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(version).ok()?.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && text.parse::<u32>().map_or(true, |version| version > SCHEMA_VERSION)).then(|| text.to_owned())
}

fn original(record: &BorrowedMessage<'_>) -> Original {
    let headers = record.headers().map(Headers::iter).into_iter().flatten();
    Original {
        key: record.key().map(<[u8]>::to_vec),
        value: record.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_above_ours_is_newer() {
        let ours = SCHEMA_VERSION.to_string();
        for not_newer in [b"".as_slice(), b"0", ours.as_bytes(), b"x", b"-7", b"1.5", &[0xff]] {
            assert_eq!(newer(not_newer), None, "{not_newer:?}");
        }
        assert_eq!(newer((SCHEMA_VERSION + 1).to_string().as_bytes()), Some((SCHEMA_VERSION + 1).to_string()));
        assert_eq!(newer(b"99999999999999999999"), Some("99999999999999999999".to_owned()));
    }
}
