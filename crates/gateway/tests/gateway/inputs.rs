//! What clients and tools really send, over REST and sockets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_socketio_client::Client;
use holdfast_testkit::{Response, request, unique};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::people::Person;
use crate::support::{Gateway, SECRET, settings};

async fn ask(gateway: &Gateway, token: &str, method: &str, path: &str, more: &[&str], body: &str) -> Response {
    let mut headers = vec![format!("authorization: Bearer {token}"), "content-type: application/json".into()];
    headers.extend(more.iter().map(|header| (*header).to_owned()));
    request(&gateway.url, method, path, &headers, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_number_is_an_integer_however_it_is_written() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let chat = format!("{}:{}", alice.name, bob.name);
    let first = alice.send(&chat, "first").await;
    alice.send(&chat, "second").await;
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for limit in ["1", "1.0", "1e0", "10e-1"] {
        let page = alice.emit("history", json!({ "friendId": bob.name, "limit": number(limit) })).await;
        assert_eq!(page["messages"].as_array().map(Vec::len), Some(1), "{limit}: {page}");
        let list = alice.emit("conversations", json!({ "limit": number(limit) })).await;
        assert_eq!(list["ok"], true, "{limit}: {list}");
        for path in
            [format!("/api/chat/messages/{}?limit={limit}", bob.name), format!("/api/chat/conversations?limit={limit}")]
        {
            let answer = gateway.get(&alice.name, &path).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
    for limit in ["20.5", "1e300", "-1.0", "18446744073709551616", "0.0", "101.0", r#""20""#, "[1]"] {
        for event in ["history", "conversations"] {
            let answer = alice.emit(event, json!({ "friendId": bob.name, "limit": number(limit) })).await;
            assert_eq!(answer["error"]["code"], "VALIDATION", "{event} {limit}: {answer}");
        }
    }
    for limit in ["20.5", "1e300", "-1.0", "NaN", "inf", "0.0", "101.0", ""] {
        let answer = gateway.get(&alice.name, &format!("/api/chat/messages/{}?limit={limit}", bob.name)).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("VALIDATION")), "{limit}: {answer:?}");
    }
    for (seq, recovered) in
        [("1", true), ("1.0", true), ("1e0", true), ("1.5", false), ("1e300", false), (r#""1""#, false)]
    {
        let offset = json!({ "epoch": first["epoch"], "seq": number(seq) });
        let answer = bob.emit("resume", json!({ "offsets": { &chat: offset } })).await;
        assert_eq!(answer["chats"][&chat]["recovered"], recovered, "{seq}: {answer}");
    }
}

fn token(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_judged_alike_over_rest_and_sockets() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let plain = r#"{"alg":"HS256","typ":"JWT"}"#;
    let far = r#"{"sub":"alice","exp":1e300}"#;
    for (valid, header, claims) in [
        (true, plain, far),
        (true, plain, r#"{"sub":"alice","exp":4102444800.5}"#),
        (true, plain, r#"{"sub":"alice","exp":18446744073709551616}"#),
        (false, plain, r#"{"sub":"alice","exp":-1e300}"#),
        (false, plain, r#"{"sub":"alice","exp":"1e300"}"#),
        (false, plain, r#"{"sub":"alice","exp":1e300,"nbf":1e300}"#),
        (false, r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, far),
        (false, r#"{"alg":"HS256","crit":["b64"],"b64":true}"#, r#"{"sub":"alice","exp":4102444800}"#),
        (false, r#"{"alg":"HS256","crit":["unknown"],"unknown":1}"#, r#"{"sub":"alice","exp":4102444800}"#),
        (false, r#"{"alg":"HS256","crit":[]}"#, r#"{"sub":"alice","exp":4102444800}"#),
        (false, r#"{"alg":"HS256","crit":null}"#, r#"{"sub":"alice","exp":4102444800}"#),
    ] {
        let token = token(header, claims);
        let answer = ask(&gateway, &token, "GET", "/api/chat/unread", &[], "").await;
        assert_eq!(answer.status, if valid { 200 } else { 401 }, "{header} {claims}: {answer:?}");
        let connected = Client::connect(&gateway.url, &token).await;
        assert_eq!(connected.is_ok(), valid, "{header} {claims}");
        if let Ok((client, _events)) = connected {
            let answer = client.emit_with_ack("unread", &json!({})).await.unwrap();
            assert_eq!(answer["ok"], true, "a connection lives as long as its token: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_begin_with_a_byte_order_mark() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (name, bob) = (unique("alice"), unique("bob"));
    let token = gateway.token(&name);
    let send = json!({ "friendId": bob, "content": "\u{feff}hello", "tempId": "a" }).to_string();
    let with = ask(&gateway, &token, "POST", "/api/chat/messages", &[], &format!("\u{feff}{send}")).await;
    assert_eq!((with.status, &with.body["message"]["content"]), (201, &json!("\u{feff}hello")), "{with:?}");
    let without = ask(&gateway, &token, "POST", "/api/chat/messages", &[], &send).await;
    assert_eq!(without.status, 200, "the same message: {without:?}");
    let group = json!({ "name": "sea", "members": [bob] });
    let made = ask(&gateway, &token, "POST", "/api/chats", &[], &format!("\u{feff}{group}")).await;
    assert_eq!(made.status, 201, "{made:?}");
    let twice = ask(&gateway, &token, "POST", "/api/chat/messages", &[], &format!("\u{feff}\u{feff}{send}")).await;
    assert_eq!(twice.status, 400, "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shows_nothing_counts_as_empty() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, unique("bob"));
    let profile = format!("/api/users/{}/profile", alice.name);
    let group = alice.group(&[&bob]).await;
    for nothing in
        ["\u{200b}", "\u{2800}", "\u{3164}", "\u{e0020}", "\u{0}", " \u{fe0f}\u{202e}\u{feff}\n", "\u{115f}\u{ad}"]
    {
        let send = json!({ "friendId": bob, "content": nothing });
        let answer = alice.emit("sendMessage", send.clone()).await;
        assert_eq!(answer["error"]["code"], "VALIDATION", "{nothing:?}: {answer}");
        let named = json!({ "name": nothing });
        for (method, path, body) in [
            ("POST", "/api/chat/messages".to_owned(), send),
            ("PUT", profile.clone(), json!({ "displayName": nothing })),
            ("POST", "/api/chats".to_owned(), named.clone()),
            ("PATCH", format!("/api/chats/{group}"), named),
        ] {
            let answer = alice.rest(method, &path, body).await;
            assert_eq!(
                (answer.status, &answer.body["code"]),
                (400, &json!("VALIDATION")),
                "{method} {path} {nothing:?}"
            );
        }
        let beside = json!({ "friendId": bob, "content": nothing, "imageUrl": "https://example.org/a.png" });
        let answer = alice.emit("sendMessage", beside).await;
        assert_eq!(answer["message"]["content"], nothing, "beside an image: {answer}");
        let shown = alice.emit("sendMessage", json!({ "friendId": bob, "content": format!("{nothing}x") })).await;
        assert_eq!(shown["ok"], true, "{nothing:?}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_one_key_bare_and_in_quotes_and_never_two() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (name, bob) = (unique("alice"), unique("bob"));
    let token = gateway.token(&name);
    let send = json!({ "friendId": bob, "content": "hello" }).to_string();
    let chat = json!({ "content": "hello" }).to_string();
    let group = json!({ "name": "sea", "members": [bob] }).to_string();
    let chats = format!("/api/chats/{name}:{bob}/messages");
    let routes = [
        ("/api/chat/messages", &send, "/message/messageId"),
        ("/api/messages/send", &send, "/message/messageId"),
        (chats.as_str(), &chat, "/message/messageId"),
        ("/api/chats", &group, "/chatId"),
    ];
    for (path, body, id) in routes {
        let key = unique("key");
        let post = async |headers: &[String]| {
            let headers: Vec<_> = headers.iter().map(String::as_str).collect();
            ask(&gateway, &token, "POST", path, &headers, body).await
        };
        let (bare, quoted) = (format!("Idempotency-Key: {key}"), format!("Idempotency-Key: \"{key}\""));
        let first = post(std::slice::from_ref(&bare)).await;
        assert_eq!(first.status, 201, "{path}: {first:?}");
        for same in [vec![quoted.clone()], vec![bare.clone(), quoted.clone()], vec![bare.clone(), bare.clone()]] {
            let again = post(&same).await;
            assert_eq!((again.status, again.body.pointer(id)), (200, first.body.pointer(id)), "{path} {same:?}");
        }
        let other = format!("Idempotency-Key: {}", unique("other"));
        let both = post(&[bare.clone(), other.clone()]).await;
        assert_eq!((both.status, &both.body["code"]), (400, &json!("VALIDATION")), "{path}: {both:?}");
        assert_eq!(post(&[other]).await.status, 201, "{path}: nothing was made under the second key");
        for none in
            ["Idempotency-Key: \"open", "Idempotency-Key:", "Idempotency-Key: \"\"", "Idempotency-Key: \"a\", \"b\""]
        {
            let answer = post(&[none.to_owned()]).await;
            assert_eq!((answer.status, &answer.body["code"]), (400, &json!("VALIDATION")), "{path} {none}: {answer:?}");
        }
    }
}
