//! Profiles, and messages by their ids, over REST.

use std::time::{Duration, Instant};

use holdfast_message::{ChatId, MessageId, UserId};
use holdfast_redis::aside::BOUND;
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Response, request, shared, unique, until};
use serde_json::{Value, json};

use crate::described::Description;
use crate::support::{Gateway, message, send, settings};

const PROFILE: &str = "/api/users/{userId}/profile";
const MESSAGE: &str = "/api/chat/message/{messageId}";

async fn ask(gateway: &Gateway, user: &str, method: &str, path: &str, body: &Value) -> Response {
    let headers = [format!("authorization: Bearer {}", gateway.token(user)), "content-type: application/json".into()];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(&gateway.url, method, path, &headers, &body).await.unwrap()
}

async fn profile(gateway: &Gateway, asker: &str, user: &str) -> Response {
    ask(gateway, asker, "GET", &format!("/api/users/{user}/profile"), &Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_written_by_its_user_alone_and_read_by_anybody_on_every_gateway() {
    let settings = settings(&[]).await;
    let (near, far) = tokio::join!(Gateway::start(settings.clone()), Gateway::start(settings));
    let description = Description::served(&near.url).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let path = format!("/api/users/{alice}/profile");
    for gateway in [&near, &far] {
        let answer = profile(gateway, &bob, &alice).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!("NOT_FOUND")));
        description.check("GET", PROFILE, &answer);
    }
    for number in 1..=5 {
        let written = json!({ "displayName": format!("Alice {number}"), "about": "here" });
        let answer = ask(&near, &alice, "PUT", &path, &written).await;
        assert_eq!((answer.status, &answer.body), (200, &written));
        description.check("PUT", PROFILE, &answer);
        let told = Instant::now();
        assert_eq!(profile(&near, &bob, &alice).await.body, written, "one reads what one has written");
        until("the other gateway shows it", async || {
            let asked = told.elapsed();
            let shown = profile(&far, &bob, &alice).await.body == written;
            assert!(shown || asked <= BOUND, "the old one after {asked:?}");
            shown
        })
        .await;
        description.check("GET", PROFILE, &profile(&far, &bob, &alice).await);
    }
    for (status, user, body) in [
        (403, &bob, json!({ "displayName": "Not Bob" })),
        (400, &alice, json!({ "displayName": " " })),
        (400, &alice, json!({ "displayName": "Alice", "avatarUrl": "http://example.org/a.png" })),
        (400, &alice, json!({ "about": "without a name" })),
    ] {
        let answer = ask(&near, user, "PUT", &path, &body).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        description.check("PUT", PROFILE, &answer);
    }
    assert_eq!(profile(&near, &bob, &alice).await.body["displayName"], "Alice 5");
    assert_eq!(profile(&near, &bob, "no%20user").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_warming_the_profiles_of_who_was_active_last_are_cached_at_start() {
    let settings = settings(&[("CACHE_WARMUP_ENABLED", "true")]).await;
    let store = store(&settings).await;
    let alice = UserId::parse(&unique("alice")).unwrap();
    let profile = holdfast_store::Profile { display_name: "Alice".into(), avatar_url: None, about: None };
    store.put_profile(&alice, &profile, 1).await.unwrap();
    let message = holdfast_message::Draft::new(
        alice.clone(),
        ChatId::direct(&alice, &UserId::parse(&unique("bob")).unwrap()).unwrap(),
        None,
        "hello".into(),
        None,
        None,
    );
    store.insert(&[message.unwrap().stamp(1)]).await.unwrap();
    let gateway = Gateway::start(settings).await;
    until("a profile was loaded by nobody's request", async || {
        gateway.metric("cache_aside_loads_total{kind=\"profile\",result=\"ok\"}").await == 1.0
    })
    .await;
    assert_eq!(self::profile(&gateway, "somebody", alice.as_str()).await.body["displayName"], "Alice");
    assert_eq!(gateway.metric("cache_aside_loads_total{kind=\"profile\",result=\"ok\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_by_its_id_by_the_members_of_its_chat_alone() {
    let settings = settings(&[("MESSAGE_CACHE_TTL_SECS", "2")]).await;
    let store = store(&settings).await;
    let gateway = Gateway::start(settings).await;
    let description = Description::served(&gateway.url).await;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (client, _events) = gateway.connect(&alice).await;
    let sent = send(&client, &bob, "hello").await;
    let (id, chat) = (sent["messageId"].as_str().unwrap(), sent["chatId"].as_str().unwrap());
    let by = async |user: &str, id: &str, query: &str| {
        let answer = ask(&gateway, user, "GET", &format!("/api/chat/message/{id}{query}"), &Value::Null).await;
        description.check("GET", MESSAGE, &answer);
        answer
    };
    let nothing = by(&carol, &MessageId::unrepeatable().to_string(), "").await;
    assert_eq!((nothing.status, &nothing.body["code"]), (404, &json!("NOT_FOUND")));

    // No worker runs: it is durable, and not stored. Who names the chat finds it.
    assert_eq!(by(&bob, id, "").await.body, nothing.body);
    for query in [format!("?friendId={alice}"), format!("?chatId={chat}")] {
        let found = by(&bob, id, &query).await;
        assert_eq!((found.status, &found.body["content"]), (200, &json!("hello")), "{query}");
    }
    assert_eq!(by(&carol, id, &format!("?chatId={chat}")).await.body, nothing.body);
    assert_eq!(by(&bob, id, &format!("?friendId={carol}")).await.body, nothing.body);

    store.insert(&[message(&sent)]).await.unwrap();
    for user in [&alice, &bob] {
        assert_eq!(by(user, id, "").await.body["content"], "hello");
    }
    // Cached now, and still nobody else's.
    assert_eq!(by(&carol, id, "").await.body, nothing.body);
    assert_eq!(by(&bob, id, &format!("?friendId={carol}")).await.body, nothing.body);
    let loads = gateway.metric("cache_aside_loads_total{kind=\"message\",result=\"ok\"}").await;
    assert_eq!(by(&alice, id, "").await.status, 200);
    assert_eq!(gateway.metric("cache_aside_loads_total{kind=\"message\",result=\"ok\"}").await, loads);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(by(&alice, id, "").await.status, 200);
    assert_eq!(gateway.metric("cache_aside_loads_total{kind=\"message\",result=\"ok\"}").await, loads + 1.0);
    assert_eq!(by(&alice, "no-id", "").await.status, 400);
}

async fn store(settings: &[(String, String)]) -> Store {
    let db = settings.iter().find(|(name, _)| name == "MONGO_DB").unwrap().1.clone();
    Store::new(StoreSettings::new(&shared().await.mongo_url, db)).await.unwrap()
}
