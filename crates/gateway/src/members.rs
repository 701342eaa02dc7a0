//! Who belongs to a chat.
//!
//! A direct chat's id names its two users. A group's members lie in MongoDB; what was read of them is kept in this process, forgotten
//! everywhere when they change ([`crate::rooms`]), and still holds for some minutes while the store is away.

use std::sync::Arc;
use std::time::Duration;

use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};
use holdfast_store::StoreError;

use crate::decisions::Decisions;
use crate::error::{Code, Refusal};
use crate::stored::Stored;

/// The most members of a group.
pub const MAX_MEMBERS: usize = 1000;
/// The most groups of a user, and so the most channels that a user's sockets need.
pub const MAX_GROUPS: u32 = 1000;
/// What the store has to say who belongs to a chat. A send to a group of which nothing is known waits for it: without, it is refused.
pub const WITHIN: Duration = Duration::from_secs(1);
/// How many members of all groups together are kept; about 50 MB.
const KEPT: u64 = 500_000;

/// The members of a group, sorted; `None`: there is no such group.
type Roster = Option<Arc<[UserId]>>;

/// Membership, as the store has it. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    stored: Stored,
    rosters: Decisions<Roster>,
}

impl Membership {
    /// Membership in this store.
    pub fn new(stored: Stored) -> Self {
        let weigh = |roster: &Roster| roster.as_ref().map_or(1, |members| members.len() as u32 + 1);
        Self { stored, rosters: Decisions::new(KEPT, weigh) }
    }

    /// The members of a chat, sorted: the two users of a direct chat, or those of a group.
    pub async fn of(&self, chat: &ChatId) -> Result<Arc<[UserId]>, Refusal> {
        if let Members::Direct(first, second) = chat.members() {
            return Ok([first, second].into());
        }
        let (stored, group) = (self.stored.clone(), chat.clone());
        let load = async move {
            let rosters = stored.ask_within(WITHIN, async |store| store.rosters(std::slice::from_ref(&group)).await);
            Ok::<_, StoreError>(rosters.await?.remove(&group).map(|mut members| {
                members.sort_unstable();
                members.into()
            }))
        };
        match self.rosters.get(chat, WITHIN, load).await {
            Ok(roster) => roster.ok_or_else(no_such_chat),
            Err(error) => Err(unknown(chat, &error)),
        }
    }

    /// The members of a chat, if they are known without asking.
    pub fn known(&self, chat: &ChatId) -> Option<Result<Arc<[UserId]>, Refusal>> {
        match chat.members() {
            Members::Direct(first, second) => Some(Ok([first, second].into())),
            Members::Group => self.rosters.fresh(chat).map(|roster| roster.ok_or_else(no_such_chat)),
        }
    }

    /// The groups that a user belongs to now.
    pub async fn groups_of(&self, user: &UserId) -> Result<Vec<ChatId>, Refusal> {
        let groups = self.stored.ask_within(WITHIN, async |store| store.groups_of(user, MAX_GROUPS).await).await;
        groups.map_err(|error| {
            tracing::debug!(%user, %error, "a user's groups can't be read");
            Refusal::unavailable("the groups can't be read now")
        })
    }

    /// A group's members have changed.
    pub fn forget(&self, chat: &ChatId) {
        self.rosters.forget(chat);
    }
}

/// What a group is for whoever does not belong to it, too: nobody learns which groups there are.
pub fn no_such_chat() -> Refusal {
    Refusal::new(Code::NotFound, "no such chat")
}

fn unknown(chat: &ChatId, error: &StoreError) -> Refusal {
    tracing::debug!(chat_id = %chat, %error, "the members of a group are not known");
    Refusal::unavailable("the members of the group can't be read now")
}
