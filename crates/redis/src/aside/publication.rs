//! The bytes of an invalidation, as it is published.

use crate::msgpack::{Reader, Writer};

const VERSION: u64 = 1;

/// A positional msgpack array: the version, and the key of the invalidated entry or nil for all entries.
pub(super) fn encode(name: Option<&str>) -> Vec<u8> {
    Writer::with_capacity(64).array(2).uint(VERSION).maybe_str(name).0
}

/// The key of the invalidated entry; `Some(None)`: all entries; `None`: this build can't read the publication.
pub(super) fn decode(payload: &[u8]) -> Option<Option<&str>> {
    let mut reader = Reader(payload);
    reader.array()?;
    if reader.uint()? != VERSION {
        return None;
    }
    reader.maybe_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_back_and_a_newer_version_concerns_everything() {
        assert_eq!(decode(&encode(Some("chat:v1:x:{a}"))), Some(Some("chat:v1:x:{a}")));
        assert_eq!(decode(&encode(None)), Some(None));
        let mut newer = encode(Some("a"));
        newer[1] = 2;
        assert_eq!(decode(&newer), None);
        assert_eq!(decode(b""), None);
    }
}
