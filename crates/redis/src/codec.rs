//! The bytes of a cached value: msgpack, compressed if that makes it shorter, with a header that prevents misreading.
//!
//! The header has two bytes. The upper half of the first byte is the version of this layout; its lower half says how the rest is
//! compressed: 0 not at all, 1 as an LZ4 block after its uncompressed length (four bytes, little-endian). The second byte is the version
//! of the value's own shape. Fields are positional, so adding, removing or moving a field needs another version. A value with other
//! versions, with trailing bytes, or that would decompress to more than [`MAX_VALUE`] is a miss, and is counted
//! (`cache_undecodable_entries_total{where}`).
//!
//! The compression is LZ4 because values are read far more often than written, and LZ4 decompresses at almost no cost. zstd would save a
//! few more bytes of the few values that are large enough.

use std::borrow::Cow;
use std::marker::PhantomData;

use lz4_flex::block;
use prometheus::IntCounter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::metrics::RedisMetrics;

/// The version of the layout that this build writes and reads.
const LAYOUT: u8 = 1;
const PLAIN: u8 = LAYOUT << 4;
const LZ4: u8 = LAYOUT << 4 | 1;
/// The length of the header, in bytes.
const HEADER: usize = 2;
/// Values of more than this many bytes are compressed. Below it LZ4 gains little: a profile or a message has few repetitions.
pub const COMPRESS_ABOVE: usize = 1024;
/// The largest value, in bytes before compression. It bounds what a reader allocates because of a header.
pub const MAX_VALUE: usize = 4 << 20;
/// The deepest nesting of a value, so that no input exhausts the stack.
const MAX_DEPTH: usize = 64;
/// LZ4 can't decompress one byte to more than this many.
const LZ4_MAX_RATIO: usize = 255;

/// Why a value can't be cached. The caller uses it uncached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than [`MAX_VALUE`], in bytes before compression.
    #[error("{0} bytes are too many to be cached")]
    TooLarge(usize),
    /// Its type can't be serialized.
    #[error("no msgpack for it: {0}")]
    Shape(String),
}

/// Encodes and decodes values of one type. Cheap to clone.
#[derive(Debug)]
pub struct Codec<T> {
    shape: u8,
    threshold: usize,
    undecodable: IntCounter,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Codec<T> {
    fn clone(&self) -> Self {
        Self { undecodable: self.undecodable.clone(), ..*self }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// A codec for a type whose fields have the order and meaning of version `shape`. `place` is the label under which undecodable values
    /// are counted.
    pub fn new(place: &'static str, shape: u8, metrics: &RedisMetrics) -> Self {
        let undecodable = metrics.undecodable_at(place);
        Self { shape, threshold: COMPRESS_ABOVE, undecodable, value: PhantomData }
    }

    /// The same codec, which compresses values of more than `bytes` bytes.
    #[must_use]
    pub fn compressing_above(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// It is too large, or its type can't be serialized.
    pub fn encode(&self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = vec![PLAIN, self.shape];
        let written = value.serialize(&mut rmp_serde::Serializer::new(&mut bytes));
        written.map_err(|error| EncodeError::Shape(error.to_string()))?;
        let plain = bytes.len() - HEADER;
        if plain > MAX_VALUE {
            return Err(EncodeError::TooLarge(plain));
        }
        if plain > self.threshold {
            let packed = block::compress_prepend_size(&bytes[HEADER..]);
            if packed.len() < plain {
                bytes[0] = LZ4;
                bytes.truncate(HEADER);
                bytes.extend_from_slice(&packed);
            }
        }
        Ok(bytes)
    }

    /// Decodes a value; `None` if this build can't read it, which is counted.
    pub fn decode(&self, bytes: &[u8]) -> Option<T> {
        let value = self.read(bytes);
        if value.is_none() {
            self.undecodable.inc();
        }
        value
    }

    fn read(&self, bytes: &[u8]) -> Option<T> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let plain = match *header {
            [PLAIN, shape] if shape == self.shape => Cow::Borrowed(body),
            [LZ4, shape] if shape == self.shape => Cow::Owned(unpack(body)?),
            _ => return None,
        };
        let mut rest = &*plain;
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        reader.set_max_depth(MAX_DEPTH);
        let value = T::deserialize(&mut reader).ok()?;
        rest.is_empty().then_some(value)
    }
}

fn unpack(body: &[u8]) -> Option<Vec<u8>> {
    let (length, packed) = block::uncompressed_size(body).ok()?;
    if length > MAX_VALUE.min(packed.len().saturating_mul(LZ4_MAX_RATIO)) {
        return None;
    }
    let mut plain = vec![0; length];
    (block::decompress_into(packed, &mut plain).ok()? == length).then_some(plain)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Profile {
        name: String,
        about: Option<String>,
        seen: Vec<i64>,
    }

    fn codec<T: Serialize + DeserializeOwned>(shape: u8) -> (Codec<T>, RedisMetrics) {
        let metrics = RedisMetrics::register(&Registry::new()).unwrap();
        (Codec::new("profile", shape, &metrics), metrics)
    }

    fn profile(about: &str) -> Profile {
        Profile { name: "Alice".into(), about: Some(about.into()), seen: vec![1, -1, i64::MAX] }
    }

    #[test]
    fn a_value_comes_back_and_a_long_one_takes_less() {
        let (codec, metrics) = codec(3);
        let (short, long) = (profile("hé"), profile(&"to be or not to be ".repeat(200)));
        let (packed_short, packed_long) = (codec.encode(&short).unwrap(), codec.encode(&long).unwrap());
        assert_eq!((packed_short[0], packed_short[1]), (0x10, 3));
        assert_eq!((packed_long[0], packed_long[1]), (0x11, 3));
        assert!(packed_long.len() < 300, "{}", packed_long.len());
        assert_eq!(codec.decode(&packed_short), Some(short));
        assert_eq!(codec.decode(&packed_long), Some(long));
        assert_eq!(metrics.undecodable_at("profile").get(), 0);
    }

    #[test]
    fn what_does_not_get_shorter_is_left_as_it_is() {
        let (codec, _) = codec::<Vec<u64>>(1);
        let noise: Vec<u64> = (1..=1000_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        let packed = codec.encode(&noise).unwrap();
        assert_eq!(packed[0], PLAIN);
        assert_eq!(codec.decode(&packed), Some(noise));
    }

    #[test]
    fn other_versions_are_misses_and_counted() {
        let (codec, metrics) = codec::<Profile>(2);
        let packed = codec.encode(&profile("x")).unwrap();
        let mut misses = 0;
        for (index, byte) in [(0, 0x00), (0, 0x20), (0, 0x12), (0, 0x1f), (1, 1), (1, 3)] {
            let mut other = packed.clone();
            other[index] = byte;
            assert_eq!(codec.decode(&other), None);
            misses += 1;
        }
        assert_eq!(metrics.undecodable_at("profile").get(), misses);
    }

    #[test]
    fn a_type_that_lost_or_gained_a_field_is_no_other_value() {
        let (three, _) = codec::<(String, String, u8)>(1);
        let (two, _) = codec::<(String, String)>(1);
        assert_eq!(two.decode(&three.encode(&("a".into(), "b".into(), 1)).unwrap()), None);
        assert_eq!(three.decode(&two.encode(&("a".into(), "b".into())).unwrap()), None);
    }

    #[test]
    fn truncated_and_padded_values_are_misses() {
        let (codec, _) = codec::<Profile>(1);
        for value in [profile("x"), profile(&"y".repeat(5000))] {
            let whole = codec.encode(&value).unwrap();
            assert!((0..whole.len()).all(|end| codec.decode(&whole[..end]).is_none()));
            assert_eq!(codec.decode(&[&whole[..], &[0xc0]].concat()), None);
        }
    }

    #[test]
    fn a_header_that_promises_more_than_there_can_be_allocates_nothing() {
        let (codec, _) = codec::<Vec<u8>>(1);
        for length in [u32::MAX, MAX_VALUE as u32 + 1, 5000] {
            let mut bomb = vec![LZ4, 1];
            bomb.extend_from_slice(&length.to_le_bytes());
            bomb.extend_from_slice(&[0; 8]);
            assert_eq!(codec.decode(&bomb), None);
        }
        // An array of four thousand million elements, in five bytes.
        assert_eq!(codec.decode(&[PLAIN, 1, 0xdd, 0xff, 0xff, 0xff, 0xff]), None);
        let zeros = block::compress_prepend_size(&vec![0; MAX_VALUE + 1]);
        assert_eq!(codec.decode(&[&[LZ4, 1], &zeros[..]].concat()), None, "an honest one that is too large");
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Nest(Vec<Nest>);
        let (codec, _) = codec::<Nest>(1);
        let mut deep = vec![PLAIN, 1];
        deep.extend(std::iter::repeat_n(0x91, 100_000));
        deep.push(0x90);
        assert_eq!(codec.decode(&deep), None);
    }

    #[test]
    fn what_is_too_large_is_not_cached() {
        let (codec, _) = codec::<String>(1);
        assert!(matches!(codec.encode(&"x".repeat(MAX_VALUE)), Err(EncodeError::TooLarge(_))));
        let largest = "x".repeat(MAX_VALUE - 5);
        assert_eq!(codec.decode(&codec.encode(&largest).unwrap()), Some(largest));
    }

    proptest! {
        #[test]
        fn every_value_comes_back_however_it_was_packed(
            name in any::<String>(), about in any::<Option<String>>(), seen in prop::collection::vec(any::<i64>(), 0..200),
            threshold in 0_usize..3000,
        ) {
            let (codec, _) = codec(1);
            let value = Profile { name, about, seen };
            let packed = codec.clone().compressing_above(threshold).encode(&value).unwrap();
            prop_assert_eq!(codec.decode(&packed), Some(value), "a reader need not know the writer's threshold");
        }

        #[test]
        fn any_bytes_are_a_value_or_a_miss(packed in 0_u8..2, shape in 0_u8..3, mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (codec, _) = codec::<Profile>(1);
            bytes.splice(0..0, [PLAIN | packed, shape]);
            let _ = codec.decode(&bytes);
        }
    }
}
