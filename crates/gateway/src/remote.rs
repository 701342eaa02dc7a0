//! What other gateways, workers and repairs announce, given to this gateway's sockets.
//!
//! Each event is for the user or the group whose channel it came by. What this process announced itself is skipped: its sockets were served
//! directly.

use std::time::Duration;

use holdfast_cache::ChannelEvent;
use holdfast_cache::event::{Event, Origin};
use holdfast_cache::keys::Channel;
use holdfast_message::json::Position;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::deliver::rooms::Rooms;
use crate::deliver::sockets::Sockets;
use crate::inbox::unread::Counters;
use crate::presence::Presence;

/// Over how long clients are told to `resync` after a gap in what the gateway heard.
const SPREAD: Duration = Duration::from_secs(3);

/// Serves the queue of what is heard until it ends.
pub(crate) async fn run(
    mut heard: mpsc::Receiver<ChannelEvent>,
    own: Origin,
    sockets: Sockets,
    rooms: Rooms,
    counters: Counters,
    presence: Presence,
) {
    while let Some(event) = heard.recv().await {
        match event {
            ChannelEvent::Heard { event, .. } if event.origin() == own => {}
            ChannelEvent::Heard { channel, event } => hear(&channel, event, &sockets, &rooms, &counters),
            ChannelEvent::Resubscribed => {
                tracing::info!("subscriptions were made anew; telling clients to resync");
                presence.renew();
                let (sockets, rooms) = (sockets.clone(), rooms.clone());
                // Who belongs where may have changed meanwhile, too.
                tokio::spawn(async move { tokio::join!(rooms.recheck(), sockets.resync_all(SPREAD)) });
            }
        }
    }
}

fn hear(channel: &Channel, event: Event, sockets: &Sockets, rooms: &Rooms, counters: &Counters) {
    match event {
        Event::Message { position, message, .. } => {
            let position = Position::At { epoch: &position.epoch, seq: position.seq };
            let audience = sockets.hearing(channel);
            sockets.message(&audience, &message, position);
            counters.given(&audience, &message);
        }
        Event::Failed { message_id, temp_id, chat, .. } => {
            sockets.failed(&sockets.hearing(channel), message_id, temp_id.as_deref(), &chat);
        }
        Event::Live { except, event, payload, .. } => match serde_json::from_str::<&RawValue>(&payload) {
            Ok(payload) => sockets.live(channel, except.as_ref(), event, payload),
            Err(error) => tracing::warn!(event = event.name(), %error, "a live event's payload is no JSON"),
        },
        Event::Group { chat, left, .. } => rooms.heard(channel, &chat, left.as_ref()),
        Event::Disconnect { user, .. } => {
            tracing::info!(%user, "an operator disconnects a user");
            sockets.disconnect(&user);
        }
    }
}
