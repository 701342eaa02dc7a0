//! What a client asks to send, checked.
//!
//! Takes the fields as the transport received them; gives a [`Draft`] that is within every limit, and from that a [`Message`].

use crate::id::IdError;
use crate::{ChatId, Message, MessageId, UserId, is_visible};

/// The longest text, in Unicode characters.
pub const MAX_CONTENT: usize = 4096;
/// The longest `tempId`, in characters.
pub const MAX_TEMP_ID: usize = 128;
/// The longest `imageUrl`, in bytes.
pub const MAX_IMAGE_URL: usize = 2048;
/// The longest `publicId`, in bytes.
pub const MAX_PUBLIC_ID: usize = 256;

/// Why a send can't be taken: the field, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct Invalid {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What the field must be.
    pub rule: String,
}

impl Invalid {
    /// A field and the rule that it breaks.
    pub fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self { field, rule: rule.into() }
    }
}

/// The chat that a client means by `friendId`, `chatId` or both, which must then agree.
pub fn target(user: &UserId, friend_id: Option<&str>, chat_id: Option<&str>) -> Result<ChatId, Invalid> {
    let friend = friend_id
        .map(|text| UserId::parse(text).and_then(|friend| ChatId::direct(user, &friend)))
        .transpose()
        .map_err(|error: IdError| Invalid::new("friendId", error.to_string()))?;
    let chat = chat_id.map(ChatId::parse).transpose().map_err(|error| Invalid::new("chatId", error.to_string()))?;
    match (friend, chat) {
        (Some(friend), Some(chat)) if friend != chat => {
            Err(Invalid::new("chatId", "friendId and chatId name different chats"))
        }
        (Some(chat), _) | (None, Some(chat)) => Ok(chat),
        (None, None) => Err(Invalid::new("friendId", "friendId or chatId is needed")),
    }
}

/// A send within every limit, not yet stamped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    sender: UserId,
    chat: ChatId,
    temp_id: Option<String>,
    content: String,
    image_url: Option<String>,
    public_id: Option<String>,
}

impl Draft {
    /// Checks a send. An empty `image_url` or `public_id` is an absent one; the content may be empty, or show nothing, beside an image.
    /// It stays as it was received.
    pub fn new(
        sender: UserId,
        chat: ChatId,
        temp_id: Option<String>,
        content: String,
        image_url: Option<String>,
        public_id: Option<String>,
    ) -> Result<Self, Invalid> {
        let image_url = image_url.filter(|text| !text.is_empty());
        let public_id = public_id.filter(|text| !text.is_empty());
        if let Some(temp_id) = &temp_id
            && (temp_id.is_empty() || temp_id.chars().count() > MAX_TEMP_ID || temp_id.chars().any(char::is_control))
        {
            return Err(Invalid::new("tempId", format!("1 to {MAX_TEMP_ID} printable characters")));
        }
        if image_url.is_none() && !is_visible(&content) {
            return Err(Invalid::new("content", "must not be empty, or of characters that show nothing alone"));
        }
        // A character takes at least a byte, so only long text has to be counted.
        if content.len() > MAX_CONTENT && content.chars().count() > MAX_CONTENT {
            return Err(Invalid::new("content", format!("at most {MAX_CONTENT} characters")));
        }
        if let Some(url) = &image_url
            && (url.len() > MAX_IMAGE_URL || !is_https(url))
        {
            return Err(Invalid::new("imageUrl", format!("an https URL of at most {MAX_IMAGE_URL} bytes")));
        }
        if let Some(id) = &public_id
            && (id.len() > MAX_PUBLIC_ID || id.chars().any(char::is_control))
        {
            return Err(Invalid::new("publicId", format!("at most {MAX_PUBLIC_ID} bytes of printable characters")));
        }
        Ok(Self { sender, chat, temp_id, content, image_url, public_id })
    }

    /// The sender.
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// The chat.
    pub fn chat(&self) -> &ChatId {
        &self.chat
    }

    /// Gives the draft its id and its time, in Unix epoch milliseconds.
    pub fn stamp(self, timestamp: i64) -> Message {
        let id = match &self.temp_id {
            Some(temp_id) => MessageId::of_send(
                &self.sender,
                &self.chat,
                temp_id,
                &self.content,
                self.image_url.as_deref(),
                self.public_id.as_deref(),
            ),
            None => MessageId::unrepeatable(),
        };
        Message {
            id,
            temp_id: self.temp_id,
            receiver: self.chat.other(&self.sender),
            chat: self.chat,
            sender: self.sender,
            content: self.content,
            image_url: self.image_url,
            public_id: self.public_id,
            timestamp,
        }
    }
}

/// Whether this is an https address whose host is plain to see: a host, perhaps a port, no user and no password. No server fetches it, and
/// clients must all understand it alike: no backslash, which browsers read as a slash, and nothing that hides or turns text around.
pub fn is_https(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    scheme.eq_ignore_ascii_case("https")
        && !host.is_empty()
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0) && !port.starts_with('+'))
        && !authority.contains('@')
        && !url
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || is_invisible(c) || matches!(c, '\\' | '<' | '>' | '"'))
}

/// Marks of direction and of no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(temp_id: Option<&str>, content: &str, image_url: Option<&str>) -> Result<Draft, Invalid> {
        let alice = UserId::parse("alice").unwrap();
        let chat = target(&alice, Some("bob"), None)?;
        Draft::new(alice, chat, temp_id.map(Into::into), content.into(), image_url.map(Into::into), None)
    }

    #[test]
    fn limits_hold_at_their_edges() {
        assert!(draft(None, &"é".repeat(MAX_CONTENT), None).is_ok());
        assert_eq!(draft(None, &"é".repeat(MAX_CONTENT + 1), None).unwrap_err().field, "content");
        assert_eq!(draft(None, " \n", None).unwrap_err().field, "content");
        assert!(draft(None, "", Some("https://example.org/a.png")).is_ok());
        for temp_id in ["", "a\u{7}", &"x".repeat(129)] {
            assert_eq!(draft(Some(temp_id), "x", None).unwrap_err().field, "tempId");
        }
        for url in ["http://example.org/a.png", "https://", "javascript:alert(1)", "https://a b"] {
            assert_eq!(draft(None, "x", Some(url)).unwrap_err().field, "imageUrl", "{url}");
        }
    }

    #[test]
    fn content_that_shows_nothing_counts_as_empty_and_stays_as_it_is_beside_an_image() {
        for content in ["\u{200b}", "\u{2800}", "\u{3164}", "\u{e0020}", "\u{0}", " \u{feff}\u{fe0f}\n\u{202e}"] {
            assert_eq!(draft(None, content, None).unwrap_err().field, "content", "{content:?}");
            let beside = draft(None, content, Some("https://example.org/a.png")).unwrap();
            assert_eq!(beside.stamp(1).content, content, "{content:?}");
            let visible = format!("{content}x{content}");
            assert_eq!(draft(None, &visible, None).unwrap().stamp(1).content, visible, "{content:?}");
        }
        assert!(draft(None, &"\u{1}".repeat(4000), None).is_ok(), "control characters are shown as a glyph");
    }

    #[test]
    fn an_image_lies_at_an_https_address_that_shows_who_it_leads_to() {
        let longest = format!("https://example.org/{}", "x".repeat(MAX_IMAGE_URL - 20));
        for url in [
            "https://example.org/a.png",
            "HTTPS://EXAMPLE.ORG",
            "https://example.org:8443/a?b=c#d",
            "https://[2001:db8::1]/a",
            "https://[2001:db8::1]:8443/a",
            "https://192.0.2.1/a.png",
            "https://bücher.example/ä.png?x=1",
            "https://example.org/a@b:c",
            longest.as_str(),
        ] {
            assert!(draft(None, "x", Some(url)).is_ok(), "{url}");
        }
        for url in [
            "http://example.org/a.png",
            "//example.org/a.png",
            "example.org/a.png",
            "https:/example.org",
            "https:example.org",
            "https://",
            "https:///a.png",
            "https://?a",
            "https://:8443/a",
            "https://example.org:/a",
            "https://example.org:0/a",
            "https://example.org:65536/a",
            "https://example.org:+443/a",
            "https://user@example.org/a",
            "https://user:password@example.org/a",
            "https://example.org\\@other.example/a",
            "https://example.org/a b",
            "https://example.org/a\n",
            "https://example.org/\u{202e}gnp.a",
            "https://exa\u{200b}mple.org/a",
            "https://example.org/\"><script>",
            "javascript:alert(1)//https://example.org",
            "data:image/png;base64,AAAA",
            "file:///etc/passwd",
            "ftp://example.org/a",
            " https://example.org",
            &format!("{longest}x"),
        ] {
            assert_eq!(draft(None, "x", Some(url)).unwrap_err().field, "imageUrl", "{url}");
        }
    }

    #[test]
    fn a_public_id_is_printable_and_not_too_long() {
        let with = |id: &str| {
            let (alice, chat) = (UserId::parse("alice").unwrap(), ChatId::parse("alice:bob").unwrap());
            Draft::new(alice, chat, None, "x".into(), None, Some(id.into()))
        };
        for id in ["", "folder/sample_1", &"x".repeat(MAX_PUBLIC_ID), "ä ö"] {
            assert!(with(id).is_ok(), "{id}");
        }
        for id in ["a\nb", "a\u{0}", "\u{85}", &"x".repeat(MAX_PUBLIC_ID + 1), &"ä".repeat(MAX_PUBLIC_ID / 2 + 1)] {
            assert_eq!(with(id).unwrap_err().field, "publicId", "{id}");
        }
    }

    #[test]
    fn friend_and_chat_must_agree_and_one_is_needed() {
        let alice = UserId::parse("alice").unwrap();
        assert_eq!(target(&alice, Some("bob"), Some("alice:bob")).unwrap().as_str(), "alice:bob");
        assert_eq!(target(&alice, Some("bob"), Some("alice:carol")).unwrap_err().field, "chatId");
        assert_eq!(target(&alice, Some("alice"), None).unwrap_err().field, "friendId");
        assert_eq!(target(&alice, None, None).unwrap_err().field, "friendId");
    }

    #[test]
    fn a_repeat_is_the_same_message_and_another_body_is_another() {
        let id = |temp_id, content, url| draft(temp_id, content, url).unwrap().stamp(1).id;
        assert_eq!(id(Some("t"), "x", None), id(Some("t"), "x", Some("")));
        assert_ne!(id(Some("t"), "x", None), id(Some("t"), "y", None));
        assert_ne!(id(Some("t"), "x", None), id(Some("u"), "x", None));
        assert_ne!(id(Some("t"), "x", None), id(Some("t"), "x", Some("https://example.org")));
        assert_ne!(id(None, "x", None), id(None, "x", None));
    }
}
