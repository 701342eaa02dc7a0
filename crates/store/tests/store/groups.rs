//! Groups, friends and blocks.

use std::collections::HashMap;

use holdfast_message::{ChatId, HistoryKey, Message, UserId};
use holdfast_store::{Group, Member, Membership, Relationship, Role};
use mongodb::bson::{Document, doc};

use super::{fixture, message};

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn group(number: u8, members: &[&str]) -> Group {
    let member = |name: &&str| Member { user: user(name), role: Role::Member, joined_at: 5 };
    Group {
        chat: ChatId::parse(&format!("g_00000000-0000-4000-8000-0000000000{number:02x}")).unwrap(),
        name: "é".into(),
        members: members.iter().map(member).collect(),
        created_by: user("alice"),
        created_at: 5,
        version: 1,
    }
}

#[tokio::test]
async fn a_group_comes_back_whole_and_is_found_by_its_members() {
    let t = fixture().await;
    let mut first = group(1, &["alice", "bob"]);
    first.members[0].role = Role::Owner;
    assert!(t.store.create_group(&first).await.unwrap());
    assert!(!t.store.create_group(&group(1, &["eve"])).await.unwrap(), "there is one with this id");
    assert!(t.store.create_group(&group(2, &["bob"])).await.unwrap());
    assert_eq!(t.store.group(&first.chat).await.unwrap(), Some(first.clone()));
    assert_eq!(t.store.group(&group(3, &[]).chat).await.unwrap(), None);

    let rosters = t.store.rosters(&[first.chat.clone(), group(3, &[]).chat]).await.unwrap();
    assert_eq!(rosters, HashMap::from([(first.chat.clone(), vec![user("alice"), user("bob")])]));

    let mut of_bob = t.store.groups_of(&user("bob"), 10).await.unwrap();
    of_bob.sort();
    assert_eq!(of_bob, [first.chat.clone(), group(2, &[]).chat]);
    assert_eq!(t.store.groups_of(&user("bob"), 1).await.unwrap().len(), 1);
    assert_eq!(t.store.groups_of(&user("eve"), 10).await.unwrap(), []);
    let others: Vec<_> = (0..250).map(|n| user(&format!("other{n}"))).collect();
    let everybody = [&others[..], &[user("alice"), user("bob")]].concat();
    for (users, many, found) in [
        (&others, 1, vec![]),
        (&everybody, 1, vec![user("alice"), user("bob")]),
        (&everybody, 2, vec![user("bob")]),
        (&everybody, 3, vec![]),
        (&vec![], 1, vec![]),
    ] {
        let mut full = t.store.in_many_groups(users, many).await.unwrap();
        full.sort();
        assert_eq!(full, found, "{} users in {many}", users.len());
    }
    let plan = doc! { "explain": { "find": "groups", "filter": { "members.userId": "bob" } } };
    let plan = t.db.run_command(plan).await.unwrap().to_string();
    assert!(plan.contains("members.userId_1") && !plan.contains("COLLSCAN"), "{plan}");
}

#[tokio::test]
async fn a_group_is_one_that_its_member_acts_in_once_they_made_it_or_did_something_there_since_they_joined() {
    const JOINED: i64 = 1_800_000_000_000;
    let t = fixture().await;
    let bob = user("bob");
    let mut expected = Vec::new();
    for number in 1..=8 {
        let mut group = group(number, &["alice", "bob"]);
        group.members[1].joined_at = JOINED;
        let at = |timestamp| HistoryKey { timestamp, ..message(1).key() };
        let acted = match number {
            1 => false,
            2 => {
                group.created_by = bob.clone();
                true
            }
            3 => {
                t.store.note_act(&bob, &group.chat, JOINED + 5).await.unwrap();
                t.store.note_act(&bob, &group.chat, 5).await.unwrap();
                true
            }
            // Before they left and were added anew.
            4 => {
                t.store.note_act(&bob, &group.chat, JOINED - 3_600_000).await.unwrap();
                false
            }
            // As whoever is added is given it.
            5 => {
                t.store.mark_read(&bob, &group.chat, at(JOINED + 100)).await.unwrap();
                false
            }
            6 => {
                t.store.mark_read(&bob, &group.chat, at(JOINED + 3_600_000)).await.unwrap();
                true
            }
            7 => {
                t.store.note_act(&user("alice"), &group.chat, JOINED + 5).await.unwrap();
                group.members.remove(0);
                false
            }
            _ => {
                t.store.mark_read(&bob, &group.chat, at(JOINED + 100)).await.unwrap();
                t.store.note_act(&bob, &group.chat, JOINED + 5).await.unwrap();
                true
            }
        };
        t.store.create_group(&group).await.unwrap();
        let (members, created_by) = (group.members.len(), group.created_by);
        expected.push(Membership { chat: group.chat, created_by, members, joined_at: JOINED, acted });
    }
    t.store.create_group(&group(9, &["alice"])).await.unwrap();
    let mut found = t.store.memberships(&bob, 100).await.unwrap();
    found.sort_by(|one, other| one.chat.cmp(&other.chat));
    assert_eq!(found, expected);
    assert_eq!(t.store.memberships(&bob, 3).await.unwrap().len(), 3);
    let chats: Vec<_> = expected.iter().map(|membership| membership.chat.clone()).collect();
    let mut read: Vec<_> = t.store.read_states(&bob, &chats).await.unwrap().into_keys().collect();
    read.sort();
    assert_eq!(read, [&chats[4], &chats[5], &chats[7]].map(Clone::clone), "an act is not a reading");
}

#[tokio::test]
async fn a_group_that_has_changed_meanwhile_is_not_overwritten_and_one_that_has_ended_stays_so() {
    let t = fixture().await;
    let first = group(1, &["alice", "bob"]);
    t.store.create_group(&first).await.unwrap();
    let (mut renamed, mut left) = (first.clone(), first.clone());
    renamed.name = "other".into();
    left.members.pop();
    assert!(t.store.replace_group(&renamed).await.unwrap());
    assert!(!t.store.replace_group(&left).await.unwrap());
    let stored = t.store.group(&first.chat).await.unwrap().unwrap();
    assert_eq!(stored, Group { version: 2, ..renamed });
    let ended = Group { members: vec![], ..stored };
    assert!(t.store.replace_group(&ended).await.unwrap());
    assert!(!t.store.replace_group(&ended).await.unwrap());
    assert!(!t.store.create_group(&first).await.unwrap(), "its id is taken for good");
    assert_eq!(t.store.group(&first.chat).await.unwrap(), Some(Group { version: 3, ..ended }));
    assert_eq!(t.store.rosters(std::slice::from_ref(&first.chat)).await.unwrap(), HashMap::new());
    assert_eq!(t.store.groups_of(&user("alice"), 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_groups_conversation_lists_the_members_of_its_latest_version() {
    let t = fixture().await;
    let first = group(1, &["alice", "bob"]);
    t.store.set_members(&first).await.unwrap();
    let conversation = async || {
        let conversations = t.db.collection::<Document>("conversations");
        conversations.find_one(doc! { "_id": first.chat.as_str() }).await.unwrap().unwrap()
    };
    assert_eq!(conversation().await.get_i64("lastTimestamp").unwrap(), 5);
    let said = Message { chat: first.chat.clone(), receiver: None, ..message(7) };
    assert_eq!(t.store.touch_conversations(std::slice::from_ref(&said)).await.unwrap().moved, 1);
    let third = Group { version: 3, ..group(1, &["alice", "carol"]) };
    t.store.set_members(&third).await.unwrap();
    t.store.set_members(&Group { version: 2, ..group(1, &["alice"]) }).await.unwrap();
    let found = conversation().await;
    assert_eq!(found.get_array("members").unwrap(), &["alice".into(), "carol".into()]);
    assert_eq!(found.get_i64("lastTimestamp").unwrap(), said.timestamp);
}

#[tokio::test]
async fn a_group_without_a_conversation_is_found_as_of_when_it_was_made() {
    let t = fixture().await;
    let (first, second) = (group(1, &["alice"]), Group { created_at: 7, ..group(2, &["alice"]) });
    for group in [&first, &second] {
        assert!(t.store.create_group(group).await.unwrap());
    }
    t.store.set_members(&Group { created_at: 9, ..first.clone() }).await.unwrap();
    let groups = [first, second, group(3, &[])].map(|group| group.chat);
    let mut found = t.store.conversations_of(&groups).await.unwrap();
    found.sort_by_key(|conversation| conversation.last_timestamp);
    let found: Vec<_> = found.into_iter().map(|found| (found.chat, found.last_timestamp)).collect();
    assert_eq!(found, [(groups[1].clone(), 7), (groups[0].clone(), 9)]);
}

#[tokio::test]
async fn what_is_between_two_users_changes_in_one_step_and_repeating_it_changes_nothing() {
    let t = fixture().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let pair = ChatId::direct(&alice, &bob).unwrap();
    let other = ChatId::parse("bob:carol").unwrap();
    let between = async || t.store.relationships(&[pair.clone(), other.clone()]).await.unwrap();
    assert_eq!(between().await, HashMap::new());
    for _ in 0..2 {
        let asked = t.store.ask_friend(&pair, &alice).await.unwrap().unwrap();
        assert_eq!((asked.asked.as_slice(), asked.friends()), ([alice.clone()].as_slice(), false));
    }
    assert!(t.store.ask_friend(&pair, &bob).await.unwrap().unwrap().friends());
    for _ in 0..2 {
        t.store.block(&pair, &alice).await.unwrap();
    }
    let blocked = Relationship { asked: vec![], blocked_by: vec![alice.clone()] };
    assert_eq!(between().await, HashMap::from([(pair.clone(), blocked)]));
    assert_eq!(t.store.ask_friend(&pair, &bob).await.unwrap(), None);
    t.store.unblock(&pair, &bob).await.unwrap();
    assert!(between().await[&pair].blocked(), "only who blocks can end it");
    t.store.unblock(&pair, &alice).await.unwrap();
    assert_eq!(between().await[&pair], Relationship::default());

    // Who meets whom at the primary key is settled within the call.
    let asks = (0..16).map(|number| t.store.ask_friend(&other, if number % 2 == 0 { &bob } else { &alice }));
    let asked = futures_util::future::join_all(asks).await;
    assert!(asked.iter().all(|asked| asked.as_ref().unwrap().is_some()), "{asked:?}");
    t.store.end_friendship(&other).await.unwrap();
    assert_eq!(between().await[&other], Relationship::default());
}
