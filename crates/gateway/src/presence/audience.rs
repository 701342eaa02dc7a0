//! Who is notified of a user's presence: the users who share a chat with them.

use std::collections::HashSet;

use holdfast_message::UserId;

use crate::access::membership::Membership;
use crate::access::relationships::Relations;
use crate::guarded_store::GuardedStore;
use crate::refusal::{Code, Refusal};

/// Users who are notified of one user's coming or going, at most.
pub(crate) const MAX_AUDIENCE: usize = 500;
/// Groups whose members are notified.
const MAX_GROUPS: usize = 50;
/// Finds the users who share a chat with a user and may see them.
pub(crate) struct PresenceAudience {
    /// Finds partners of direct chats.
    pub(crate) stored: GuardedStore,
    /// The members of groups.
    pub(crate) membership: Membership,
    /// Who blocks whom.
    pub(crate) relations: Relations,
}

impl PresenceAudience {
    /// The users who share a chat with this one, [`MAX_AUDIENCE`] at most: the partners of the newest direct chats first. Users who block
    /// each other are left out.
    pub(super) async fn of(&self, user: &UserId) -> Result<HashSet<UserId>, Refusal> {
        let partners = self.stored.call(async |store| store.partners(user, MAX_AUDIENCE).await).await;
        let partners = partners.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let mut audience: HashSet<_> = partners.into_iter().collect();
        for group in self.membership.groups_of(user).await?.iter().take(MAX_GROUPS) {
            if audience.len() >= MAX_AUDIENCE {
                break;
            }
            let room = MAX_AUDIENCE - audience.len();
            let members = match self.membership.of(group).await {
                Ok(members) => members,
                // It has just ended.
                Err(refusal) if refusal.code == Code::NotFound => continue,
                Err(refusal) => return Err(refusal),
            };
            let others: Vec<_> =
                members.iter().filter(|member| *member != user && !audience.contains(*member)).collect();
            audience.extend(others.into_iter().take(room).cloned());
        }
        let others: Vec<_> = audience.iter().cloned().collect();
        for hidden in self.relations.hidden_from(user, &others).await? {
            audience.remove(&hidden);
        }
        Ok(audience)
    }
}
