//! The recent list answers on its own once it is known to be whole.

use anyhow::{Result, ensure};
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions, eventually};
use holdfast_socketio_client::Client;
use holdfast_testkit::{shared, unique};
use mongodb::bson::doc;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_list_answers_alone_and_says_the_same_as_the_store() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::default()).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _) = Client::connect(stack.url(), &stack.token(&alice)).await?;
    for count in [30, 130] {
        for index in 0..count {
            let answer = client
                .emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": format!("message {index}") }))
                .await?;
            ensure!(answer["ok"] == true, "{answer}");
        }
        eventually("the list answers alone, and whole", LIVENESS, async || {
            let page = client.emit_with_ack("history", &json!({ "friendId": bob, "limit": 50 })).await?;
            ensure!(page["source"] == "cache" && page["complete"] == true, "{} {}", page["source"], page["complete"]);
            let stored = stack.stored.history(&format!("{alice}:{bob}")).await?;
            let ids =
                page["messages"].as_array().into_iter().flatten().filter_map(|message| message["messageId"].as_str());
            ensure!(ids.eq(stored.iter().take(50).map(String::as_str)), "the list differs from what is stored");
            ensure!(page.get("nextCursor").is_some() == (stored.len() > 50), "{}", page["nextCursor"]);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_stored_as_of_another_time_than_listed_is_shown_where_it_is_stored() -> Result<()> {
    let settings = vec![("RECENT_MAX_MESSAGES", "4".into()), ("RECENT_VERIFY_SECS", "1".into())];
    let shared = shared().await;
    let stack = Stack::start(&Backends::from(shared), StackOptions { settings, ..Default::default() }).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let chat = format!("{alice}:{bob}");
    let (client, _) = Client::connect(stack.url(), &stack.token(&alice)).await?;
    let mut sent = Vec::new();
    for number in 0..8 {
        let send = json!({ "friendId": bob, "content": format!("message {number}") });
        sent.push(client.emit_with_ack("sendMessage", &send).await?["message"].clone());
    }
    eventually("all is stored", LIVENESS, async || {
        ensure!(stack.stored.count().await? == 8, "it is not");
        Ok(())
    })
    .await?;

    // As if an earlier copy of the last message had been stored before any other was sent.
    let first = sent[0]["timestamp"].as_i64().unwrap_or_default();
    let last = sent[7]["messageId"].as_str().unwrap_or_default();
    let mongo = mongodb::Client::with_uri_str(&shared.mongo_url).await?;
    let messages = mongo.database(&stack.key_prefix).collection::<mongodb::bson::Document>("messages");
    messages.update_one(doc! { "_id": last }, doc! { "$set": { "timestamp": first - 1000 } }).await?;

    let stored = stack.stored.history(&chat).await?;
    for source in ["merged", "cache"] {
        eventually("the page is as stored", LIVENESS, async || {
            let page = client.emit_with_ack("history", &json!({ "friendId": bob, "limit": 3 })).await?;
            let ids =
                page["messages"].as_array().into_iter().flatten().filter_map(|message| message["messageId"].as_str());
            ensure!(ids.eq(stored.iter().take(3).map(String::as_str)), "{page}");
            ensure!(page["source"] == source || source == "merged", "{}", page["source"]);
            ensure!(page["complete"] == Value::Bool(true), "{page}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
