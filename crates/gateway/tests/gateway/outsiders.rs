//! Whoever does not belong to a chat neither reads, joins nor types there, nor learns of it, by any event or route.
//!
//! The tables hold every way in. A new event or a new route about a chat is missed by the first test until it is added.

use futures_util::future::join_all;
use holdfast_gateway::wire::events::client;
use holdfast_message::UserId;
use serde_json::{Value, json};

use crate::described::Description;
use crate::people::{Person, SOON};
use crate::support::{Gateway, settings};

type Payload = fn(&str) -> Value;

/// Every event that names a chat, with what a client says.
const EVENTS: &[(&str, Payload)] = &[
    ("sendMessage", |chat| json!({ "chatId": chat, "content": "x" })),
    ("history", |chat| json!({ "chatId": chat })),
    ("markRead", |chat| json!({ "chatId": chat, "upTo": SOME_MESSAGE })),
    ("typing", |chat| json!({ "chatId": chat, "typing": true })),
];

/// The events that name none, or several: what they tell is looked at below.
const OTHER_EVENTS: &[&str] = &["resume", "presence", "unread", "conversations"];

const SOME_MESSAGE: &str = "0197f0a2-3c58-7cc2-9f0e-6f4f3a1d2c77";

/// A method, a template and a body.
type Route = (&'static str, &'static str, fn() -> Value);

/// Every route that names a chat, with its body.
const ROUTES: &[Route] = &[
    ("GET", "/api/chats/{chatId}", || Value::Null),
    ("PATCH", "/api/chats/{chatId}", || json!({ "name": "mine" })),
    ("DELETE", "/api/chats/{chatId}", || Value::Null),
    ("PUT", "/api/chats/{chatId}/members/{userId}", || json!({})),
    ("DELETE", "/api/chats/{chatId}/members/{userId}", || Value::Null),
    ("GET", "/api/chats/{chatId}/messages", || Value::Null),
    ("POST", "/api/chats/{chatId}/messages", || json!({ "content": "x" })),
    ("PUT", "/api/chats/{chatId}/read", || json!({ "upTo": SOME_MESSAGE })),
];

/// Routes of groups alone: to them the id of a direct chat is none.
fn is_of_groups(template: &str) -> bool {
    !template.ends_with("/messages") && !template.ends_with("/read")
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn filled(template: &str, chat: &str, user: &str) -> String {
    template.replace("{chatId}", &encoded(chat)).replace("{userId}", user)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_into_a_chat_is_tried_by_these_tests() {
    let gateway = Gateway::start(settings(&[]).await).await;
    for event in client::ALL {
        let tried = EVENTS.iter().any(|(name, _)| *name == event) || OTHER_EVENTS.contains(&event);
        assert!(tried, "{event} is not in the tables of {}", file!());
    }
    let description = Description::served(&gateway.url).await;
    for (path, method, _) in description.operations().filter(|(path, ..)| path.contains("{chatId}")) {
        let tried = ROUTES.iter().any(|(other, template, _)| other.eq_ignore_ascii_case(method) && *template == path);
        assert!(tried, "{method} {path} is not in the table of {}", file!());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outsider_is_refused_everywhere_and_told_nothing() {
    let settings = settings(&[]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let mut alice = Person::at(&near, "alice").await;
    let (mut bob, mut mallory) = (Person::at(&far, "bob").await, Person::at(&far, "mallory").await);
    let group = alice.group(&[&bob.name]).await;
    bob.hears_of(&group).await;
    let direct = format!("{}:{}", alice.name, bob.name);
    let unknown = "g_00000000-0000-4000-8000-000000000000";
    let secret = alice.send(&group, "secret").await;
    alice.send(&direct, "secret").await;

    for (event, payload) in EVENTS {
        let refusals: Vec<_> = join_all([&group, unknown].map(|chat| mallory.emit(event, payload(chat)))).await;
        assert_eq!(refusals[0]["error"]["code"], "NOT_FOUND", "{event}: {}", refusals[0]);
        assert_eq!(refusals[0], refusals[1], "{event}: a group looks as if there were none");
        let refusal = mallory.emit(event, payload(&direct)).await;
        assert_eq!(refusal["error"]["code"], "FORBIDDEN", "{event}: {refusal}");
    }
    let offsets: Value = [group.as_str(), unknown, &direct]
        .into_iter()
        .map(|chat| (chat.to_owned(), json!({ "epoch": secret["epoch"], "seq": 0 })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let answer = mallory.emit("resume", json!({ "offsets": offsets })).await;
    for chat in answer["chats"].as_object().unwrap().values() {
        assert_eq!(chat, &json!({ "recovered": false, "epoch": null, "seq": null }));
    }
    let unread = mallory.emit("unread", json!({})).await;
    assert_eq!((&unread["counts"], &unread["total"]), (&json!({}), &json!(0)), "{unread}");
    let chats = mallory.emit("conversations", json!({})).await;
    assert_eq!(chats["conversations"], json!([]), "{chats}");
    for (method, template, body) in ROUTES {
        for user in [&mallory.name, &bob.name] {
            let ask = async |chat: &str| mallory.rest(method, &filled(template, chat, user), body()).await;
            let (there, nowhere) = (ask(&group).await, ask(unknown).await);
            assert_eq!((there.status, &there.body["code"]), (404, &json!("NOT_FOUND")), "{method} {template}");
            assert_eq!(there.body, nowhere.body, "{method} {template}: a group looks as if there were none");
            let status = if is_of_groups(template) { 400 } else { 403 };
            assert_eq!(ask(&direct).await.status, status, "{method} {template}");
        }
    }

    // All that happens there passes her by, on every gateway.
    let mut nearby = Person::named(&near, &mallory.name).await;
    let member = format!("/api/chats/{group}/members/{}", bob.name);
    alice.rest("PATCH", &format!("/api/chats/{group}"), json!({ "name": "ours" })).await;
    for chat in [&group, &direct] {
        assert_eq!(bob.emit("typing", json!({ "chatId": chat, "typing": true })).await, json!({ "ok": true }));
    }
    bob.send(&group, "another secret").await;
    bob.send(&direct, "another secret").await;
    alice.rest("DELETE", &member, Value::Null).await;
    alice.rest("PUT", &member, json!({})).await;
    alice.rest("DELETE", &format!("/api/chats/{group}"), Value::Null).await;
    // Each change is announced in turn, and the last one has arrived.
    while bob.emit("history", json!({ "chatId": group })).await["ok"] == true {}
    alice.emit("sendMessage", json!({ "friendId": mallory.name, "content": "sentinel" })).await;
    for device in [&mut mallory, &mut nearby] {
        let first = tokio::time::timeout(SOON, device.events.next()).await.expect("the sentinel in time").unwrap();
        assert_eq!((first.name.as_str(), &first.data["content"]), ("newMessage", &json!("sentinel")), "{first:?}");
    }
    while alice.events.next_named("newMessage", SOON).await.unwrap()["content"] != "sentinel" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_id_is_refused_as_such_and_forms_no_key() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let alice = Person::at(&gateway, "alice").await;
    let name = &alice.name;
    let long = "x".repeat(10_000);
    for odd in [
        "*",
        "g_*",
        "{}",
        "a:{b}",
        "g_{00000000-0000-4000-8000-000000000000}",
        "a\nb",
        "a:b\n",
        "a:b:c",
        ":",
        "a:",
        ":b",
        "b:a",
        "g_00000000-0000-4000-8000-00000000000A",
        "g_00000000000040008000000000000000",
        "..",
        "a b",
        "ä:ö",
        "\0",
        &long,
        &format!("{name}:*"),
        &format!("{name}:{name}"),
    ] {
        for (event, payload) in EVENTS {
            let answer = alice.emit(event, payload(odd)).await;
            assert_eq!(answer["error"]["code"], "VALIDATION", "{event} {odd:?}: {answer}");
        }
        let resumed = alice.emit("resume", json!({ "offsets": { odd: { "epoch": "e", "seq": 0 } } })).await;
        assert_eq!(resumed["chats"][odd]["recovered"], false, "{resumed}");
        for (method, template, body) in ROUTES {
            let answer = alice.rest(method, &filled(template, odd, "bob"), body()).await;
            assert_eq!(
                (answer.status, &answer.body["code"]),
                (400, &json!("VALIDATION")),
                "{method} {template} {odd:?}"
            );
        }
        // Some are users' ids.
        if UserId::parse(odd).is_err() {
            let answer = alice.emit("sendMessage", json!({ "friendId": odd, "content": "x" })).await;
            assert_eq!(answer["error"]["code"], "VALIDATION", "{odd:?}: {answer}");
            for path in ["/api/friends/{}", "/api/blocks/{}"] {
                let answer = alice.rest("PUT", &path.replace("{}", &encoded(odd)), Value::Null).await;
                assert_eq!((answer.status, &answer.body["code"]), (400, &json!("VALIDATION")), "{path} {odd:?}");
            }
            let group = json!({ "name": "x", "members": [odd] });
            assert_eq!(alice.rest("POST", "/api/chats", group).await.status, 400, "{odd:?}");
        }
    }
}
