//! Notifies of users who came online or went.
//!
//! Takes users from the [`PresenceWriter`](super::writer::PresenceWriter); sends what the cache says of them at that moment to the users who share a chat with them. While
//! store or cache are away, users wait to be notified of later; a user who finds no room is dropped and counted.
//!
//! See `docs/decisions/presence-events.md`.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_cache::presence::{Online, Seen};
use holdfast_keys::Channel;
use holdfast_message::UserId;
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::audience::PresenceAudience;
use super::{BUDGET, CAPACITY};
use crate::deliver::ephemeral::{EphemeralEvents, LiveEvent};
use crate::metrics::{Dropped, Metrics};
use crate::refusal::Refusal;
use crate::wire::events::PresenceEvent;

/// How often a notification that failed is attempted again.
const AGAIN: Duration = Duration::from_secs(1);

/// Notifies the users who share a chat with a user.
pub(crate) struct PresenceNotifier {
    changes: mpsc::Receiver<UserId>,
    online: Online,
    audience: PresenceAudience,
    ephemeral: EphemeralEvents,
    metrics: Metrics,
}

impl PresenceNotifier {
    /// Takes users from this queue.
    pub(super) fn new(
        changes: mpsc::Receiver<UserId>,
        online: Online,
        audience: PresenceAudience,
        ephemeral: EphemeralEvents,
        metrics: Metrics,
    ) -> Self {
        Self { changes, online, audience, ephemeral, metrics }
    }

    /// Notifies of one user after the other, until the token is cancelled; failed ones again later. It leaves room in the queue of ephemeral
    /// events for others.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let notify = async {
            let mut pending = VecDeque::new();
            let mut again = interval(AGAIN);
            loop {
                let user = tokio::select! {
                    _ = again.tick(), if !pending.is_empty() => pending.pop_front(),
                    user = self.changes.recv() => user,
                };
                let Some(user) = user else { return };
                match self.notify(&user).await {
                    Ok(()) => {
                        self.metrics.presence_waiting.dec();
                        again.reset_immediately();
                    }
                    Err(refusal) if pending.len() < CAPACITY => {
                        tracing::debug!(%user, reason = refusal.message, "a user's presence can't be sent yet");
                        pending.push_back(user);
                        again.reset();
                    }
                    Err(_) => {
                        self.metrics.presence_waiting.dec();
                        self.metrics.presence_dropped(Dropped::Full);
                    }
                }
            }
        };
        stop.run_until_cancelled(notify).await;
    }

    async fn notify(&self, user: &UserId) -> Result<(), Refusal> {
        let audience = self.audience.of(user).await?;
        if audience.is_empty() {
            return Ok(());
        }
        self.ephemeral.has_room().await;
        let seen = self.online.look(std::slice::from_ref(user), BUDGET).await;
        let seen = seen.map_err(|error| Refusal::unavailable(error.to_string()))?;
        // The cache has lost this user, who may be online: heartbeats bring them back.
        let Some(&Seen { online, last_seen: Some(last_seen) }) = seen.first() else { return Ok(()) };
        let event = PresenceEvent { user_id: user.as_str(), online, last_seen };
        self.ephemeral.send(audience.into_iter().map(Channel::User), None, LiveEvent::Presence, &event);
        Ok(())
    }
}
