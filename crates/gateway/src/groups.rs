//! Groups: created, changed and ended by their members.
//!
//! A change is made to what the store has ([`rules`] decides what it becomes), and written only if that is still the same; otherwise it is computed
//! again. Once it is written, every gateway forgets the group's members ([`crate::access::membership`]); then this one and the others update the rooms
//! of the sockets that it concerns, and send clients `chatUpdated` ([`crate::deliver::rooms`]).
//!
//! Nobody can use up a user's groups: one in which the user never acted ([`crate::access::activity`]) gives way to another ([`allowance`]).

pub(crate) mod allowance;
pub(crate) mod rules;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use holdfast_cache::groups::GroupChange;
use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::unix_ms;
use holdfast_store::{Group, Member, Role, StoreError};
use uuid::Uuid;

use self::rules::{GroupCommand, Outcome};
use crate::access::activity::GroupActivity;
use crate::access::membership::{MAX_GROUPS, MAX_MEMBERS, Membership, no_such_chat};
use crate::access::relationships::Relations;
use crate::deliver::rooms::Rooms;
use crate::guarded_store::{self, GuardedStore};
use crate::inbox::Inbox;
use crate::inbox::updates::InboxUpdates;
use crate::limits::Limits;
use crate::refusal::{Code, Refusal};

/// The namespace of the groups whose creation can be repeated.
const NAMESPACE: Uuid = Uuid::from_u128(0x9d0c_5f5a_37c1_5a44_b2a8_1f6e_0c44_7be3);
/// How often a change is computed because another one was written first.
const ATTEMPTS: usize = 8;
/// The event name under which members that are added to groups count against `EVENT_LIMIT`.
const ADDED: &str = "addMembers";
/// The event name under which groups that are left together count.
const LEFT: &str = "leaveGroups";
/// Groups of one request that are left at the same time.
const LEAVING: usize = 8;

/// Groups. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Groups {
    stored: GuardedStore,
    membership: Membership,
    relations: Relations,
    limits: Arc<Limits>,
    rooms: Rooms,
    updates: InboxUpdates,
    inbox: Inbox,
    activity: GroupActivity,
}

/// What is to be written of a group, and whose groups it changes.
struct Change {
    /// As it is to be; with the stored version, unless it is new.
    group: Group,
    is_new: bool,
    joined: Vec<UserId>,
    left: Vec<UserId>,
}

impl Groups {
    /// Groups in this store.
    pub(crate) fn new(
        stored: GuardedStore,
        (membership, relations): (Membership, Relations),
        limits: Arc<Limits>,
        (rooms, updates, inbox): (Rooms, InboxUpdates, Inbox),
        activity: GroupActivity,
    ) -> Self {
        Self { stored, membership, relations, limits, rooms, updates, inbox, activity }
    }

    /// Makes a group of which `creator` is the owner. With a `key`, every repeat finds the group that the first one made, unless it
    /// has ended or the creator has left it; the second value says whether this was the first.
    pub(crate) async fn create(
        &self,
        creator: &UserId,
        name: &str,
        members: &[UserId],
        key: Option<&str>,
    ) -> Result<(Group, bool), Refusal> {
        let name = rules::name(name)?;
        let others: BTreeSet<_> = members.iter().filter(|member| *member != creator).cloned().collect();
        if others.len() >= MAX_MEMBERS {
            let rule = format!("members: a group has at most {MAX_MEMBERS}, its creator included");
            return Err(Refusal::new(Code::Validation, rule));
        }
        let others: Vec<_> = others.into_iter().collect();
        let chat = ChatId::group(match key {
            Some(key) => Uuid::new_v5(&NAMESPACE, format!("{creator}:{key}").as_bytes()),
            None => Uuid::new_v4(),
        });
        // A repeat is answered as such, even if the user may no longer create the group.
        if key.is_some()
            && let Some(known) = self.read(&chat).await?
        {
            return Ok((of_member(Some(known), creator)?, false));
        }
        self.may_add(creator, &others).await?;
        self.make_room(creator, &[&others[..], std::slice::from_ref(creator)].concat()).await?;
        let now = unix_ms();
        let member = |user: &UserId, role| Member { user: user.clone(), role, joined_at: now };
        let group = Group {
            chat: chat.clone(),
            name,
            members: [member(creator, Role::Owner)]
                .into_iter()
                .chain(others.iter().map(|user| member(user, Role::Member)))
                .collect(),
            created_by: creator.clone(),
            created_at: now,
            version: 1,
        };
        let joined = group.members.iter().map(|member| member.user.clone()).collect();
        match self.make(Change { group, is_new: true, joined, left: Vec::new() }).await? {
            Some(made) => Ok((made, true)),
            None => self.get(creator, &chat).await.map(|group| (group, false)),
        }
    }

    /// A group, for one of its members.
    pub(crate) async fn get(&self, user: &UserId, chat: &ChatId) -> Result<Group, Refusal> {
        of_member(self.read(chat).await?, user)
    }

    /// Carries out a command. Returns the group as it is then, or `None` if it has ended.
    pub(crate) async fn change(
        &self,
        actor: &UserId,
        chat: &ChatId,
        command: &GroupCommand,
    ) -> Result<Option<Group>, Refusal> {
        for _ in 0..ATTEMPTS {
            let group = self.get(actor, chat).await?;
            let outcome = rules::outcome(&group, actor, command, unix_ms())?;
            if let GroupCommand::Put(user, _) = command
                && group.member(user).is_none()
            {
                self.may_add(actor, std::slice::from_ref(user)).await?;
                self.make_room(actor, std::slice::from_ref(user)).await?;
            }
            if let Some(after) = self.carry_out(group, outcome).await? {
                if !matches!(command, GroupCommand::Remove(user) if user == actor) {
                    self.activity.record(actor, chat);
                }
                return Ok(after);
            }
        }
        Err(changed_by_others())
    }

    /// Leaves groups. Returns those that the user does not belong to now, whether or not they did, and why they still belong to the others; if
    /// they still belong to all, it is a refusal.
    pub(crate) async fn leave_many(
        &self,
        user: &UserId,
        chats: &[ChatId],
    ) -> Result<(Vec<ChatId>, Vec<(ChatId, Refusal)>), Refusal> {
        self.limits.pass_many(user, LEFT, chats.len()).await?;
        let chats: BTreeSet<_> = chats.iter().cloned().collect();
        let leave = |chat: ChatId| {
            let (groups, user) = (self.clone(), user.clone());
            async move {
                let done = groups.leave(&user, &chat).await;
                (chat, done)
            }
        };
        let leaves: Vec<_> = chats.into_iter().map(leave).collect();
        let done: Vec<_> = stream::iter(leaves).buffered(LEAVING).collect().await;
        let (mut left, mut remaining) = (Vec::new(), Vec::new());
        for (chat, done) in done {
            match done {
                Ok(()) => left.push(chat),
                Err(refusal) => remaining.push((chat, refusal)),
            }
        }
        if left.is_empty()
            && let Some((_, refusal)) = remaining.first()
        {
            return Err(refusal.clone());
        }
        Ok((left, remaining))
    }

    /// Removes a user from a group, if they belong to it.
    async fn leave(&self, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        for _ in 0..ATTEMPTS {
            let Some(group) = self.read(chat).await?.filter(|group| group.member(user).is_some()) else {
                return Ok(());
            };
            let outcome = rules::outcome(&group, user, &GroupCommand::Remove(user.clone()), unix_ms())?;
            if self.carry_out(group, outcome).await?.is_some() {
                return Ok(());
            }
        }
        Err(changed_by_others())
    }

    /// Writes what becomes of a group. Returns it as it is then, or `Some(None)` if it has ended; `None`: another change was written first.
    async fn carry_out(&self, group: Group, outcome: Outcome) -> Result<Option<Option<Group>>, Refusal> {
        let next = match outcome {
            Outcome::Unchanged => return Ok(Some(Some(group))),
            Outcome::Becomes(next) => next,
            // Stored without members, so that the key that created it does not create it again, with all that was written there.
            Outcome::Ends => Group { members: Vec::new(), ..group.clone() },
        };
        let (before, after) = (users(&group), users(&next));
        let joined: Vec<_> = after.difference(&before).map(|user| (*user).clone()).collect();
        let left: Vec<_> = before.difference(&after).map(|user| (*user).clone()).collect();
        let made = self.make(Change { group: next, is_new: false, joined, left }).await?;
        Ok(made.map(|made| Some(made).filter(|made| !made.members.is_empty())))
    }

    /// Writes a change and announces it, in a task of its own: a disconnect halfway must not leave other gateways with the old members. Returns the
    /// group as it is then, or `None` if another change was written first.
    async fn make(&self, change: Change) -> Result<Option<Group>, Refusal> {
        let groups = self.clone();
        guarded_store::run_detached(async move { groups.write(change).await }).await
    }

    async fn write(&self, change: Change) -> Result<Option<Group>, Refusal> {
        let Change { group, is_new, joined, left } = change;
        if !is_new {
            // Before the write: if this gateway ended in between, everything would be unread.
            for user in &joined {
                self.inbox.begin(user, &group.chat).await?;
            }
        }
        let written = self.stored.call(async |store| match is_new {
            true => store.create_group(&group).await,
            false => store.replace_group(&group).await,
        });
        match written.await {
            Ok(true) => {
                let version = group.version + i64::from(!is_new);
                let group = Group { version, ..group };
                // Before the announcement, which others act on.
                self.membership.forget(&group.chat).await;
                self.announce(&group.chat, joined, left);
                self.membership.learn(&group.chat).await;
                // Derived: conversations are read without it.
                if let Err(error) = self.stored.call(async |store| store.set_members(&group).await).await {
                    tracing::debug!(chat_id = %group.chat, %error, "a group's conversation does not know its members yet");
                }
                Ok(Some(group))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                // It may be written, now or later: the rooms of whoever it would concern are read again.
                self.membership.forget(&group.chat).await;
                self.announce(&group.chat, joined.into_iter().chain(left).collect(), Vec::new());
                Err(unavailable(error))
            }
        }
    }

    fn announce(&self, chat: &ChatId, joined: Vec<UserId>, left: Vec<UserId>) {
        let moved: Vec<_> = joined.iter().chain(&left).cloned().collect();
        for user in &moved {
            self.activity.forget(user, chat);
        }
        self.rooms.changed(GroupChange { chat: chat.clone(), joined, left });
        self.updates.moved(moved);
    }

    async fn read(&self, chat: &ChatId) -> Result<Option<Group>, Refusal> {
        self.stored.call(async |store| store.group(chat).await).await.map_err(unavailable)
    }

    /// Refuses if a user may not add one of these, or adds too many: each member counts.
    async fn may_add(&self, user: &UserId, others: &[UserId]) -> Result<(), Refusal> {
        if !others.is_empty() {
            self.limits.pass_many(user, ADDED, others.len()).await?;
            self.relations.may_add(user, others).await?;
        }
        Ok(())
    }

    /// Makes room for one more group of each of these users, or refuses. The refusal does not say whose groups are too many.
    async fn make_room(&self, adder: &UserId, users: &[UserId]) -> Result<(), Refusal> {
        let full = self.stored.call(async |store| store.in_many_groups(users, MAX_GROUPS).await).await;
        for user in full.map_err(unavailable)? {
            let groups = self.stored.call(async |store| store.memberships(&user, 2 * MAX_GROUPS).await).await;
            let Some(giving_way) = allowance::giving_way(groups.map_err(unavailable)?, &user, adder) else {
                let rule = "one of the members belongs to as many groups as anybody may";
                return Err(Refusal::new(Code::Validation, rule));
            };
            for chat in giving_way {
                tracing::debug!(chat_id = %chat, "a group in which a member never acted gives way to another");
                self.leave(&user, &chat).await?;
            }
        }
        Ok(())
    }
}

fn changed_by_others() -> Refusal {
    Refusal::unavailable("the group is being changed by others; do it again")
}

/// A group, if there is one and this user belongs to it.
fn of_member(group: Option<Group>, user: &UserId) -> Result<Group, Refusal> {
    group.filter(|group| group.member(user).is_some()).ok_or_else(no_such_chat)
}

fn users(group: &Group) -> HashSet<&UserId> {
    group.members.iter().map(|member| &member.user).collect()
}

fn unavailable(error: StoreError) -> Refusal {
    guarded_store::refusal_of(&error, "the groups can't be read or written now")
}
