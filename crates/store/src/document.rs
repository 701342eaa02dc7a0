//! A message as a document: `{ _id: messageId, tempId?, chatId, senderId, receiverId?, content, imageUrl?, publicId?,
//! timestamp: int64 }`. A `timestamp` that another tool wrote is read as its milliseconds ([`crate::time`]).

use holdfast_message::{ChatId, Message, MessageId, UserId};
use mongodb::bson::{RawBsonRef, RawDocument};

use crate::bson::Writer;
use crate::time;

/// Writes the fields into the open document.
pub(crate) fn encode(message: &Message, into: &mut Writer) {
    into.display("_id", message.id);
    if let Some(temp_id) = &message.temp_id {
        into.string("tempId", temp_id);
    }
    into.string("chatId", message.chat.as_str());
    into.string("senderId", message.sender.as_str());
    if let Some(receiver) = &message.receiver {
        into.string("receiverId", receiver.as_str());
    }
    into.string("content", &message.content);
    if let Some(url) = &message.image_url {
        into.string("imageUrl", url);
    }
    if let Some(id) = &message.public_id {
        into.string("publicId", id);
    }
    into.int64("timestamp", message.timestamp);
}

/// The message in a document, or the field that makes it none. Fields that we don't know are left alone.
pub(crate) fn decode(document: &RawDocument) -> Result<Message, &'static str> {
    let (mut id, mut chat, mut sender, mut timestamp) = (None, None, None, None);
    let (mut temp_id, mut content, mut image_url, mut public_id) = (None, None, None, None);
    for element in document {
        let (key, value) = element.map_err(|_| "(malformed)")?;
        match key {
            "_id" => id = value.as_str().and_then(MessageId::parse),
            "chatId" => chat = value.as_str().and_then(|text| ChatId::parse(text).ok()),
            "senderId" => sender = value.as_str().and_then(|text| UserId::parse(text).ok()),
            "timestamp" => timestamp = time::millis(value),
            "tempId" => temp_id = text(value),
            "content" => content = text(value),
            "imageUrl" => image_url = text(value),
            "publicId" => public_id = text(value),
            _ => {}
        }
    }
    let chat = chat.ok_or("chatId")?;
    let sender = sender.ok_or("senderId")?;
    let receiver = chat.other(&sender);
    if receiver.is_none() && !chat.is_group() {
        return Err("senderId");
    }
    Ok(Message {
        id: id.ok_or("_id")?,
        temp_id,
        chat,
        sender,
        receiver,
        content: content.ok_or("content")?,
        image_url,
        public_id,
        timestamp: timestamp.ok_or("timestamp")?,
    })
}

fn text(value: RawBsonRef<'_>) -> Option<String> {
    value.as_str().map(Into::into)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawDocumentBuf, doc};

    use super::*;

    fn message(chat: &str, receiver: Option<&str>) -> Message {
        Message {
            id: MessageId::from_bytes([0xA7; 16]),
            temp_id: None,
            chat: ChatId::parse(chat).unwrap(),
            sender: UserId::parse("alice").unwrap(),
            receiver: receiver.map(|text| UserId::parse(text).unwrap()),
            content: "hé\0".into(),
            image_url: None,
            public_id: None,
            timestamp: 1_700_000_000_000,
        }
    }

    fn encoded(message: &Message) -> RawDocumentBuf {
        let mut writer = Writer::new(0);
        encode(message, &mut writer);
        writer.finish().unwrap()
    }

    #[test]
    fn absent_fields_are_left_out_and_present_ones_come_back() {
        let mut message = message("alice:bob", Some("bob"));
        let expected = doc! {
            "_id": message.id.to_string(), "chatId": "alice:bob", "senderId": "alice", "receiverId": "bob",
            "content": "hé\0", "timestamp": 1_700_000_000_000_i64,
        };
        assert_eq!(encoded(&message).to_document().unwrap(), expected);
        assert_eq!(decode(&encoded(&message)), Ok(message.clone()));
        message.temp_id = Some("t".into());
        message.image_url = Some("https://example.org/a.png".into());
        message.public_id = Some("p".into());
        message.content = String::new();
        assert_eq!(decode(&encoded(&message)), Ok(message));
    }

    #[test]
    fn a_group_message_has_no_receiver() {
        let message = message("g_00000000-0000-0000-0000-0000000000ab", None);
        assert!(!encoded(&message).to_document().unwrap().contains_key("receiverId"));
        assert_eq!(decode(&encoded(&message)), Ok(message));
    }

    #[test]
    fn a_document_that_is_no_message_names_the_field() {
        let good = encoded(&message("alice:bob", Some("bob"))).to_document().unwrap();
        let with = |key: &str, value: mongodb::bson::Bson| {
            let mut document = good.clone();
            document.insert(key, value);
            decode(&RawDocumentBuf::from_document(&document).unwrap()).unwrap_err()
        };
        assert_eq!(with("_id", 5.into()), "_id");
        assert_eq!(with("chatId", "bob:alice".into()), "chatId");
        assert_eq!(with("senderId", "carol".into()), "senderId");
        assert_eq!(with("timestamp", "yesterday".into()), "timestamp");
        assert_eq!(with("content", mongodb::bson::Bson::Null), "content");
    }
}
