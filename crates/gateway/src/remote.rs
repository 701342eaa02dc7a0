//! Gives what other gateways, workers and repairs announce to this gateway's sockets.
//!
//! Each event is for the user or the group whose channel it came by. An event of this process's own origin is skipped: its sockets were served directly.

use std::time::Duration;

use holdfast_cache::ChannelEvent;
use holdfast_cache::event::{Event, Origin};
use holdfast_keys::Channel;
use holdfast_message::json::Position;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::deliver::rooms::Rooms;
use crate::deliver::sockets::Sockets;
use crate::inbox::unread::UnreadNotifier;
use crate::presence::Presence;

/// The time over which `resync` is spread after a gap in the subscriptions.
const SPREAD: Duration = Duration::from_secs(3);

/// Works off the queue of events until it ends.
pub(crate) async fn run(
    mut heard: mpsc::Receiver<ChannelEvent>,
    own: Origin,
    sockets: Sockets,
    rooms: Rooms,
    unread_notifier: UnreadNotifier,
    presence: Presence,
) {
    while let Some(event) = heard.recv().await {
        match event {
            ChannelEvent::Heard { event, .. } if event.origin() == own => {}
            ChannelEvent::Heard { channel, event } => hear(&channel, event, &sockets, &rooms, &unread_notifier),
            ChannelEvent::Resubscribed => {
                tracing::info!("subscriptions were made again; sending resync to clients");
                presence.renew();
                let (sockets, rooms) = (sockets.clone(), rooms.clone());
                // Who belongs where may have changed meanwhile, too.
                tokio::spawn(async move { tokio::join!(rooms.recheck(), sockets.resync_all(SPREAD)) });
            }
        }
    }
}

fn hear(channel: &Channel, event: Event, sockets: &Sockets, rooms: &Rooms, unread_notifier: &UnreadNotifier) {
    match event {
        Event::Message { position, message, .. } => {
            let position = Position::At { epoch: &position.epoch, seq: position.seq };
            let audience = sockets.subscribers(channel);
            sockets.message(&audience, &message, position);
            unread_notifier.message_given(&audience, &message);
        }
        Event::Failed { message_id, temp_id, chat, .. } => {
            sockets.failed(&sockets.subscribers(channel), message_id, temp_id.as_deref(), &chat);
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
