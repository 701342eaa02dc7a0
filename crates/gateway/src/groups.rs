//! Groups: made, changed and ended by their members.
//!
//! A change is made to what the store has ([`rules`] says what it becomes), and written only if that is still the same; otherwise it
//! is made anew. Once it is written, every gateway forgets who belonged to it ([`crate::members`]); then this one and the others move the
//! sockets that it concerns, and tell clients `chatUpdated` ([`crate::rooms`]).

pub mod rules;

use std::collections::{BTreeSet, HashSet};

use futures_util::{StreamExt, TryStreamExt, future, stream};
use holdfast_cache::groups::GroupChange;
use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::unix_ms;
use holdfast_store::{Group, Member, Role, StoreError};
use uuid::Uuid;

use self::rules::{Outcome, Wish};
use crate::error::{Code, Refusal};
use crate::inbox::arrivals::Arrivals;
use crate::members::{MAX_GROUPS, MAX_MEMBERS, Membership, no_such_chat};
use crate::relations::Relations;
use crate::rooms::Rooms;
use crate::stored::{self, Stored};

/// The namespace of the groups whose creation can be repeated.
const NAMESPACE: Uuid = Uuid::from_u128(0x9d0c_5f5a_37c1_5a44_b2a8_1f6e_0c44_7be3);
/// How often a change is made anew because somebody else's came first.
const ATTEMPTS: usize = 8;
/// Users whose groups are counted at once.
const COUNTS: usize = 16;

/// Groups. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    stored: Stored,
    membership: Membership,
    relations: Relations,
    rooms: Rooms,
    arrivals: Arrivals,
}

impl Groups {
    /// Groups in this store.
    pub fn new(
        stored: Stored,
        membership: Membership,
        relations: Relations,
        rooms: Rooms,
        arrivals: Arrivals,
    ) -> Self {
        Self { stored, membership, relations, rooms, arrivals }
    }

    /// Makes a group of which `creator` is the owner. With a `key`, every repeat finds the group that the first one made; the
    /// second value says whether this was the first.
    pub async fn create(
        &self,
        creator: &UserId,
        name: &str,
        members: &[UserId],
        key: Option<&str>,
    ) -> Result<(Group, bool), Refusal> {
        let (groups, creator) = (self.clone(), creator.clone());
        let (name, members, key) = (rules::name(name)?, members.to_vec(), key.map(str::to_owned));
        stored::to_its_end(async move { groups.made(&creator, name, &members, key.as_deref()).await }).await
    }

    async fn made(
        &self,
        creator: &UserId,
        name: String,
        members: &[UserId],
        key: Option<&str>,
    ) -> Result<(Group, bool), Refusal> {
        let others: BTreeSet<_> = members.iter().filter(|member| *member != creator).cloned().collect();
        if others.len() >= MAX_MEMBERS {
            let rule = format!("members: a group has at most {MAX_MEMBERS}, its creator included");
            return Err(Refusal::new(Code::Validation, rule));
        }
        let others: Vec<_> = others.into_iter().collect();
        self.relations.may_add(creator, &others).await?;
        self.have_room(others.iter().chain([creator]).cloned().collect()).await?;
        let id = match key {
            Some(key) => Uuid::new_v5(&NAMESPACE, format!("{creator}:{key}").as_bytes()),
            None => Uuid::new_v4(),
        };
        let now = unix_ms();
        let member = |user: &UserId, role| Member { user: user.clone(), role, joined_at: now };
        let group = Group {
            chat: ChatId::group(id),
            name,
            members: [member(creator, Role::Owner)]
                .into_iter()
                .chain(others.iter().map(|user| member(user, Role::Member)))
                .collect(),
            created_by: creator.clone(),
            created_at: now,
            version: 1,
        };
        let made = self.write(async |store| store.create_group(&group).await).await;
        if made.is_err() {
            // It may be made, or be yet.
            self.membership.forget(&group.chat).await;
        }
        if !made? {
            let known = self.get(creator, &group.chat).await;
            return known.map(|group| (group, false));
        }
        let joined = group.members.iter().map(|member| member.user.clone()).collect();
        self.tell(&group, joined, Vec::new()).await;
        Ok((group, true))
    }

    /// A group, for one of its members.
    pub async fn get(&self, user: &UserId, chat: &ChatId) -> Result<Group, Refusal> {
        let group = self.stored.ask(async |store| store.group(chat).await).await.map_err(unavailable)?;
        group.filter(|group| group.member(user).is_some()).ok_or_else(no_such_chat)
    }

    /// Does what somebody wishes. Answers the group as it is then, or `None` if it has ended.
    pub async fn change(&self, actor: &UserId, chat: &ChatId, wish: Wish) -> Result<Option<Group>, Refusal> {
        let (groups, actor, chat) = (self.clone(), actor.clone(), chat.clone());
        stored::to_its_end(async move { groups.changed(&actor, &chat, &wish).await }).await
    }

    async fn changed(&self, actor: &UserId, chat: &ChatId, wish: &Wish) -> Result<Option<Group>, Refusal> {
        for _ in 0..ATTEMPTS {
            let group = self.get(actor, chat).await?;
            let outcome = rules::outcome(&group, actor, wish, unix_ms())?;
            if let Wish::Put(user, _) = wish
                && group.member(user).is_none()
            {
                self.relations.may_add(actor, std::slice::from_ref(user)).await?;
                self.has_room(user.clone()).await?;
            }
            let (written, next) = match &outcome {
                Outcome::Unchanged => return Ok(Some(group)),
                Outcome::Becomes(next) => {
                    (self.write(async |store| store.replace_group(next).await).await, next.clone())
                }
                Outcome::Ends => {
                    let ended = Group { members: Vec::new(), ..group.clone() };
                    (self.write(async |store| store.delete_group(&group).await).await, ended)
                }
            };
            let (before, after) = (users(&group), users(&next));
            let joined: Vec<_> = after.difference(&before).map(|user| (*user).clone()).collect();
            let left: Vec<_> = before.difference(&after).map(|user| (*user).clone()).collect();
            match written {
                Ok(true) => {
                    let next = Group { version: group.version + 1, ..next };
                    self.tell(&next, joined, left).await;
                    return Ok(Some(next).filter(|next| !next.members.is_empty()));
                }
                Ok(false) => {}
                Err(refusal) => {
                    // It may be written, or be yet: whoever it would concern looks for themselves.
                    let joined = joined.into_iter().chain(left).collect();
                    self.membership.forget(chat).await;
                    self.rooms.changed(GroupChange { chat: chat.clone(), joined, left: Vec::new() });
                    return Err(refusal);
                }
            }
        }
        Err(Refusal::unavailable("the group is being changed by others; do it again"))
    }

    /// The group has become this.
    async fn tell(&self, group: &Group, joined: Vec<UserId>, left: Vec<UserId>) {
        let moved = joined.iter().chain(&left).cloned().collect();
        // First, for whoever is told acts on it.
        self.membership.changed(&group.chat).await;
        self.rooms.changed(GroupChange { chat: group.chat.clone(), joined, left });
        self.arrivals.moved(moved);
        // Derived; whoever reads conversations mends it.
        if let Err(error) = self.stored.ask(async |store| store.set_members(group).await).await {
            tracing::debug!(chat_id = %group.chat, %error, "a group's conversation does not know its members yet");
        }
    }

    /// Refuses if one of these users belongs to as many groups as anybody may.
    async fn have_room(&self, users: Vec<UserId>) -> Result<(), Refusal> {
        let counts = users.into_iter().map(|user| self.has_room(user));
        stream::iter(counts).buffer_unordered(COUNTS).try_for_each(|()| future::ready(Ok(()))).await
    }

    async fn has_room(&self, user: UserId) -> Result<(), Refusal> {
        let most = u64::from(MAX_GROUPS);
        let count = self.stored.ask(async |store| store.count_groups_of(&user, most).await).await;
        if count.map_err(unavailable)? < most {
            return Ok(());
        }
        Err(Refusal::new(Code::Validation, format!("{user} belongs to {most} groups, which is the most")))
    }

    async fn write(
        &self,
        call: impl AsyncFnOnce(&holdfast_store::Store) -> Result<bool, StoreError>,
    ) -> Result<bool, Refusal> {
        self.stored.ask(call).await.map_err(unavailable)
    }
}

fn users(group: &Group) -> HashSet<&UserId> {
    group.members.iter().map(|member| &member.user).collect()
}

fn unavailable(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) => Refusal::unavailable("the groups can't be read or written now"),
        StoreError::Rejected { .. } => {
            tracing::error!(%error, "the store refuses a question about groups");
            Refusal::new(Code::Internal, "a fault of the server")
        }
    }
}
