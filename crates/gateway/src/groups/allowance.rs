//! How many groups a user may belong to, and which give way.
//!
//! A user belongs to at most [`MAX_GROUPS`], whoever added them, so what their subscriptions cost is bounded. Anybody who may add a user can fill that
//! up. So a group counts for its member only once they have *acted* there: created it, written, marked messages as read, changed it. One in which
//! they never acted gives way when another needs its place: they leave it.
//!
//! See `docs/decisions/group-allowance.md`.

use std::collections::HashMap;

use holdfast_message::{ChatId, UserId};
use holdfast_store::Membership;

use crate::access::membership::MAX_GROUPS;

/// The groups that a user leaves to make room for one more; `None` if there are not enough. `adder` is who adds the user.
///
/// Of those in which they never acted, in this order: groups that nobody else belongs to any more; those that `adder` made, who
/// so only takes from themselves; those of the creator of most of them. Among these the oldest comes first.
pub(crate) fn giving_way(groups: Vec<Membership>, user: &UserId, adder: &UserId) -> Option<Vec<ChatId>> {
    let needed = (groups.len() + 1).saturating_sub(MAX_GROUPS as usize);
    let mut idle: Vec<_> = groups.into_iter().filter(|group| !group.acted && group.created_by != *user).collect();
    let mut made = HashMap::<UserId, usize>::new();
    for group in &idle {
        *made.entry(group.created_by.clone()).or_default() += 1;
    }
    idle.sort_by_key(|group| {
        let others = group.members > 1;
        let of_others = others && group.created_by != *adder;
        let most = std::cmp::Reverse(if of_others { made[&group.created_by] } else { 0 });
        (others, of_others, most, group.joined_at, group.chat.clone())
    });
    (idle.len() >= needed).then(|| idle.into_iter().take(needed).map(|group| group.chat).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn user(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    /// Groups made by these users, one after the other, that Bob belongs to, with as many members. The first letter of one in which he
    /// acted is a capital.
    fn groups(made: &[(&str, usize)]) -> Vec<Membership> {
        let group = |(number, (creator, members)): (usize, &(&str, usize))| Membership {
            chat: ChatId::group(Uuid::from_u128(number as u128)),
            created_by: user(&creator.to_lowercase()),
            members: *members,
            joined_at: number as i64,
            acted: creator.starts_with(char::is_uppercase),
        };
        made.iter().enumerate().map(group).collect()
    }

    /// The numbers of those that give way to a group that `adder` adds Bob to.
    fn give_way(made: &[(&str, usize)], adder: &str) -> Option<Vec<u128>> {
        let numbers = |chats: Vec<ChatId>| {
            chats.iter().map(|chat| Uuid::parse_str(&chat.as_str()[2..]).unwrap().as_u128()).collect()
        };
        giving_way(groups(made), &user("bob"), &user(adder)).map(numbers)
    }

    #[test]
    fn nothing_gives_way_while_there_is_room() {
        assert_eq!(give_way(&[("eve", 2); 999], "eve"), Some(vec![]));
        assert_eq!(give_way(&[("Alice", 2); 999], "eve"), Some(vec![]));
    }

    #[test]
    fn who_acts_in_as_many_groups_as_anybody_may_joins_no_other() {
        assert_eq!(give_way(&[("Alice", 2); 1000], "bob"), None);
        assert_eq!(give_way(&[("Bob", 1); 1000], "bob"), None);
    }

    #[test]
    fn the_oldest_in_which_one_never_acted_gives_way_and_more_where_there_are_too_many() {
        let mut made = vec![("Alice", 2); 500];
        made.extend([("eve", 2); 500]);
        assert_eq!(give_way(&made, "bob"), Some(vec![500]));
        made.extend([("eve", 2); 2]);
        assert_eq!(give_way(&made, "bob"), Some(vec![500, 501, 502]));
    }

    #[test]
    fn what_nobody_else_belongs_to_goes_first_and_who_adds_takes_from_themselves() {
        let mut made = vec![("carol", 5); 300];
        made.extend([("eve", 2); 698]);
        made.extend([("dave", 3), ("mallory", 1)]);
        assert_eq!(give_way(&made, "eve"), Some(vec![999]));
        made[999] = ("mallory", 2);
        assert_eq!(give_way(&made, "eve"), Some(vec![300]));
        assert_eq!(give_way(&made, "carol"), Some(vec![0]));
        assert_eq!(give_way(&made, "dave"), Some(vec![998]));
        assert_eq!(give_way(&made, "trent"), Some(vec![300]), "of whoever made most of them");
        assert_eq!(give_way(&made, "bob"), Some(vec![300]));
    }
}
