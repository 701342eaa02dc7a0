//! Who writes to whom: friends two by two or everybody, and groups of some of them.

use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use holdfast_message::{ChatId, UserId};
use holdfast_testkit::{token, unique};
use serde_json::json;

use super::LoadOptions;
use crate::insist;

/// A chat that a user writes to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// The direct chat with this user.
    Friend(String),
    /// The group with this chat id.
    Group(String),
}

/// Who writes to whom.
pub(super) struct Company {
    /// The user ids.
    pub(super) users: Vec<String>,
    /// The chats that each user writes to, in the order of `users`.
    pub(super) targets: Vec<Vec<Target>>,
}

impl Company {
    /// Names the users, and creates their groups.
    ///
    /// # Errors
    /// A group can't be created.
    pub(super) async fn gather(options: &LoadOptions, rng: &mut Rng) -> Result<Self> {
        let run = unique("load");
        let users: Vec<_> =
            (0..options.pairs).flat_map(|pair| ["a", "b"].map(|name| format!("{run}-{pair}{name}"))).collect();
        let friends = |one: usize, other: usize| one != other && (options.mesh || one / 2 == other / 2);
        let of = |one: usize| (0..users.len()).filter(move |other| friends(one, *other));
        let mut targets: Vec<Vec<_>> =
            (0..users.len()).map(|one| of(one).map(|other| Target::Friend(users[other].clone())).collect()).collect();
        for number in 0..options.groups {
            let mut members: Vec<_> = (0..users.len()).collect();
            rng.shuffle(&mut members);
            members.truncate(rng.usize(3..=6));
            let names: Vec<_> = members.iter().map(|member| &users[*member]).collect();
            let token = token(names[0], &options.secret, Duration::from_secs(3600));
            let headers = [
                format!("authorization: Bearer {token}"),
                "content-type: application/json".into(),
                format!("idempotency-key: group-{number}"),
            ];
            let body = json!({ "name": format!("group {number}"), "members": names[1..] }).to_string();
            let made = insist(&options.gateways[0], "POST", "/api/chats", &headers, &body).await?;
            let id = made.body["chatId"].as_str().with_context(|| format!("no group: {made:?}"))?;
            for member in members {
                targets[member].push(Target::Group(id.to_owned()));
            }
        }
        Ok(Self { users, targets })
    }
}

impl Target {
    /// The chat's id.
    pub(super) fn chat(&self, user: &str) -> Result<String> {
        Ok(match self {
            Self::Friend(friend) => ChatId::direct(&UserId::parse(user)?, &UserId::parse(friend)?)?.to_string(),
            Self::Group(id) => id.clone(),
        })
    }
}
