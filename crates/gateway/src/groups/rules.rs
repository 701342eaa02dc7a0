//! The rules of a group, as one function of the group, the acting member, their command, and the time.
//!
//! A group has exactly one owner as long as it exists. The owner does everything; admins rename it, add members and remove them;
//! everybody may leave. An owner who leaves is followed by the admin who has been there longest, or else by the member who has; the
//! last one to leave ends the group. Ownership can also be given to another member, and its giver then stays as an admin.
//!
//! See `docs/decisions/group-ownership.md`.

use holdfast_message::{UserId, is_visible};
use holdfast_store::{Group, Member, Role};

use crate::access::membership::{MAX_MEMBERS, no_such_chat};
use crate::refusal::{Code, Refusal};

/// The longest name, in characters.
pub(crate) const MAX_NAME: usize = 100;

/// What a member asks to do to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupCommand {
    /// Another name, as [`name`] made it.
    Rename(String),
    /// Let a user be a member, in this role if one is given.
    Put(UserId, Option<Role>),
    /// Let a user be no member. Oneself: leave.
    Remove(UserId),
    /// End the group.
    Delete,
}

/// What becomes of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is so already.
    Unchanged,
    /// This is what it becomes.
    Becomes(Group),
    /// It ends.
    Ends,
}

/// A group's name: the text without spaces around it.
pub(crate) fn name(text: &str) -> Result<String, Refusal> {
    let name = text.trim();
    if !is_visible(name) || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        let rule = format!("name: 1 to {MAX_NAME} printable characters");
        return Err(Refusal::new(Code::Validation, rule));
    }
    Ok(name.to_owned())
}

/// What becomes of a group by a command. To a user who does not belong to it, it does not exist.
pub(crate) fn outcome(group: &Group, actor: &UserId, command: &GroupCommand, now: i64) -> Result<Outcome, Refusal> {
    let rank = group.member(actor).ok_or_else(no_such_chat)?.role;
    let mut next = group.clone();
    match command {
        GroupCommand::Rename(name) => {
            at_least(rank, Role::Admin)?;
            next.name.clone_from(name);
        }
        GroupCommand::Put(user, role) => match next.members.iter_mut().find(|member| member.user == *user) {
            Some(member) => {
                let role = role.unwrap_or(member.role);
                if role != member.role {
                    at_least(rank, Role::Owner)?;
                    if user == actor {
                        return Err(invalid("role: an owner stays one until another member is made the owner"));
                    }
                    member.role = role;
                    if role == Role::Owner
                        && let Some(giver) = next.members.iter_mut().find(|member| member.user == *actor)
                    {
                        giver.role = Role::Admin;
                    }
                }
            }
            None => {
                let role = role.unwrap_or(Role::Member);
                if role == Role::Owner {
                    return Err(invalid("role: only a member can be made the owner"));
                }
                // An admin makes no other admins.
                at_least(rank, if role == Role::Admin { Role::Owner } else { Role::Admin })?;
                if next.members.len() >= MAX_MEMBERS {
                    return Err(invalid(format!("a group has at most {MAX_MEMBERS} members")));
                }
                next.members.push(Member { user: user.clone(), role, joined_at: now });
            }
        },
        GroupCommand::Remove(user) => {
            let role = group.member(user).ok_or_else(|| Refusal::new(Code::NotFound, "no such member"))?.role;
            if user != actor && rank <= role {
                return Err(forbidden());
            }
            next.members.retain(|member| member.user != *user);
            if role == Role::Owner {
                // The order of members is that in which they joined.
                let admin = next.members.iter().position(|member| member.role == Role::Admin);
                match next.members.get_mut(admin.unwrap_or(0)) {
                    Some(successor) => successor.role = Role::Owner,
                    None => return Ok(Outcome::Ends),
                }
            }
        }
        GroupCommand::Delete => {
            at_least(rank, Role::Owner)?;
            return Ok(Outcome::Ends);
        }
    }
    Ok(if next == *group { Outcome::Unchanged } else { Outcome::Becomes(next) })
}

fn at_least(rank: Role, needed: Role) -> Result<(), Refusal> {
    if rank >= needed { Ok(()) } else { Err(forbidden()) }
}

fn forbidden() -> Refusal {
    Refusal::new(Code::Forbidden, "your role in this group does not allow that")
}

fn invalid(rule: impl Into<String>) -> Refusal {
    Refusal::new(Code::Validation, rule)
}

#[cfg(test)]
mod tests {
    use holdfast_message::ChatId;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    /// `o` owns it, `a` is an admin, `m` and `n` are members, in the order in which they are given.
    fn group(members: &str) -> Group {
        let member = |(index, letter): (usize, char)| {
            let role = match letter {
                'o' => Role::Owner,
                'a' | 'b' => Role::Admin,
                _ => Role::Member,
            };
            Member { user: user(&letter.to_string()), role, joined_at: index as i64 }
        };
        Group {
            chat: ChatId::parse("g_00000000-0000-4000-8000-000000000001").unwrap(),
            name: "old".into(),
            members: members.chars().enumerate().map(member).collect(),
            created_by: user("o"),
            created_at: 0,
            version: 1,
        }
    }

    /// Who is what afterwards, or the code of the refusal.
    fn after(members: &str, actor: &str, command: GroupCommand) -> String {
        match outcome(&group(members), &user(actor), &command, 9) {
            Ok(Outcome::Becomes(group)) => {
                let shown = |member: &Member| format!("{}:{}", member.user, &member.role.as_str()[..1]);
                group.members.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
            Ok(Outcome::Unchanged) => "unchanged".into(),
            Ok(Outcome::Ends) => "ends".into(),
            Err(refusal) => refusal.code.as_str().into(),
        }
    }

    fn put(who: &str, role: Option<Role>) -> GroupCommand {
        GroupCommand::Put(user(who), role)
    }

    fn remove(who: &str) -> GroupCommand {
        GroupCommand::Remove(user(who))
    }

    #[test]
    fn members_are_added_by_admins_and_admins_by_the_owner() {
        assert_eq!(after("oam", "o", put("x", None)), "o:o a:a m:m x:m");
        assert_eq!(after("oam", "a", put("x", Some(Role::Member))), "o:o a:a m:m x:m");
        assert_eq!(after("oam", "m", put("x", None)), "FORBIDDEN");
        assert_eq!(after("oam", "o", put("x", Some(Role::Admin))), "o:o a:a m:m x:a");
        assert_eq!(after("oam", "a", put("x", Some(Role::Admin))), "FORBIDDEN");
        assert_eq!(after("oam", "o", put("x", Some(Role::Owner))), "VALIDATION");
        assert_eq!(after("oam", "m", put("a", None)), "unchanged");
        assert_eq!(after("oam", "z", put("z", None)), "NOT_FOUND");
    }

    #[test]
    fn roles_are_the_owners_to_give_and_ownership_moves_as_a_whole() {
        assert_eq!(after("oam", "o", put("m", Some(Role::Admin))), "o:o a:a m:a");
        assert_eq!(after("oam", "o", put("a", Some(Role::Member))), "o:o a:m m:m");
        assert_eq!(after("oam", "a", put("m", Some(Role::Admin))), "FORBIDDEN");
        assert_eq!(after("oam", "a", put("a", Some(Role::Owner))), "FORBIDDEN");
        assert_eq!(after("oam", "o", put("m", Some(Role::Owner))), "o:a a:a m:o");
        assert_eq!(after("oam", "o", put("o", Some(Role::Admin))), "VALIDATION");
        assert_eq!(after("oam", "o", put("o", Some(Role::Owner))), "unchanged");
    }

    #[test]
    fn who_stands_higher_removes_who_stands_lower() {
        assert_eq!(after("oabm", "o", remove("a")), "o:o b:a m:m");
        assert_eq!(after("oabm", "a", remove("m")), "o:o a:a b:a");
        assert_eq!(after("oabm", "a", remove("b")), "FORBIDDEN");
        assert_eq!(after("oabm", "a", remove("o")), "FORBIDDEN");
        assert_eq!(after("oamn", "m", remove("n")), "FORBIDDEN");
        assert_eq!(after("oam", "o", remove("z")), "NOT_FOUND");
        assert_eq!(after("oam", "z", remove("m")), "NOT_FOUND");
    }

    #[test]
    fn everybody_may_leave_and_the_owner_is_followed() {
        assert_eq!(after("oam", "m", remove("m")), "o:o a:a");
        assert_eq!(after("oam", "a", remove("a")), "o:o m:m");
        assert_eq!(after("nmoab", "o", remove("o")), "n:m m:m a:o b:a");
        assert_eq!(after("nmo", "o", remove("o")), "n:o m:m");
        assert_eq!(after("o", "o", remove("o")), "ends");
    }

    #[test]
    fn a_group_is_renamed_by_admins_and_ended_by_its_owner() {
        assert_eq!(after("oam", "a", GroupCommand::Rename("new".into())), "o:o a:a m:m");
        assert_eq!(after("oam", "a", GroupCommand::Rename("old".into())), "unchanged");
        assert_eq!(after("oam", "m", GroupCommand::Rename("new".into())), "FORBIDDEN");
        assert_eq!(after("oam", "o", GroupCommand::Delete), "ends");
        assert_eq!(after("oam", "a", GroupCommand::Delete), "FORBIDDEN");
        for wrong in ["", "  ", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(name(wrong).unwrap_err().code, Code::Validation, "{wrong:?}");
        }
        assert_eq!(name(" é ").unwrap(), "é");
    }

    #[test]
    fn a_full_group_takes_nobody() {
        let mut full = group("o");
        let more = (1..MAX_MEMBERS).map(|number| Member {
            user: user(&format!("u{number}")),
            role: Role::Member,
            joined_at: 0,
        });
        full.members.extend(more);
        assert_eq!(outcome(&full, &user("o"), &put("x", None), 1).unwrap_err().code, Code::Validation);
        assert!(outcome(&full, &user("o"), &put("u7", Some(Role::Admin)), 1).is_ok());
    }

    fn wishes() -> impl Strategy<Value = (usize, usize, usize, usize)> {
        (0..5_usize, 0..5_usize, 0..8_usize, any::<usize>())
    }

    proptest! {
        #[test]
        fn a_group_has_one_owner_and_nobody_twice_whatever_its_people_wish(wishes in proptest::collection::vec(wishes(), 1..60)) {
            let people: Vec<_> = ["o", "a", "b", "m", "n"].map(user).into();
            let mut group = group("oam");
            for (actor, target, kind, role) in wishes {
                let role = [None, Some(Role::Member), Some(Role::Admin), Some(Role::Owner)][role % 4];
                let command = match kind {
                    0..=3 => GroupCommand::Put(people[target].clone(), role),
                    4..=6 => GroupCommand::Remove(people[target].clone()),
                    _ => GroupCommand::Rename(format!("name {target}")),
                };
                match outcome(&group, &people[actor], &command, 9) {
                    Ok(Outcome::Becomes(next)) => {
                        prop_assert!(group.member(&people[actor]).is_some());
                        group = next;
                    }
                    Ok(Outcome::Ends) => break,
                    Ok(Outcome::Unchanged) | Err(_) => {}
                }
                let owners = group.members.iter().filter(|member| member.role == Role::Owner).count();
                prop_assert_eq!(owners, 1);
                let mut users: Vec<_> = group.members.iter().map(|member| &member.user).collect();
                users.sort();
                users.dedup();
                prop_assert_eq!(users.len(), group.members.len());
            }
        }
    }
}
