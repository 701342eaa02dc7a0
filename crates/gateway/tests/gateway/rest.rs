//! REST, held against its description.

use std::io::Read as _;

use holdfast_testkit::{Response, request, unique};
use serde_json::{Value, json};

use crate::described::{Description, filled};
use crate::support::{Gateway, settings};

struct User {
    name: String,
    headers: Vec<String>,
}

impl User {
    fn new(gateway: &Gateway, name: &str) -> Self {
        let name = unique(name);
        let headers =
            vec![format!("authorization: Bearer {}", gateway.token(&name)), "content-type: application/json".into()];
        Self { name, headers }
    }

    async fn ask(&self, gateway: &Gateway, method: &str, path: &str, body: &str) -> Response {
        request(&gateway.url, method, path, &self.headers, body).await.unwrap()
    }

    async fn ask_with(&self, gateway: &Gateway, path: &str, header: &str) -> Response {
        let headers: Vec<_> = self.headers.iter().cloned().chain([header.to_owned()]).collect();
        request(&gateway.url, "GET", path, &headers, "").await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_operation_exists_and_no_other_method_does() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = Description::served(&gateway.url).await;
    let mut checked = 0;
    for (path, item) in description.0["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = request(&gateway.url, method, &filled(path), &[], "").await.unwrap();
            if item.get(method.to_lowercase()).is_some() {
                assert_eq!((answer.status, &answer.body["code"]), (401, &json!("UNAUTHENTICATED")), "{method} {path}");
                description.check(method, path, &answer);
                checked += 1;
            } else {
                assert_eq!((answer.status, &answer.body["status"]), (405, &json!(405)), "{method} {path}: {answer:?}");
                let allowed = answer.header("allow").unwrap_or_default();
                for (_, other, _) in description.operations().filter(|(other, ..)| other == path) {
                    assert!(allowed.contains(other), "{method} {path}: {allowed}");
                }
                assert!(!allowed.contains(&method.to_lowercase()), "{method} {path}: {allowed}");
            }
        }
    }
    assert_eq!(checked, description.operations().count());
    assert!(checked > 5);
    for path in ["/nothing", "/api-docs/nothing"] {
        let answer = request(&gateway.url, "GET", path, &[], "").await.unwrap();
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!("NOT_FOUND")), "{path}: {answer:?}");
    }
    // The other way round: routes come from `routes!`, which takes described handlers only.
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/rest")).unwrap() {
        let path = file.unwrap().path();
        assert!(
            !std::fs::read_to_string(&path).unwrap().contains(".route("),
            "{} has a route on the side",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_answers_are_as_described() {
    let gateway = Gateway::start(settings(&[("MESSAGE_LIMIT", "3")]).await).await;
    let description = Description::served(&gateway.url).await;
    let (alice, bob) = (User::new(&gateway, "alice"), User::new(&gateway, "bob"));
    let chat = format!("{}:{}", alice.name, bob.name);
    let stranger = "xaver:zoe";
    let send = json!({ "friendId": bob.name, "content": "hello", "tempId": "a", "imageUrl": "https://example.org/a.png", "publicId": "p" });
    let odd = json!({ "receiverId": bob.name, "content": "hello", "unknown": [1] });
    let history = format!("/api/chat/messages/{}", bob.name);
    for (status, method, path, asked, body) in [
        (201, "POST", "/api/chat/messages", "/api/chat/messages".to_owned(), send.to_string()),
        (200, "POST", "/api/messages/send", "/api/messages/send".into(), send.to_string()),
        (201, "POST", "/api/chats/{chatId}/messages", format!("/api/chats/{chat}/messages"), odd.to_string()),
        (429, "POST", "/api/chat/messages", "/api/chat/messages".into(), odd.to_string()),
        (400, "POST", "/api/chat/messages", "/api/chat/messages".into(), "{".into()),
        (413, "POST", "/api/chat/messages", "/api/chat/messages".into(), "x".repeat(1_100_000)),
        (
            403,
            "POST",
            "/api/chats/{chatId}/messages",
            format!("/api/chats/{stranger}/messages"),
            json!({ "content": "x" }).to_string(),
        ),
        (200, "GET", "/api/chat/messages/{friendId}", history.clone(), String::new()),
        (200, "GET", "/api/chats/{chatId}/messages", format!("/api/chats/{chat}/messages?limit=1"), String::new()),
        (200, "GET", "/messages/{friendId}", format!("/messages/{}", bob.name), String::new()),
        (400, "GET", "/api/chat/messages/{friendId}", format!("{history}?limit=101"), String::new()),
        (400, "GET", "/api/chat/messages/{friendId}", format!("{history}?before=x"), String::new()),
        (400, "GET", "/api/chat/messages/{friendId}", "/api/chat/messages/a%2Fb".into(), String::new()),
        (400, "GET", "/api/chat/messages/{friendId}", "/api/chat/messages/%FF".into(), String::new()),
        (403, "GET", "/api/chats/{chatId}/messages", format!("/api/chats/{stranger}/messages"), String::new()),
        (
            404,
            "GET",
            "/api/chats/{chatId}/messages",
            "/api/chats/g_00000000-0000-4000-8000-000000000000/messages".into(),
            String::new(),
        ),
    ] {
        let answer = alice.ask(&gateway, method, &asked, &body).await;
        assert_eq!(answer.status, status, "{method} {asked}: {answer:?}");
        description.check(method, path, &answer);
    }
    let mut form = User::new(&gateway, "form");
    form.headers[1] = "content-type: application/x-www-form-urlencoded".into();
    let answer = form.ask(&gateway, "POST", "/api/chat/messages", "content=x").await;
    assert_eq!(answer.status, 415, "{answer:?}");
    description.check("POST", "/api/chat/messages", &answer);
    let refused = gateway.metric("holdfast_gateway_rejected_total{code=\"VALIDATION\"}").await;
    assert_eq!(refused, 6.0, "each refusal is counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_are_as_described_and_are_taken() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = Description::served(&gateway.url).await;
    let alice = User::new(&gateway, "alice");
    let mut sent = 0;
    for (path, method, operation) in description.operations() {
        for response in operation["responses"].as_object().unwrap().values() {
            for content in response["content"].as_object().into_iter().flat_map(|content| content.values()) {
                for example in content["examples"].as_object().into_iter().flat_map(|examples| examples.values()) {
                    description.validate(&content["schema"], &example["value"]);
                }
                if let Some(example) = content.get("example") {
                    description.validate(&content["schema"], example);
                }
            }
        }
        let Some(body) = operation.pointer("/requestBody/content/application~1json") else { continue };
        let example = body.get("example").unwrap_or_else(|| panic!("{method} {path} has no example"));
        description.accepts(&body["schema"], example);
        // Only the sends' examples need nothing but users.
        if operation["operationId"].as_str().is_some_and(|id| id.starts_with("sendMessage")) {
            let answer = alice.ask(&gateway, &method.to_uppercase(), path, &example.to_string()).await;
            assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
            description.check(method, path, &answer);
            sent += 1;
        }
    }
    assert_eq!(sent, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_other_host() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let moved = request(&gateway.url, "GET", "/api-docs", &[], "").await.unwrap();
    assert_eq!((moved.status, moved.header("location")), (303, Some("/api-docs/")));
    let page = request(&gateway.url, "GET", "/api-docs/", &[], "").await.unwrap();
    let html = String::from_utf8(page.bytes).unwrap();
    let linked: Vec<_> =
        html.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css")).collect();
    assert!(linked.len() >= 3, "{html}");
    for file in linked {
        let name = file.trim_start_matches("./");
        assert!(!name.contains("//"), "{name} lies elsewhere");
        let answer = request(&gateway.url, "GET", &format!("/api-docs/{name}"), &[], "").await.unwrap();
        assert_eq!(answer.status, 200, "{name}");
    }
    let settings = request(&gateway.url, "GET", "/api-docs/swagger-initializer.js", &[], "").await.unwrap();
    let settings = String::from_utf8(settings.bytes).unwrap();
    assert!(
        settings.contains("/api-docs/openapi.json") && settings.contains("\"validatorUrl\": \"none\""),
        "{settings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_compressed_for_who_accepts_it_and_polling_is_left_alone() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (User::new(&gateway, "alice"), unique("bob"));
    let path = format!("/api/chat/messages/{bob}");
    let short = alice.ask_with(&gateway, &path, "accept-encoding: gzip, zstd").await;
    assert_eq!((short.status, short.header("content-encoding")), (200, None), "{short:?}");
    let body = json!({ "friendId": bob, "content": "a text that repeats itself; ".repeat(100) }).to_string();
    assert_eq!(alice.ask(&gateway, "POST", "/api/chat/messages", &body).await.status, 201);

    let plain = alice.ask(&gateway, "GET", &path, "").await;
    assert_eq!(plain.header("content-encoding"), None);
    for (accepted, encoding) in [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip;q=0.5, zstd", "zstd"),
        ("br", ""),
        ("identity;q=0", ""),
        ("gzip, identity; q=0.5", "gzip"),
    ] {
        let answer = alice.ask_with(&gateway, &path, &format!("accept-encoding: {accepted}")).await;
        assert_eq!(answer.header("content-encoding").unwrap_or_default(), encoding, "{accepted}");
        assert!(
            answer.header("vary").is_some_and(|vary| vary.contains("accept-encoding")),
            "{accepted}: {}",
            answer.head
        );
        let bytes = match encoding {
            "gzip" => {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(&*answer.bytes).read_to_end(&mut bytes).unwrap();
                bytes
            }
            "zstd" => zstd::decode_all(&*answer.bytes).unwrap(),
            _ => answer.bytes.clone(),
        };
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["messages"], plain.body["messages"], "{accepted}");
        assert!(encoding.is_empty() || answer.bytes.len() < bytes.len() / 2, "{accepted}");
    }
    let polled = alice.ask_with(&gateway, "/socket.io/?EIO=4&transport=polling", "accept-encoding: gzip, zstd").await;
    assert_eq!((polled.status, polled.header("content-encoding")), (200, None), "{polled:?}");
    assert!(polled.bytes.starts_with(b"0{\"sid\""), "{polled:?}");
}
