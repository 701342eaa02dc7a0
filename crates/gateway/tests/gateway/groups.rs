//! Groups: their rules over REST, and that a group is a chat like any other for whoever belongs to it, on every gateway.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use holdfast_keys::Cached;
use holdfast_message::{ChatId, UserId};
use holdfast_store::{Group, Member, Role};
use holdfast_testkit::{LIVENESS, Mongo, Proxy, Redis, request, unique, until};
use serde_json::{Value, json};

use crate::described::Description;
use crate::people::{Person, SOON, ask, refused};
use crate::support::{Gateway, invalidate, settings, store, with};

/// Who is what in a group, as it was answered.
fn roles(group: &Value) -> BTreeSet<(String, String)> {
    let text = |member: &Value, field: &str| member[field].as_str().unwrap().to_owned();
    let members = group["members"].as_array().unwrap().iter();
    members.map(|member| (text(member, "userId"), text(member, "role"))).collect()
}

fn these<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeSet<(String, String)> {
    members.into_iter().map(|(user, role)| (user.to_owned(), role.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_made_changed_and_ended_as_its_roles_allow() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = Description::served(&gateway.url).await;
    let [alice, bob, carol, dora] = ["alice", "bob", "carol", "dora"].map(unique);
    let (a, b, c, d) = (alice.as_str(), bob.as_str(), carol.as_str(), dora.as_str());
    let new = json!({ "name": " sailors ", "members": [b, b, a] });
    let key = ["idempotency-key: one"];
    let made = ask(&gateway, a, "POST", "/api/chats", new.clone(), &key).await;
    description.check("POST", "/api/chats", &made);
    // 200 if the first answer came too late.
    assert!(matches!(made.status, 200 | 201), "{made:?}");
    assert_eq!(made.body["name"], "sailors");
    assert_eq!(roles(&made.body), these([(a, "owner"), (b, "member")]));
    let again = ask(&gateway, a, "POST", "/api/chats", new, &key).await;
    assert_eq!((again.status, &again.body), (200, &made.body), "a repeat makes no other group");
    let other = ask(&gateway, b, "POST", "/api/chats", json!({ "name": "x" }), &key).await;
    assert_ne!(other.body["chatId"], made.body["chatId"], "keys are each user's own");

    let group = format!("/api/chats/{}", made.body["chatId"].as_str().unwrap());
    let member = |user: &str| format!("{group}/members/{user}");
    let (chat, members) = ("/api/chats/{chatId}", "/api/chats/{chatId}/members/{userId}");
    for (status, actor, method, template, path, body) in [
        (200, b, "GET", chat, group.clone(), Value::Null),
        (404, c, "GET", chat, group.clone(), Value::Null),
        (403, b, "PATCH", chat, group.clone(), json!({ "name": "mine" })),
        (400, a, "PATCH", chat, group.clone(), json!({ "name": "\u{7}" })),
        (200, a, "PATCH", chat, group.clone(), json!({ "name": "rowers" })),
        (404, c, "PATCH", chat, group.clone(), json!({ "name": "mine" })),
        (403, b, "PUT", members, member(c), json!({})),
        (404, c, "PUT", members, member(c), json!({})),
        (200, a, "PUT", members, member(c), json!({})),
        (400, a, "PUT", members, member("a:b"), json!({})),
        (400, a, "PUT", members, member(d), json!({ "role": "king" })),
        (200, a, "PUT", members, member(b), json!({ "role": "admin" })),
        (200, b, "PUT", members, member(d), json!({ "role": "member" })),
        (403, b, "PUT", members, member(d), json!({ "role": "admin" })),
        (403, c, "DELETE", members, member(d), Value::Null),
        (403, b, "DELETE", members, member(a), Value::Null),
        (204, b, "DELETE", members, member(d), Value::Null),
        (404, b, "DELETE", members, member(d), Value::Null),
        (403, b, "DELETE", chat, group.clone(), Value::Null),
        (200, a, "PUT", members, member(c), json!({ "role": "owner" })),
        (204, c, "DELETE", members, member(c), Value::Null),
    ] {
        let answer = ask(&gateway, actor, method, &path, body, &[]).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        description.check(method, template, &answer);
    }
    // Carol gave her ownership up by leaving; the admin who has been there longest follows.
    let left = ask(&gateway, a, "GET", &group, Value::Null, &[]).await;
    assert_eq!((&left.body["name"], roles(&left.body)), (&json!("rowers"), these([(a, "owner"), (b, "admin")])));
    assert_eq!(ask(&gateway, a, "DELETE", &group, Value::Null, &[]).await.status, 204);
    assert_eq!(ask(&gateway, a, "GET", &group, Value::Null, &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_ended_does_not_come_back_under_the_key_that_made_it() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let make = async || {
        let new = json!({ "name": "x", "members": [&bob.name] });
        alice.rest_with("POST", "/api/chats", new, &["idempotency-key: one"]).await
    };
    let made = make().await;
    let chat = made.body["chatId"].as_str().unwrap_or_else(|| panic!("{made:?}"));
    let group = format!("/api/chats/{chat}");
    assert_eq!(alice.rest("DELETE", &format!("{group}/members/{}", alice.name), Value::Null).await.status, 204);
    assert_eq!(make().await.status, 404, "she has left it");
    bob.send(chat, "between us").await;
    assert_eq!(bob.rest("DELETE", &group, Value::Null).await.status, 204);
    let again = make().await;
    assert_eq!((again.status, &again.body["code"]), (404, &json!("NOT_FOUND")), "{again:?}");
    for person in [&alice, &bob] {
        // A busy machine may take longer than a request may.
        until("it is refused", async || {
            let page = person.emit("history", json!({ "chatId": chat })).await;
            assert_eq!(page["ok"], false, "{page}");
            page["error"]["code"] == "NOT_FOUND"
        })
        .await;
        assert_eq!(person.rest("GET", &group, Value::Null).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_who_are_added_count_and_a_repeat_adds_none() {
    let own =
        [("EVENT_LIMIT", "100"), ("WINDOW_SECONDS", "600"), ("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")];
    let gateway = Gateway::start(settings(&own).await).await;
    let alice = unique("alice");
    let make = async |members: usize, key: &str| {
        let headers = [format!("authorization: Bearer {}", gateway.token(&alice)), format!("idempotency-key: {key}")];
        let members: Vec<_> = (0..members).map(|n| format!("friend{n}")).collect();
        let body = json!({ "name": "x", "members": members }).to_string();
        let begun = Instant::now();
        loop {
            let answer = request(&gateway.url, "POST", "/api/chats", &headers, &body).await.unwrap();
            if answer.status != 503 {
                return answer;
            }
            assert!(begun.elapsed() < LIVENESS, "refused again and again: {answer:?}");
        }
    };
    let first = make(40, "first").await.status;
    assert!(matches!(first, 200 | 201), "{first}");
    let mut passed = 1;
    while make(40, &format!("key {passed}")).await.status != 429 {
        passed += 1;
    }
    assert!(passed <= 2, "{passed} groups of forty");
    assert_eq!(make(40, "first").await.status, 200, "it adds nobody");
    let alone = make(0, "alone").await.status;
    assert!(matches!(alone, 200 | 201), "{alone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_belongs_to_as_many_groups_as_anybody_may_is_not_named_and_a_repeat_is_answered_all_the_same() {
    let settings = settings(&[]).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let new = json!({ "name": "x", "members": [&bob] });
    let made = ask(&gateway, &alice, "POST", "/api/chats", new.clone(), &["idempotency-key: one"]).await;
    assert!(matches!(made.status, 200 | 201), "{made:?}");
    let stored = store(&settings).await;
    let creates = (0..1000_u128).map(async |n| {
        let member = Member { user: UserId::parse(&bob).unwrap(), role: Role::Owner, joined_at: 1 };
        let group = Group {
            chat: ChatId::parse(&format!("g_00000000-0000-4000-8000-{n:012x}")).unwrap(),
            name: "x".into(),
            created_by: member.user.clone(),
            members: vec![member],
            created_at: 1,
            version: 1,
        };
        assert!(stored.create_group(&group).await.unwrap());
    });
    futures_util::stream::iter(creates).buffer_unordered(16).collect::<Vec<_>>().await;
    let refused = ask(&gateway, &alice, "POST", "/api/chats", new.clone(), &["idempotency-key: two"]).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("VALIDATION")), "{refused:?}");
    assert!(!refused.body.to_string().contains(&bob), "{refused:?}");
    let again = ask(&gateway, &alice, "POST", "/api/chats", new, &["idempotency-key: one"]).await;
    assert_eq!((again.status, &again.body), (200, &made.body));
}

/// Groups that `creator` made and added `user` to, so many, in the store alone.
async fn add_to_groups(settings: &[(String, String)], creator: &str, user: &str, count: u128) {
    let stored = store(settings).await;
    let (creator, user) = (UserId::parse(creator).unwrap(), UserId::parse(user).unwrap());
    let creates = (0..count).map(async |n| {
        let member = |user: &UserId, role| Member { user: user.clone(), role, joined_at: 1 };
        let group = Group {
            chat: ChatId::parse(&format!("g_00000000-0000-4000-8000-{n:012x}")).unwrap(),
            name: "x".into(),
            created_by: creator.clone(),
            members: vec![member(&creator, Role::Owner), member(&user, Role::Member)],
            created_at: 1,
            version: 1,
        };
        assert!(stored.create_group(&group).await.unwrap());
    });
    futures_util::stream::iter(creates).buffer_unordered(16).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_adds_somebody_to_groups_without_end_uses_up_nothing_of_theirs() {
    let settings = settings(&[]).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, eve) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "eve").await);
    let mut bob = Person::at(&gateway, "bob").await;
    let id = UserId::parse(&bob.name).unwrap();
    let (written, read) = (alice.group(&[&bob.name]).await, alice.group(&[&bob.name]).await);
    // Whoever adds takes from themselves first, so somebody else made this one.
    let carol = Person::at(&gateway, "carol").await;
    let only_added = carol.group(&[&bob.name]).await;
    bob.send(&written, "I am here").await;
    let message = alice.send(&read, "do you read this?").await;
    let upto = json!({ "chatId": read, "upTo": message["messageId"] });
    until("it is read", async || bob.emit("markRead", upto.clone()).await["ok"] == true).await;
    let stored = store(&settings).await;
    let of_bob = async || stored.memberships(&id, 2000).await.unwrap();
    until("it is known where he acts", async || of_bob().await.iter().filter(|group| group.acted).count() == 2).await;

    // Eve fills up what is left of a thousand, and goes on.
    add_to_groups(&settings, &eve.name, &bob.name, 997).await;
    assert_eq!(of_bob().await.len(), 1000);
    let mut last = String::new();
    for _ in 0..5 {
        last = eve.group(&[&bob.name]).await;
        let leave = format!("/api/chats/{last}/members/{}", eve.name);
        assert_eq!(eve.rest("DELETE", &leave, Value::Null).await.status, 204);
    }
    assert_eq!(of_bob().await.len(), 1000, "what gives way is hers");

    let own = bob.group(&[]).await;
    let added = alice.group(&[&bob.name]).await;
    let dave = Person::at(&gateway, "dave").await;
    let put = format!("/api/chats/{}/members/{}", dave.group(&[]).await, bob.name);
    assert_eq!(dave.rest("PUT", &put, json!({})).await.status, 200);
    let now: BTreeSet<_> = of_bob().await.into_iter().map(|group| group.chat.to_string()).collect();
    assert_eq!(now.len(), 1000);
    for chat in [&written, &read, &only_added, &own, &added] {
        assert!(now.contains(chat), "{chat} gave way");
    }
    assert!(!now.contains(&last), "what nobody else belongs to goes first");
    // Of every group that he was added to he was told, too. A few events; the wait for the next one has an end.
    while bob.next_of(&["chatUpdated"]).await.data["chatId"] != *last {}
    bob.send(&added, "and here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_groups_are_left_by_one_request_and_nobody_learns_of_others() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = Description::served(&gateway.url).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let mallory = Person::at(&gateway, "mallory").await;
    let of_alice = [alice.group(&[&bob.name]).await, alice.group(&[&bob.name]).await];
    let of_bob = [bob.group(&[&alice.name]).await, bob.group(&[]).await];
    let unknown = "g_00000000-0000-4000-8000-000000000000".to_owned();
    let leave = async |person: &Person<'_>, chats: Value| {
        let answer = person.rest("POST", "/api/chats/leave", json!({ "chatIds": chats })).await;
        description.check("POST", "/api/chats/leave", &answer);
        answer
    };
    let left = |answer: &Value| -> BTreeSet<String> {
        answer["left"].as_array().unwrap().iter().map(|chat| chat.as_str().unwrap().to_owned()).collect()
    };
    let members = async |chat: &str| {
        let group = alice.rest("GET", &format!("/api/chats/{chat}"), Value::Null).await;
        (group.status == 200).then(|| roles(&group.body))
    };

    // An outsider changes nothing, and is answered as of groups that do not exist.
    let answer = leave(&mallory, json!([of_alice[0], unknown])).await;
    assert_eq!((answer.status, left(&answer.body)), (200, [of_alice[0].clone(), unknown.clone()].into()));
    let both = these([(alice.name.as_str(), "owner"), (bob.name.as_str(), "member")]);
    assert_eq!(members(&of_alice[0]).await, Some(both));

    let all: Vec<_> = of_alice.iter().chain(&of_bob).chain([&unknown, &of_bob[0]]).collect();
    let answer = leave(&bob, json!(all)).await;
    assert_eq!((answer.status, &answer.body["remaining"]), (200, &json!([])), "{answer:?}");
    assert_eq!(left(&answer.body), all.into_iter().cloned().collect());
    for chat in of_alice.iter().chain([&of_bob[0]]) {
        assert_eq!(members(chat).await, Some(these([(alice.name.as_str(), "owner")])), "she follows its owner");
        let refusal = bob.emit("history", json!({ "chatId": chat })).await;
        assert_eq!(refusal["error"]["code"], "NOT_FOUND", "{refusal}");
    }
    let answer = leave(&bob, json!(of_bob)).await;
    assert_eq!(left(&answer.body), of_bob.into(), "a repeat is answered alike");

    let many: Vec<_> = (0..101).map(|n| format!("g_00000000-0000-4000-8000-{n:012x}")).collect();
    let direct = format!("{}:{}", alice.name, bob.name);
    for wrong in [json!([]), json!(many), json!([direct]), json!([unknown, "x"]), json!("x"), Value::Null] {
        assert_eq!(leave(&bob, wrong.clone()).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_that_is_left_counts() {
    let own = [("EVENT_LIMIT", "10"), ("WINDOW_SECONDS", "600")];
    let gateway = Gateway::start(settings(&own).await).await;
    let alice = unique("alice");
    let leave = async |count: usize| {
        let chats: Vec<_> = (0..count).map(|n| format!("g_00000000-0000-4000-8000-{n:012x}")).collect();
        let headers = [format!("authorization: Bearer {}", gateway.token(&alice))];
        let body = json!({ "chatIds": chats }).to_string();
        request(&gateway.url, "POST", "/api/chats/leave", &headers, &body).await.unwrap().status
    };
    assert_eq!(leave(6).await, 200);
    assert_eq!(leave(6).await, 429);
    assert_eq!(leave(4).await, 200);
    assert_eq!(leave(1).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_made_at_once_are_all_made() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let alice = Person::at(&gateway, "alice").await;
    let chat = alice.group(&[]).await;
    let users: Vec<_> = (0..6).map(|_| unique("user")).collect();
    let puts = users.iter().map(async |user| {
        let path = format!("/api/chats/{chat}/members/{user}");
        // Whoever comes second too often is told to come again.
        assert_eq!(alice.rest("PUT", &path, json!({})).await.status, 200);
    });
    futures_util::future::join_all(puts).await;
    let group = alice.rest("GET", &format!("/api/chats/{chat}"), Value::Null).await;
    assert_eq!(roles(&group.body).len(), 7, "{group:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_a_chat_for_its_members_on_every_gateway() {
    let settings = settings(&[]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings.clone()).await);
    let deaf = Gateway::start(with(&settings, "KAFKA_BROKERS", "127.0.0.1:1")).await;
    let mut alice = Person::at(&near, "alice").await;
    let (mut bob, mut carol) = (Person::at(&near, "bob").await, Person::at(&far, "carol").await);
    let chat = alice.group(&[&bob.name, &carol.name]).await;
    for person in [&mut alice, &mut bob, &mut carol] {
        person.hears_of(&chat).await;
    }
    let first = alice.send(&chat, "hello all").await;
    assert_eq!((&first["chatId"], &first["receiverId"]), (&json!(chat), &Value::Null));
    let path = format!("/api/chats/{chat}/messages");
    let sent = carol.rest("POST", &path, json!({ "content": "hello alice", "tempId": "t" })).await;
    assert!(matches!(sent.status, 200 | 201), "{sent:?}");
    assert_eq!(carol.rest("POST", &path, json!({ "content": "hello alice", "tempId": "t" })).await.status, 200);
    // Kafka is away for this one's gateway.
    let kept = ask(&deaf, &bob.name, "POST", &path, json!({ "content": "kept", "tempId": "k" }), &[]).await;
    assert_eq!(kept.body["durability"], "failed-queue", "{kept:?}");
    for person in [&mut alice, &mut bob, &mut carol] {
        person.hears("hello all").await;
        person.hears("hello alice").await;
        person.hears("kept").await;
    }

    let page = bob.emit("history", json!({ "chatId": chat })).await;
    let contents: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
    assert_eq!(contents, ["kept", "hello alice", "hello all"], "{page}");
    let request = json!({ "offsets": { &chat: { "epoch": first["epoch"], "seq": first["seq"] } } });
    let missed = carol.emit("resume", request.clone()).await;
    assert_eq!(missed["chats"][&chat]["recovered"], true, "{missed}");
    assert_eq!(missed["chats"][&chat]["messages"].as_array().unwrap().len(), 2, "{missed}");
    let auth = json!({ "token": far.token(&bob.name), "offsets": request["offsets"] });
    let (_device, mut events) = holdfast_socketio_client::Client::connect_with(&far.url, &auth).await.unwrap();
    let resumed = events.next_named("resumed", SOON).await.unwrap();
    assert_eq!(resumed["chats"][&chat]["messages"].as_array().unwrap().len(), 2, "{resumed}");
    alice.send(&chat, "after the resume").await;
    let live = events.next_named("newMessage", SOON).await.unwrap();
    assert_eq!(live["content"], "after the resume");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_and_who_goes_is_known_on_another_gateway_at_once() {
    let settings = settings(&[]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let mut alice = Person::at(&near, "alice").await;
    let (mut bob, mut carol) = (Person::at(&far, "bob").await, Person::at(&far, "carol").await);
    let chat = alice.group(&[&carol.name]).await;
    carol.hears_of(&chat).await;
    refused(&bob.try_send(&chat, "let me in").await, "NOT_FOUND", false);

    let member = format!("/api/chats/{chat}/members/{}", bob.name);
    for round in 0..3 {
        assert_eq!(alice.rest("PUT", &member, json!({})).await.status, 200);
        bob.hears_of(&chat).await;
        let here = format!("bob is here {round}");
        alice.send(&chat, &here).await;
        bob.hears(&here).await;
        bob.send(&chat, "thanks").await;
        bob.hears("thanks").await;

        assert_eq!(alice.rest("DELETE", &member, Value::Null).await.status, 204);
        bob.hears_of(&chat).await;
        refused(&bob.try_send(&chat, "still here").await, "NOT_FOUND", false);
        refused(&bob.emit("history", json!({ "chatId": chat })).await, "NOT_FOUND", false);
        let offsets = json!({ "offsets": { &chat: { "epoch": "e", "seq": 0 } } });
        let missed = bob.emit("resume", offsets).await;
        assert_eq!(missed["chats"][&chat], json!({ "recovered": false, "epoch": null, "seq": null }));
        alice.send(&chat, "bob is gone").await;
        carol.send(&chat, "he is").await;
        // What comes after it by the same way has come, and it has not.
        alice.send(&direct(&alice.name, &bob.name), "sentinel").await;
        bob.hears("sentinel").await;
        for heard in [here.as_str(), "thanks", "bob is gone", "he is"] {
            carol.hears(heard).await;
        }
    }
    assert_eq!(alice.rest("DELETE", &format!("/api/chats/{chat}"), Value::Null).await.status, 204);
    carol.hears_of(&chat).await;
    refused(&carol.try_send(&chat, "anybody?").await, "NOT_FOUND", false);
    until("no rooms are left", async || far.metric("holdfast_gateway_rooms").await == 0.0).await;
    until("nor here", async || near.metric("holdfast_gateway_rooms").await == 0.0).await;
    alice.hears_of(&chat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_though_whoever_made_it_hangs_up_in_the_middle() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let settings = settings(&[("MONGO_URL", url.as_str()), ("MONGO_CB_RECOVERY_TIMEOUT", "500")]).await;
    let gateway = Gateway::start(settings.clone()).await;
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    let stored = store(&with(&settings, "MONGO_URL", &mongo.url())).await;
    let alice = Person::at(&gateway, "alice").await;
    let mut bob = Person::at(&gateway, "bob").await;
    let chat = alice.group(&[&bob.name]).await;
    bob.hears_of(&chat).await;
    let id = ChatId::parse(&chat).unwrap();

    line.latency(Duration::from_millis(700));
    let path = format!("/api/chats/{chat}/members/{}", bob.name);
    let leave = bob.rest("DELETE", &path, Value::Null);
    let alone = async || stored.rosters(std::slice::from_ref(&id)).await.unwrap()[&id].len() == 1;
    let gone = until("bob has left", alone);
    // The group has changed, and the gateway does not know it yet.
    tokio::select! {
        biased;
        () = gone => {}
        _ = leave => {}
    }
    line.latency(Duration::ZERO);
    bob.hears_of(&chat).await;
}

fn direct(one: &str, other: &str) -> String {
    if one < other { format!("{one}:{other}") } else { format!("{other}:{one}") }
}

type Settings = Vec<(String, String)>;

/// Two gateways, of which the second has its own line to a MongoDB of this test's own.
async fn with_a_line_to_the_store(more: &[(&'static str, &str)]) -> (Mongo, Proxy, Gateway, Gateway, Settings) {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url();
    let own: Vec<_> = more.iter().copied().chain([("MONGO_URL", url.as_str())]).collect();
    let settings = settings(&own).await;
    let near = Gateway::start(settings.clone()).await;
    let far = Gateway::start(with(&settings, "MONGO_URL", &mongo.url_at(line.port()))).await;
    until("the store is reached", async || far.health("/dependencies/mongodb/up").await == true).await;
    (mongo, line, near, far, settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_members_go_on_and_a_removed_one_does_not() {
    let (_mongo, line, near, far, settings) = with_a_line_to_the_store(&[]).await;
    let alice = Person::at(&near, "alice").await;
    let (mut bob, mut carol) = (Person::at(&far, "bob").await, Person::at(&far, "carol").await);
    let chat = alice.group(&[&bob.name, &carol.name]).await;
    let unseen = alice.group(&[&bob.name]).await;
    bob.hears_of(&chat).await;
    carol.hears_of(&chat).await;
    bob.send(&chat, "this gateway knows the group now").await;
    bob.hears("this gateway knows the group now").await;

    line.cut().await;
    invalidate(&settings, Cached::Members(ChatId::parse(&unseen).unwrap())).await;
    // Longer than a decision is taken for granted.
    tokio::time::sleep(Duration::from_secs(11)).await;
    bob.send(&chat, "on we go").await;
    bob.hears("on we go").await;
    refused(&bob.try_send(&unseen, "nobody knows").await, "UNAVAILABLE", true);
    let direct = direct(&bob.name, &carol.name);
    bob.send(&direct, "direct chats are open").await;
    bob.hears("direct chats are open").await;
    // Of a stranger nobody has read anything.
    bob.send(&self::direct(&bob.name, &unique("stranger")), "so is this one").await;
    assert!(far.metric("holdfast_gateway_permitted_unknown_total").await > 0.0);

    let member = format!("/api/chats/{chat}/members/{}", bob.name);
    assert_eq!(alice.rest("DELETE", &member, Value::Null).await.status, 204);
    bob.hears_of(&chat).await;
    // Until the new decision has been read, the refusal may be outdated, and says so.
    until("his gateway knows it", async || {
        let answer = bob.try_send(&chat, "still in?").await;
        assert_eq!(answer["ok"], false, "{answer}");
        answer["error"]["retryable"] == false
    })
    .await;
    refused(&bob.try_send(&chat, "still in?").await, "NOT_FOUND", false);
    alice.send(&chat, "bob is gone").await;
    carol.send(&direct, "sentinel").await;
    bob.hears("sentinel").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_the_store_is_away_hears_their_groups_once_it_is_back() {
    let (_mongo, line, near, far, _) = with_a_line_to_the_store(&[("MONGO_CB_RECOVERY_TIMEOUT", "500")]).await;
    let alice = Person::at(&near, "alice").await;
    let name = unique("bob");
    let chat = alice.group(&[&name]).await;
    line.cut().await;
    let mut bob = Person::named(&far, &name).await;
    // The store was asked in vain once the answer is there; direct chats are not held up by it.
    let answer = bob.emit("resume", json!({ "offsets": {} })).await;
    assert_eq!(answer, json!({ "ok": true, "chats": {} }));
    alice.send(&chat, "he can't hear that").await;
    line.heal().await.unwrap();
    assert_eq!(bob.events.next_named("resync", SOON).await, Some(json!({})));
    alice.send(&chat, "back again").await;
    bob.hears("back again").await;
    let page = bob.emit("history", json!({ "chatId": chat })).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 2, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_from_the_news_learns_it_when_the_line_is_back() {
    let cache = Redis::cache().await.unwrap();
    let (to_near, to_far) = (Proxy::start(cache.port()).await.unwrap(), Proxy::start(cache.port()).await.unwrap());
    let settings = settings(&[]).await;
    let near = Gateway::start(with(&settings, "REDIS_URL", &cache.url_at(to_near.port()))).await;
    let far = Gateway::start(with(&settings, "REDIS_URL", &cache.url_at(to_far.port()))).await;
    let alice = Person::at(&near, "alice").await;
    let mut bob = Person::at(&far, "bob").await;
    let chat = alice.group(&[]).await;
    let member = format!("/api/chats/{chat}/members/{}", bob.name);
    let put = async || assert_eq!(alice.rest("PUT", &member, json!({})).await.status, 200);
    let delete = async || assert_eq!(alice.rest("DELETE", &member, Value::Null).await.status, 204);
    put().await;
    bob.hears_of(&chat).await;

    for line in [&to_near, &to_far] {
        // First whoever changes the group can't say so, then whoever is concerned does not hear it.
        line.cut().await;
        delete().await;
        line.heal().await.unwrap();
        bob.hears_of(&chat).await;
        // News of the change before may have come twice; what is decided here lasts two seconds at most while nothing is heard.
        until("he is out", async || bob.try_send(&chat, "still in?").await["error"]["code"] == "NOT_FOUND").await;
        line.cut().await;
        put().await;
        line.heal().await.unwrap();
        bob.hears_of(&chat).await;
        until("he is in again", async || bob.try_send(&chat, "in again").await["ok"] == true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_falls_between_the_first_page_of_a_fresh_connection_and_what_it_hears() {
    let settings = settings(&[]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let alice = Person::at(&near, "alice").await;
    let name = unique("bob");
    let chat = alice.group(&[&name]).await;
    for round in 0..10 {
        let mut bob = Person::named(&far, &name).await;
        let page = bob.emit("history", json!({ "chatId": chat })).await;
        assert_eq!(page["messages"].as_array().unwrap().len(), round, "{page}");
        let content = format!("round {round}");
        alice.send(&chat, &content).await;
        // A gateway that takes long to hear for him says so instead, and he reads it anew.
        if bob.next_of(&["newMessage", "resync"]).await.name == "resync" {
            let page = bob.emit("history", json!({ "chatId": chat })).await;
            assert_eq!(page["messages"][0]["content"], content, "{page}");
        }
        drop(bob);
        until("he is gone", async || far.metric("holdfast_gateway_sockets").await == 0.0).await;
    }
}
