//! Who is notified of a user's presence: the users who share a chat with them.

use std::collections::HashSet;

use holdfast_message::UserId;

use crate::access::membership::Membership;
use crate::access::relationships::Relations;
use crate::guarded_store::Stored;
use crate::refusal::{Code, Refusal};

/// Users who are told of one user's coming or going.
pub(crate) const MAX_AUDIENCE: usize = 500;
/// Groups whose members are told.
const MAX_GROUPS: usize = 50;
/// Finds the users who share a chat with a user and may see them.
pub(crate) struct Company {
    /// The store, which knows of direct chats.
    pub(crate) stored: Stored,
    /// The members of groups.
    pub(crate) membership: Membership,
    /// Who blocks whom.
    pub(crate) relations: Relations,
}

impl Company {
    /// Those who share a chat with this user, [`MAX_AUDIENCE`] at most: the partners of the newest direct chats first. Where one blocks
    /// the other, neither sees the other.
    pub(super) async fn of(&self, user: &UserId) -> Result<HashSet<UserId>, Refusal> {
        let partners = self.stored.ask(async |store| store.partners(user, MAX_AUDIENCE).await).await;
        let partners = partners.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let mut company: HashSet<_> = partners.into_iter().collect();
        for group in self.membership.groups_of(user).await?.iter().take(MAX_GROUPS) {
            if company.len() >= MAX_AUDIENCE {
                break;
            }
            let room = MAX_AUDIENCE - company.len();
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
