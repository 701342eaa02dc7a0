//! `groups`: who belongs to a group chat, and as what.
//!
//! A group changes as a whole. A change reads the group first, and writes it only if its `version` is still the one that was read
//! ([`Store::replace_group`]), so that no change is lost and no rule about the whole group is broken by two changes at once.
//!
//! A group without members has ended. Its document is never deleted, so that no new group can get its id, and with it its messages.
//!
//! See `docs/decisions/group-ownership.md`.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, UserId};
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};
use tokio::time::Instant;

use crate::insert::number;
use crate::query::batch;
use crate::time::millis_in;
use crate::{Store, StoreError, server_limit, within};

/// The index by which a user's groups are found.
pub(crate) const INDEX: &str = "members.userId_1";
const DUPLICATE_KEY: i32 = 11000;
/// The most users whose groups one query counts.
const MAX_USERS: usize = 100;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Writes and reads.
    Member,
    /// Renames the group, adds members and removes them.
    Admin,
    /// Everything; each group has one.
    Owner,
}

impl Role {
    /// As stored and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// As what.
    pub role: Role,
    /// Since when, in Unix epoch milliseconds.
    pub joined_at: i64,
}

/// A group, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The chat.
    pub chat: ChatId,
    /// What it is called.
    pub name: String,
    /// In the order in which they joined; none: it has ended.
    pub members: Vec<Member>,
    /// Who made it.
    pub created_by: UserId,
    /// When, in Unix epoch milliseconds.
    pub created_at: i64,
    /// Rises with every change.
    pub version: i64,
}

impl Group {
    /// One member.
    pub fn member(&self, user: &UserId) -> Option<&Member> {
        self.members.iter().find(|member| member.user == *user)
    }
}

/// That a user belongs to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub chat: ChatId,
    /// Who made it.
    pub created_by: UserId,
    /// How many belong to it.
    pub members: usize,
    /// Since when this user does, in Unix epoch milliseconds.
    pub joined_at: i64,
    /// Whether this user made it, or has written, read or changed something there since.
    pub acted: bool,
}

impl Store {
    /// Stores a new group; false if there is one with this id already.
    pub async fn create_group(&self, group: &Group) -> Result<bool, StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let document = doc! {
            "_id": group.chat.as_str(),
            "name": &group.name,
            "members": members(group),
            "createdBy": group.created_by.as_str(),
            "createdAt": group.created_at,
            "version": group.version,
        };
        let inserted = within(deadline, async {
            match self.groups().insert_one(document).await {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            }
        });
        inserted.await
    }

    /// A group, if there is one.
    pub async fn group(&self, chat: &ChatId) -> Result<Option<Group>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let groups = self.groups();
        let query = groups.find_one(doc! { "_id": chat.as_str() }).max_time(server_limit(self.read_timeout));
        let Some(stored) = within(deadline, query).await? else { return Ok(None) };
        decode(&stored).map(Some).ok_or_else(|| StoreError::Rejected {
            code: None,
            reason: format!("the stored group {chat} has another shape"),
        })
    }

    /// Who belongs to each of these groups. What is no group, or has ended, is not in the answer.
    pub async fn rosters(&self, chats: &[ChatId]) -> Result<HashMap<ChatId, Vec<UserId>>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let ids: Vec<_> = chats.iter().map(ChatId::as_str).collect();
        let groups = self.groups();
        let query = groups
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "members.userId": 1 })
            .batch_size(batch(chats.len()))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut found = HashMap::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                let members = stored.get_array("members").map(Vec::as_slice).unwrap_or_default().iter();
                let members: Vec<_> = members.filter_map(|member| user(member.as_document()?, "userId")).collect();
                let chat = stored.get_str("_id").ok().and_then(|id| ChatId::parse(id).ok());
                found.extend(chat.filter(|_| !members.is_empty()).map(|chat| (chat, members)));
            }
            Ok(found)
        })
        .await
    }

    /// The groups that a user belongs to, at most `limit` of them.
    pub async fn groups_of(&self, user: &UserId, limit: u32) -> Result<Vec<ChatId>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let groups = self.groups();
        let query = groups
            .find(doc! { "members.userId": user.as_str() })
            .projection(doc! { "_id": 1 })
            .limit(limit.into())
            .batch_size(limit.saturating_add(1))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut found = Vec::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                found.extend(stored.get_str("_id").ok().and_then(|id| ChatId::parse(id).ok()));
            }
            Ok(found)
        })
        .await
    }

    /// Which of these users belong to so many groups or more.
    pub async fn in_many_groups(&self, users: &[UserId], many: u32) -> Result<Vec<UserId>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let groups = self.groups();
        // By the index alone, and no further than that many.
        let count = |member: &UserId| -> Vec<Document> {
            vec![
                doc! { "$match": { "members.userId": member.as_str() } },
                doc! { "$limit": i64::from(many) },
                doc! { "$count": "groups" },
                doc! { "$set": { "userId": { "$literal": member.as_str() } } },
            ]
        };
        let mut found = Vec::new();
        for users in users.chunks(MAX_USERS) {
            let mut counts = users.iter().map(count);
            let Some(mut pipeline) = counts.next() else { break };
            pipeline.extend(counts.map(|count| doc! { "$unionWith": { "coll": groups.name(), "pipeline": count } }));
            pipeline.push(doc! { "$match": { "groups": { "$gte": i64::from(many) } } });
            let left = deadline.saturating_duration_since(Instant::now());
            let query = groups.aggregate(pipeline).max_time(server_limit(left));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(counted) = cursor.try_next().await? {
                    found.extend(user(&counted, "userId"));
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    /// The groups that a user belongs to, at most `limit` of them, and what the user has done there. It reads whole groups, and is for users
    /// who have as many as they may.
    pub async fn memberships(&self, member: &UserId, limit: u32) -> Result<Vec<Membership>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let groups = self.groups();
        let own = doc! { "$filter": { "input": "$members", "cond": { "$eq": ["$$this.userId", { "$literal": member.as_str() }] } } };
        let pipeline = vec![
            doc! { "$match": { "members.userId": member.as_str() } },
            doc! { "$limit": i64::from(limit) },
            doc! { "$project": {
                "createdBy": 1,
                "members": { "$size": "$members" },
                "joinedAt": { "$first": { "$map": { "input": own, "in": "$$this.joinedAt" } } },
            } },
        ];
        let left = deadline.saturating_duration_since(Instant::now());
        let query = groups.aggregate(pipeline).max_time(server_limit(left));
        let mut found: Vec<Membership> = within(deadline, async {
            let mut found = Vec::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                found.extend(membership(&stored));
            }
            Ok(found)
        })
        .await?;
        let chats: Vec<_> = found.iter().map(|membership| membership.chat.clone()).collect();
        let acts = self.acts(member, &chats, deadline).await?;
        for membership in &mut found {
            membership.acted = membership.created_by == *member
                || acts.get(&membership.chat).is_some_and(|acts| acts.since(membership.joined_at));
        }
        Ok(found)
    }

    /// Stores name and members of a group, if its version is still the one it has here; the stored one is then one higher. False
    /// if it has been changed meanwhile.
    pub async fn replace_group(&self, group: &Group) -> Result<bool, StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let groups = self.groups();
        let unchanged = doc! { "_id": group.chat.as_str(), "version": group.version };
        let change = doc! { "$set": { "name": &group.name, "members": members(group) }, "$inc": { "version": 1_i64 } };
        let updated = within(deadline, groups.update_one(unchanged, change)).await?;
        Ok(updated.matched_count > 0)
    }

    pub(crate) async fn ensure_group_indexes(&self, deadline: Instant) -> Result<(), StoreError> {
        let index = IndexModel::builder()
            .keys(doc! { "members.userId": 1 })
            .options(IndexOptions::builder().name(INDEX.to_owned()).build())
            .build();
        let groups = self.groups();
        within(deadline, groups.create_index(index)).await.map(drop)
    }

    fn groups(&self) -> Collection<Document> {
        self.db.collection("groups")
    }
}

fn members(group: &Group) -> Vec<Document> {
    let member = |member: &Member| {
        doc! { "userId": member.user.as_str(), "role": member.role.as_str(), "joinedAt": member.joined_at }
    };
    group.members.iter().map(member).collect()
}

fn decode(stored: &Document) -> Option<Group> {
    let member = |member: &mongodb::bson::Bson| {
        let member = member.as_document()?;
        Some(Member {
            user: user(member, "userId")?,
            role: Role::parse(member.get_str("role").ok()?)?,
            joined_at: millis_in(member, "joinedAt")?,
        })
    };
    Some(Group {
        chat: ChatId::parse(stored.get_str("_id").ok()?).ok()?,
        name: stored.get_str("name").ok()?.to_owned(),
        members: stored.get_array("members").ok()?.iter().map(member).collect::<Option<_>>()?,
        created_by: user(stored, "createdBy")?,
        created_at: millis_in(stored, "createdAt")?,
        version: number(stored, "version")?,
    })
}

fn membership(stored: &Document) -> Option<Membership> {
    Some(Membership {
        chat: ChatId::parse(stored.get_str("_id").ok()?).ok()?,
        created_by: user(stored, "createdBy")?,
        members: usize::try_from(stored.get_i32("members").ok()?).ok()?,
        joined_at: stored.get_i64("joinedAt").ok()?,
        acted: false,
    })
}

fn user(document: &Document, field: &str) -> Option<UserId> {
    UserId::parse(document.get_str(field).ok()?).ok()
}

pub(crate) fn is_duplicate(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        // So `findAndModify` says it.
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}
