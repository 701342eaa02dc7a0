//! Tells of who came online, or has gone.
//!
//! Takes users from the [`Keeper`](super::Keeper); tells those who share a chat with them what the cache says right then. Of whom it
//! can't, for store or cache are away, it tells later. So many wait and no more; what finds no room is dropped and counted.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use holdfast_cache::presence::{Online, Seen};
use holdfast_keys::Channel;
use holdfast_message::UserId;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{BUDGET, CAPACITY};
use crate::error::{Code, Refusal};
use crate::live::{Dropped, Live, LiveEvent};
use crate::members::Membership;
use crate::metrics::Metrics;
use crate::relations::Relations;
use crate::stored::Stored;

/// Users who are told of one user's coming or going.
pub const MAX_TOLD: usize = 500;
/// Groups whose members are told.
const MAX_GROUPS: usize = 50;
/// How often it is tried whether somebody can be told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether somebody is online.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PresenceTold)]
pub(crate) struct Told<'a> {
    /// Who.
    user_id: &'a str,
    /// Whether any of their devices is connected.
    online: bool,
    /// When they were last there, in Unix epoch milliseconds.
    last_seen: i64,
}

/// Tells those who share a chat with a user.
pub struct Teller {
    changes: mpsc::Receiver<UserId>,
    online: Online,
    company: Company,
    live: Live,
    metrics: Metrics,
}

/// Who shares a chat with whom, and may see them there.
pub struct Company {
    /// The store, which knows of direct chats.
    pub stored: Stored,
    /// The members of groups.
    pub membership: Membership,
    /// Who blocks whom.
    pub relations: Relations,
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
    pub async fn run(mut self, stop: CancellationToken) {
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
        let told = Told { user_id: user.as_str(), online, last_seen };
        self.live.tell(company.into_iter().map(Channel::User), None, LiveEvent::Presence, &told);
        Ok(())
    }
}

impl Company {
    /// Those who share a chat with this user, [`MAX_TOLD`] at most: the partners of the newest direct chats first. Where one blocks
    /// the other, neither sees the other.
    async fn of(&self, user: &UserId) -> Result<HashSet<UserId>, Refusal> {
        let partners = self.stored.ask(async |store| store.partners(user, MAX_TOLD).await).await;
        let partners = partners.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let mut company: HashSet<_> = partners.into_iter().collect();
        for group in self.membership.groups_of(user).await?.iter().take(MAX_GROUPS) {
            if company.len() >= MAX_TOLD {
                break;
            }
            let room = MAX_TOLD - company.len();
            let members = match self.membership.of(group).await {
                Ok(members) => members,
                // It has just ended.
                Err(refusal) if refusal.code == Code::NotFound => continue,
                Err(refusal) => return Err(refusal),
            };
            let others: Vec<_> =
                members.iter().filter(|member| *member != user && !company.contains(*member)).collect();
            company.extend(others.into_iter().take(room).cloned());
        }
        let others: Vec<_> = company.iter().cloned().collect();
        for hidden in self.relations.hidden_from(user, &others).await? {
            company.remove(&hidden);
        }
        Ok(company)
    }
}
