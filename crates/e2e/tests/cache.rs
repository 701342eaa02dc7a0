//! The recent list answers on its own once it is known to be whole.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_bench::client::Client;
use holdfast_e2e::{Backends, Stack, StackOptions, eventually};
use holdfast_testkit::{shared, unique};
use serde_json::json;

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
        eventually("the list answers alone, and whole", Duration::from_secs(10), async || {
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
