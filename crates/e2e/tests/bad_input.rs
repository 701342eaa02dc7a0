//! Bad input gets a clear error with its code, is counted, and costs nobody else anything.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_e2e::{Backends, Stack, StackOptions};
use holdfast_socketio_client::{Client, ConnectError};
use holdfast_testkit::{request, shared, token, unique};
use serde_json::{Value, json};

async fn stack() -> Result<Stack> {
    Stack::start(&Backends::from(shared().await), StackOptions { workers: 0, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_without_a_valid_token_is_refused() -> Result<()> {
    let stack = stack().await?;
    let foreign = token("alice", "another-secret-that-is-32-bytes-long!", Duration::from_secs(60));
    let wrong_user = stack.token("a:b");
    for auth in [
        json!({}),
        json!({ "token": "x" }),
        json!({ "token": 7 }),
        json!({ "token": foreign }),
        json!({ "token": wrong_user }),
        json!([]),
    ] {
        let refused = Client::connect_with(stack.url(), &auth).await;
        let Err(ConnectError::Refused { message, .. }) = refused else {
            anyhow::bail!("{auth} was let in, or not answered")
        };
        ensure!(message == "UNAUTHENTICATED", "{message}");
    }
    let counted = stack.gateways[0].metric("holdfast_gateway_rejected_total{code=\"UNAUTHENTICATED\"}").await?;
    ensure!(counted == 6.0, "{counted} counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_send_is_refused_with_its_code_and_the_connection_stays() -> Result<()> {
    let stack = stack().await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _) = Client::connect(stack.url(), &stack.token(&alice)).await?;
    let bad: Vec<(&str, Value)> = vec![
        ("VALIDATION", json!({ "friendId": bob, "content": "" })),
        ("VALIDATION", json!({ "friendId": bob, "content": " \n\t" })),
        ("VALIDATION", json!({ "friendId": bob, "content": "x".repeat(4097) })),
        ("VALIDATION", json!({ "friendId": bob, "content": "x".repeat(500_000) })),
        ("VALIDATION", json!({ "friendId": bob, "content": 7 })),
        ("VALIDATION", json!({ "friendId": bob })),
        ("VALIDATION", json!({ "content": "x" })),
        ("VALIDATION", json!({ "friendId": alice, "content": "x" })),
        ("VALIDATION", json!({ "friendId": "a:b", "content": "x" })),
        ("VALIDATION", json!({ "friendId": "*", "content": "x" })),
        ("VALIDATION", json!({ "chatId": "zoe:adam", "content": "x" })),
        ("FORBIDDEN", json!({ "chatId": "xaver:zoe", "content": "x" })),
        ("NOT_FOUND", json!({ "chatId": "g_00000000-0000-4000-8000-000000000000", "content": "x" })),
        ("VALIDATION", json!({ "friendId": bob, "chatId": "xaver:zoe", "content": "x" })),
        ("VALIDATION", json!({ "friendId": bob, "content": "x", "tempId": "" })),
        ("VALIDATION", json!({ "friendId": bob, "content": "x", "tempId": 7 })),
        ("VALIDATION", json!({ "friendId": bob, "content": "x", "imageUrl": "http://example.org/a.png" })),
        ("VALIDATION", json!("text")),
        ("VALIDATION", json!([])),
        ("VALIDATION", Value::Null),
        ("VALIDATION", json!({ "_placeholder": true, "num": 0 })),
    ];
    let before = rejected(&stack).await?;
    for (code, payload) in &bad {
        let answer = client.emit_with_ack("sendMessage", payload).await?;
        ensure!(answer["ok"] == false && answer["error"]["code"] == *code, "{payload}: {answer}");
        ensure!(answer["error"]["retryable"] == false && answer["error"]["message"].is_string(), "{payload}: {answer}");
    }
    client.emit("sendMessage", &json!({ "friendId": bob, "content": "no acknowledgement asked for" })).await?;
    for (code, payload) in [
        ("VALIDATION", json!({ "friendId": bob, "limit": 0 })),
        ("VALIDATION", json!({ "friendId": bob, "limit": 101 })),
        ("VALIDATION", json!({ "friendId": bob, "before": "nonsense" })),
        ("FORBIDDEN", json!({ "chatId": "xaver:zoe" })),
    ] {
        let answer = client.emit_with_ack("history", &payload).await?;
        ensure!(answer["ok"] == false && answer["error"]["code"] == code, "{payload}: {answer}");
    }
    let unknown = client.emit_with_ack("noSuchEvent", &json!({})).await?;
    ensure!(unknown["error"]["code"] == "VALIDATION", "{unknown}");

    let good = client.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": "fine" })).await?;
    ensure!(good["ok"] == true, "{good}");
    ensure!(rejected(&stack).await? - before == bad.len() as f64 + 1.0, "not all were counted");
    let history = client.emit_with_ack("history", &json!({ "friendId": bob })).await?;
    ensure!(history["messages"].as_array().map(Vec::len) == Some(1), "{history}");
    Ok(())
}

async fn rejected(stack: &Stack) -> Result<f64> {
    stack.gateways[0].metric("holdfast_gateway_messages_total{outcome=\"rejected\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_above_the_limit_ends_at_most_its_own_connection() -> Result<()> {
    let stack = stack().await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _) = Client::connect(stack.url(), &stack.token(&alice)).await?;
    let (other, _) = Client::connect(stack.url(), &stack.token(&bob)).await?;
    let huge = json!({ "friendId": bob, "content": "x".repeat(2_000_000) });
    ensure!(client.emit_with_ack("sendMessage", &huge).await.is_err(), "the transport took it");
    let good = other.emit_with_ack("sendMessage", &json!({ "friendId": alice, "content": "fine" })).await?;
    ensure!(good["ok"] == true, "{good}");

    let headers = [format!("authorization: Bearer {}", stack.token(&alice)), "content-type: application/json".into()];
    let answer = request(stack.url(), "POST", "/api/chat/messages", &headers, &huge.to_string()).await?;
    ensure!(answer.status == 413, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_refuses_with_problem_documents() -> Result<()> {
    let stack = stack().await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let bearer = format!("authorization: Bearer {}", stack.token(&alice));
    let post =
        async |headers: &[String], body: &str| request(stack.url(), "POST", "/api/chat/messages", headers, body).await;
    let (one, fine) =
        (std::slice::from_ref(&bearer), json!({ "friendId": bob, "content": "x", "tempId": "a" }).to_string());
    for (status, code, answer) in [
        (401, "UNAUTHENTICATED", post(&[], &fine).await?),
        (400, "VALIDATION", post(one, "{").await?),
        (400, "VALIDATION", post(one, "{}").await?),
        (400, "VALIDATION", post(&[bearer.clone(), "idempotency-key: b".into()], &fine).await?),
        (404, "NOT_FOUND", request(stack.url(), "GET", "/api/nothing", one, "").await?),
        (400, "VALIDATION", request(stack.url(), "GET", &format!("/api/chat/messages/{bob}?limit=x"), one, "").await?),
        (400, "VALIDATION", request(stack.url(), "GET", &format!("/api/chat/messages/{alice}"), one, "").await?),
    ] {
        ensure!(answer.status == status && answer.body["code"] == code, "{answer:?}");
        ensure!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
        ensure!(answer.body["retryable"] == false && answer.body["status"] == status, "{answer:?}");
    }
    Ok(())
}
