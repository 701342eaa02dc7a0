//! The identity of a message.
//!
//! With a `tempId` it is a UUIDv5 of who sent what to where under which `tempId`: every retry of one send is the same message
//! on every gateway and by every route, and a send with another body is another message. The encoding never changes; its
//! test vectors lie in `proto/message-id-vectors.json`.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{ChatId, UserId};

/// The namespace of all message ids.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x4f1d_7a0e_9c7b_5b7e_8f0a_2d5c_6e31_b9d4);

/// A message's id: a UUID, written in lower case with hyphens wherever it is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

impl MessageId {
    /// The id that every send with these fields has.
    ///
    /// UUIDv5 over [`NAMESPACE`] and the concatenation of the sender, the chat, the `tempId`, and the SHA-256 of the body,
    /// where the body is the concatenation of content, `imageUrl` and `publicId`. Each part, in both concatenations, follows its
    /// length in bytes as a 32-bit big-endian number; an absent part is an empty one.
    pub fn of_send(
        sender: &UserId,
        chat: &ChatId,
        temp_id: &str,
        content: &str,
        image_url: Option<&str>,
        public_id: Option<&str>,
    ) -> Self {
        let mut body = Sha256::new();
        for part in [content, image_url.unwrap_or_default(), public_id.unwrap_or_default()] {
            body.update(length(part.as_bytes()));
            body.update(part.as_bytes());
        }
        let body = body.finalize();
        let mut name = Vec::with_capacity(256);
        for part in [sender.as_str().as_bytes(), chat.as_str().as_bytes(), temp_id.as_bytes(), &body[..]] {
            name.extend_from_slice(&length(part));
            name.extend_from_slice(part);
        }
        Self(Uuid::new_v5(&NAMESPACE, &name))
    }

    /// An id for a send without a `tempId`, which can't be repeated.
    pub fn unrepeatable() -> Self {
        Self(Uuid::now_v7())
    }

    /// Takes the one spelling that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::try_parse(text).ok()?;
        (id.hyphenated().encode_lower(&mut buffer) == text).then_some(Self(id))
    }

    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Its 16 bytes, whose order is the order of its text.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

fn length(part: &[u8]) -> [u8; 4] {
    // Every part is bounded far below 4 GiB by the limits of a draft.
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
