//! `failed export`: entries as JSON lines, so that nothing is lost whatever is done next.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_failed_queue::FailedQueue;
use serde_json::{Value, json};

use super::{Entry, PAGE};
use crate::args::FailedExport;
use crate::exit::Verdict;
use crate::output::{Output, Progress};

/// Writes a line for each entry. `bytes` is what lies in the list, which no other field replaces.
pub async fn run(queue: &FailedQueue, args: &FailedExport, output: &mut Output<'_>) -> Result<Verdict> {
    let chats = if args.chats.is_empty() { super::all_chats(queue).await? } else { args.chats.clone() };
    let mut progress = Progress::new("exported", 0);
    for chat in &chats {
        let mut index = 0;
        loop {
            let entries = super::page(queue, chat, args.dead, index, PAGE).await?;
            if entries.is_empty() {
                break;
            }
            progress.add(entries.len() as u64);
            for entry in &entries {
                let mut line = describe(entry, args.with_content);
                line["chatId"] = json!(chat.as_str());
                line["list"] = json!(if args.dead { "dead" } else { "waiting" });
                line["index"] = json!(index);
                output.object(&line)?;
                index += 1;
            }
        }
    }
    Ok(Verdict::Fine)
}

fn describe(entry: &Entry, with_content: bool) -> Value {
    let mut line = json!({ "bytes": STANDARD.encode(&entry.bytes) });
    if let Some((at, reason)) = &entry.buried {
        line["buriedAt"] = json!(at);
        line["reason"] = json!(reason);
    }
    if let Ok(queued) = &entry.queued {
        line["queuedAt"] = json!(queued.queued_at);
        line["traceparent"] = json!(queued.traceparent);
        line["record"] = json!(STANDARD.encode(&queued.record));
    }
    match entry.message() {
        Ok(message) => {
            line["messageId"] = json!(message.id);
            line["tempId"] = json!(message.temp_id);
            line["senderId"] = json!(message.sender.as_str());
            line["receiverId"] = json!(message.receiver.as_ref().map(|user| user.as_str()));
            line["timestamp"] = json!(message.timestamp);
            if with_content {
                line["content"] = json!(message.content);
                line["imageUrl"] = json!(message.image_url);
                line["publicId"] = json!(message.public_id);
            }
        }
        Err(problem) => line["problem"] = json!(problem),
    }
    line
}
