//! Messages as gateways would have published them, and documents as workers would store them.

use anyhow::{Context, Result};
use holdfast_message::record::{self, SCHEMA_VERSION, header};
use holdfast_message::{ChatId, Message, MessageId, UserId};
use mongodb::bson::{Document, doc};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::time::Duration;

use crate::load::content;

/// The chats that messages are spread over.
pub(super) const CHATS: usize = 1000;
/// 2025-06-01, in Unix epoch milliseconds.
const BEGIN: i64 = 1_748_736_000_000;
/// How long Kafka may take for the last of them.
const FLUSH: Duration = Duration::from_secs(60);

/// The `number`th of many messages with 100 bytes of content.
pub(super) fn message(number: usize) -> Result<Message> {
    let chat = number % CHATS;
    let (first, second) = (format!("a{chat}"), format!("b{chat}"));
    let sender = UserId::parse(if (number / CHATS).is_multiple_of(2) { &first } else { &second }).context("a user")?;
    let chat = ChatId::parse(&format!("{first}:{second}")).context("a chat")?;
    let temp_id = format!("t{number}");
    let content = content(100);
    Ok(Message {
        id: MessageId::of_send(&sender, &chat, &temp_id, &content, None, None),
        temp_id: Some(temp_id),
        receiver: chat.other(&sender),
        chat,
        sender,
        content,
        image_url: None,
        public_id: None,
        timestamp: BEGIN + i64::try_from(number).unwrap_or_default(),
    })
}

/// A message as it is stored.
pub(super) fn document(message: &Message) -> Document {
    let mut document = doc! {
        "_id": message.id.to_string(),
        "tempId": message.temp_id.as_deref().unwrap_or_default(),
        "chatId": message.chat.as_str(),
        "senderId": message.sender.as_str(),
        "content": &message.content,
        "timestamp": message.timestamp,
    };
    if let Some(receiver) = &message.receiver {
        document.insert("receiverId", receiver.as_str());
    }
    document
}

/// A chat, and a message to it as gateways publish it.
pub(super) type Record = (ChatId, Vec<u8>);

/// The first `count` messages.
pub(super) fn encoded(count: usize) -> Result<Vec<Record>> {
    let record = |message: Message| (message.chat.clone(), record::encode(&message));
    (0..count).map(|number| message(number).map(record)).collect()
}

/// Publishes records with the gateway's settings, and returns once Kafka has acknowledged all of them. It blocks.
pub(super) fn publish(brokers: &str, topic: &str, records: &[Record]) -> Result<()> {
    let mut config = ClientConfig::new();
    let settings = [
        ("bootstrap.servers", brokers),
        ("linger.ms", "5"),
        ("compression.type", "lz4"),
        ("batch.size", "131072"),
        ("queue.buffering.max.messages", "50000"),
        ("queue.buffering.max.kbytes", "65536"),
        ("partitioner", "murmur2_random"),
        ("enable.idempotence", "true"),
        ("acks", "all"),
    ];
    config.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().context("a producer")?;
    let version = SCHEMA_VERSION.to_string();
    for (chat, value) in records {
        let headers = OwnedHeaders::new()
            .insert(Header { key: header::CONTENT_TYPE, value: Some(record::CONTENT_TYPE) })
            .insert(Header { key: header::SCHEMA_VERSION, value: Some(&version) });
        let mut record = BaseRecord::to(topic).key(chat.as_str()).payload(value).headers(headers);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).context("publishing"),
            }
        }
    }
    producer.flush(FLUSH).context("publishing the last records")
}
