//! What other gateways, workers and repairs announce, given to this gateway's sockets.
//!
//! Each event is for the user whose channel it came by. What this process announced itself is skipped: its sockets were served
//! directly.

use std::time::Duration;

use holdfast_cache::ChannelEvent;
use holdfast_cache::event::{Event, Origin};
use holdfast_cache::keys::Channel;
use holdfast_message::json::{MessageJson, Position};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::deliver::Sockets;
use crate::event::server::{MESSAGE_FAILED, NEW_MESSAGE};

/// Over how long clients are told to `resync` after a gap in what the gateway heard.
const SPREAD: Duration = Duration::from_secs(3);

/// Serves the queue of what is heard until it ends.
pub async fn run(mut heard: mpsc::Receiver<ChannelEvent>, own: Origin, sockets: Sockets) {
    while let Some(event) = heard.recv().await {
        match event {
            ChannelEvent::Heard { event, .. } if event.origin() == own => {}
            ChannelEvent::Heard { channel, event } => hear(channel, event, &sockets),
            ChannelEvent::Resubscribed => {
                tracing::info!("subscriptions were made anew; telling clients to resync");
                let sockets = sockets.clone();
                tokio::spawn(async move { sockets.resync_all(SPREAD).await });
            }
        }
    }
}

fn hear(channel: Channel, event: Event, sockets: &Sockets) {
    match (event, channel) {
        (Event::Message { position, message, .. }, Channel::User(user)) => {
            let position = Position::At { epoch: &position.epoch, seq: position.seq };
            sockets.emit(&user, NEW_MESSAGE, &MessageJson { message: &message, position });
        }
        (Event::Failed { message_id, temp_id, chat, .. }, Channel::User(user)) => {
            let payload = json!({ "messageId": message_id, "tempId": temp_id, "chatId": chat.as_str() });
            sockets.emit(&user, MESSAGE_FAILED, &payload);
        }
        (Event::Live { except, event, payload, .. }, channel) => match serde_json::from_str::<&RawValue>(&payload) {
            Ok(payload) => sockets.live(&channel, except.as_ref(), event, payload),
            Err(error) => tracing::warn!(event = event.name(), %error, "a live event's payload is no JSON"),
        },
        (Event::Disconnect { user, .. }, _) => {
            tracing::info!(%user, "an operator disconnects a user");
            sockets.disconnect(&user);
        }
        (Event::Message { .. } | Event::Failed { .. }, Channel::Group(_)) => {}
    }
}
