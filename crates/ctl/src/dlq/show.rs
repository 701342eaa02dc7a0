//! `dlq show`: all that is known of dead letters; content only when asked for.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_kafka::{Admin, KafkaSettings};
use serde_json::{Map, Value, json};

use super::{Letter, Letters};
use crate::args::DlqShow;
use crate::exit::Verdict;
use crate::output::Output;
use crate::time;

/// The limit when `--limit` is not given.
const LIMIT: usize = 20;

/// Prints all fields of each dead letter.
pub async fn run(admin: &Admin, kafka: &KafkaSettings, args: &DlqShow, output: &mut Output<'_>) -> Result<Verdict> {
    let mut letters = Letters::open(admin, kafka, &args.filter, LIMIT).await?;
    while let Some(letter) = letters.next().await? {
        let fields = describe(&letter, args.with_content);
        if output.is_json() {
            output.object(&fields)?;
            continue;
        }
        for (name, value) in &fields {
            match (name.as_str(), value) {
                (_, Value::String(text)) => output.note(format!("{name:>12}  {text}"))?,
                ("writtenAt", at) => {
                    output.note(format!("{name:>12}  {}", at.as_i64().map_or("-".into(), time::show)))?;
                }
                (_, value) => output.note(format!("{name:>12}  {value}"))?,
            }
        }
        output.note("")?;
    }
    Ok(Verdict::Fine)
}

fn describe(letter: &Letter, with_content: bool) -> Map<String, Value> {
    let (partition, offset) = letter.place();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("partition", json!(partition));
    put("offset", json!(offset));
    put("writtenAt", json!(letter.written_at()));
    put("reason", json!(letter.reason()));
    if let Some((topic, partition, offset)) = letter.source() {
        put("source", json!(format!("{topic}/{partition}@{offset}")));
    }
    put("key", json!(letter.key().map(text)));
    let headers = letter.original_headers().into_iter();
    put(
        "headers",
        headers.map(|(name, value)| (name.to_owned(), json!(value.map(text)))).collect::<Map<_, _>>().into(),
    );
    put("bytes", json!(letter.value().map_or(0, <[u8]>::len)));
    match letter.message() {
        Ok(message) => {
            put("messageId", json!(message.id));
            put("chatId", json!(message.chat.as_str()));
            put("senderId", json!(message.sender.as_str()));
            put("timestamp", json!(message.timestamp));
            if with_content {
                put("content", json!(message.content));
                put("imageUrl", json!(message.image_url));
                put("publicId", json!(message.public_id));
            }
        }
        Err(error) => {
            put("problem", json!(error.to_string()));
        }
    }
    if with_content {
        put("value", json!(letter.value().map(|value| STANDARD.encode(value))));
    }
    fields
}
