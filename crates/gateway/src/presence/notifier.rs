//! Tells of who came online, or has gone.
//!
//! Takes users from the [`Keeper`](super::Keeper); tells those who share a chat with them what the cache says right then. Of whom it
//! can't, for store or cache are away, it tells later. So many wait and no more; what finds no room is dropped and counted.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_cache::keys::Channel;
use holdfast_cache::presence::{Online, Seen};
use holdfast_message::UserId;
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::audience::Company;
use super::{BUDGET, CAPACITY};
use crate::deliver::ephemeral::{Live, LiveEvent};
use crate::metrics::{Dropped, Metrics};
use crate::refusal::Refusal;
use crate::wire::events::PresenceEvent;

/// How often it is tried whether somebody can be told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells those who share a chat with a user.
pub(crate) struct Teller {
    changes: mpsc::Receiver<UserId>,
    online: Online,
    company: Company,
    live: Live,
    metrics: Metrics,
}

impl Teller {
    /// Tells of these.
    pub(super) fn new(
        changes: mpsc::Receiver<UserId>,
        online: Online,
        company: Company,
        live: Live,
        metrics: Metrics,
    ) -> Self {
        Self { changes, online, company, live, metrics }
    }

    /// Tells of one user after the other, until the token is cancelled; of whom it can't, again later. It leaves room in the queue of
    /// live events for others.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let tell = async {
            let mut owed = VecDeque::new();
            let mut again = interval(AGAIN);
            loop {
                let user = tokio::select! {
                    _ = again.tick(), if !owed.is_empty() => owed.pop_front(),
                    user = self.changes.recv() => user,
                };
                let Some(user) = user else { return };
                match self.tell(&user).await {
                    Ok(()) => {
                        self.metrics.presence_waiting.dec();
                        again.reset_immediately();
                    }
                    Err(refusal) if owed.len() < CAPACITY => {
                        tracing::debug!(%user, reason = refusal.message, "nobody can be told of a user's presence yet");
                        owed.push_back(user);
                        again.reset();
                    }
                    Err(_) => {
                        self.metrics.presence_waiting.dec();
                        self.metrics.presence_dropped(Dropped::Full);
                    }
                }
            }
        };
        stop.run_until_cancelled(tell).await;
    }

    async fn tell(&self, user: &UserId) -> Result<(), Refusal> {
        let company = self.company.of(user).await?;
        if company.is_empty() {
            return Ok(());
        }
        self.live.room().await;
        let seen = self.online.look(std::slice::from_ref(user), BUDGET).await;
        let seen = seen.map_err(|error| Refusal::unavailable(error.to_string()))?;
        // Of whom the cache has lost nobody knows whether they have gone; heartbeats bring back who has not.
        let Some(&Seen { online, last_seen: Some(last_seen) }) = seen.first() else { return Ok(()) };
        let event = PresenceEvent { user_id: user.as_str(), online, last_seen };
        self.live.tell(company.into_iter().map(Channel::User), None, LiveEvent::Presence, &event);
        Ok(())
    }
}
