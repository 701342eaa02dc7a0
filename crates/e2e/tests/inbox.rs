//! What users see of their chats, on two gateways, against what MongoDB says.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use futures_util::TryStreamExt;
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions, eventually, insist};
use holdfast_socketio_client::{Client, Events};
use holdfast_testkit::{Redis, connect_redis, request, shared, unique};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

/// The store, asked past the gateways.
struct Truth {
    db: mongodb::Database,
}

type Place = (i64, String);

impl Truth {
    async fn of(stack: &Stack, mongo: &str) -> Result<Self> {
        Ok(Self { db: mongodb::Client::with_uri_str(mongo).await?.database(&stack.key_prefix) })
    }

    async fn all(&self, collection: &str) -> Result<Vec<Document>> {
        Ok(self.db.collection::<Document>(collection).find(doc! {}).await?.try_collect().await?)
    }

    /// By chat and user.
    async fn watermarks(&self) -> Result<HashMap<(String, String), Place>> {
        let place = |state: Document| {
            let (id, up_to) = (state.get_document("_id")?, state.get_document("upTo")?);
            let key = (id.get_str("chatId")?.to_owned(), id.get_str("userId")?.to_owned());
            Ok((key, (up_to.get_i64("timestamp")?, up_to.get_str("messageId")?.to_owned())))
        };
        // Of a group in which somebody did something else, nothing need be read.
        self.all("readStates").await?.into_iter().filter(|state| state.contains_key("upTo")).map(place).collect()
    }

    /// What `unread` and `conversations` have to say to a user who has these chats.
    async fn inbox(&self, user: &str, chats: &[String]) -> Result<(BTreeMap<String, usize>, Vec<(String, String)>)> {
        let watermarks = self.watermarks().await?;
        let (mut counts, mut last) = (BTreeMap::new(), HashMap::<String, Place>::new());
        for message in self.all("messages").await? {
            let chat = message.get_str("chatId")?.to_owned();
            if !chats.contains(&chat) {
                continue;
            }
            let place = (message.get_i64("timestamp")?, message.get_str("_id")?.to_owned());
            let above = watermarks.get(&(chat.clone(), user.to_owned())).is_none_or(|read| place > *read);
            if above && message.get_str("senderId")? != user {
                *counts.entry(chat.clone()).or_default() += 1;
            }
            let newest = last.entry(chat).or_insert_with(|| place.clone());
            *newest = newest.clone().max(place);
        }
        let mut list: Vec<_> = last.into_iter().map(|(chat, (timestamp, id))| (timestamp, chat, id)).collect();
        list.sort_by(|one, other| other.cmp(one));
        Ok((counts, list.into_iter().map(|(_, chat, id)| (chat, id)).collect()))
    }
}

async fn ask(client: &Client, event: &str, payload: Value) -> Result<Value> {
    let answer = client.emit_with_ack(event, &payload).await?;
    ensure!(answer["ok"] == true, "{event} {payload}: {answer}");
    Ok(answer)
}

async fn send(client: &Client, chat: &str, content: &str) -> Result<Value> {
    Ok(ask(client, "sendMessage", json!({ "chatId": chat, "content": content })).await?["message"].clone())
}

fn counts(answer: &Value) -> BTreeMap<String, usize> {
    let counts = answer["counts"].as_object().into_iter().flatten();
    counts.map(|(chat, count)| (chat.clone(), count.as_u64().unwrap_or(u64::MAX) as usize)).collect()
}

/// All pages: chat and last message; and that what they say of unread messages is what `unread` says.
async fn list(client: &Client, limit: usize, unread: &BTreeMap<String, usize>) -> Result<Vec<(String, String)>> {
    let (mut list, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut wanted = json!({ "limit": limit });
        if cursor.is_string() {
            wanted["before"] = cursor;
        }
        let page = ask(client, "conversations", wanted).await?;
        ensure!(page["complete"] == true, "{page}");
        for shown in page["conversations"].as_array().context("conversations")? {
            let chat = shown["chatId"].as_str().unwrap_or_default().to_owned();
            let count = unread.get(&chat).copied().unwrap_or_default();
            ensure!(shown["unread"] == count, "{chat}: {} in the list, {count} elsewhere", shown["unread"]);
            if let Some(last) = shown["lastMessage"]["messageId"].as_str() {
                list.push((chat, last.to_owned()));
            }
        }
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            return Ok(list);
        }
    }
}

/// The next `unreadCount` that says so; earlier ones may say less.
async fn told(events: &mut Events, count: u64, total: u64) -> Result<()> {
    let mut last = Value::Null;
    while let Some(told) = events.next_named("unreadCount", LIVENESS).await {
        if told["count"] == count && told["total"] == total {
            return Ok(());
        }
        last = told;
    }
    anyhow::bail!("never told of {count}, {total}; the last was {last}")
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_receipts_and_lists_are_the_same_on_two_gateways() -> Result<()> {
    let shared = shared().await;
    let stack = Stack::start(&Backends::from(shared), StackOptions::patient(2)).await?;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let chat = format!("{alice}:{bob}");
    let connect =
        async |gateway: usize, user: &str| Client::connect(&stack.gateways[gateway].url, &stack.token(user)).await;
    let (on_a, mut of_alice) = connect(0, &alice).await?;
    let (phone, mut of_phone) = connect(1, &bob).await?;
    let (_tablet, mut of_tablet) = connect(0, &bob).await?;
    ensure!(ask(&phone, "unread", json!({})).await?["total"] == 0);

    let mut sent = Vec::new();
    for n in 0..3 {
        sent.push(send(&on_a, &chat, &format!("message {n}")).await?);
    }
    told(&mut of_phone, 3, 3).await?;
    told(&mut of_tablet, 3, 3).await?;
    ensure!(counts(&ask(&phone, "unread", json!({})).await?) == BTreeMap::from([(chat.clone(), 3)]));
    ensure!(ask(&on_a, "unread", json!({})).await?["total"] == 0, "one's own messages are not unread");

    // A repeat counts nothing; nor does it move the chat.
    let again = json!({ "chatId": chat, "content": "again", "tempId": "t" });
    for duplicate in [false, true] {
        let answer = ask(&on_a, "sendMessage", again.clone()).await?;
        ensure!(answer.get("duplicate").is_some() == duplicate, "{answer}");
    }
    told(&mut of_phone, 4, 4).await?;

    let up_to = |n: usize| json!({ "chatId": chat, "upTo": sent[n]["messageId"] });
    ensure!(ask(&phone, "markRead", up_to(1)).await?["unread"] == 2);
    told(&mut of_tablet, 2, 2).await?;
    let receipt = of_alice.next_named("messagesRead", LIVENESS).await.context("no receipt")?;
    ensure!(receipt == json!({ "chatId": chat, "userId": bob, "upTo": sent[1]["messageId"] }), "{receipt}");
    // Backwards it changes nothing, and nobody is told: the next receipt is a later one.
    ensure!(ask(&phone, "markRead", up_to(0)).await?["unread"] == 2);
    let headers = [format!("authorization: Bearer {}", stack.token(&bob)), "content-type: application/json".into()];
    let body = json!({ "upTo": sent[2]["messageId"] }).to_string();
    let path = format!("/api/chat/messages/{alice}/read");
    let read = request(&stack.gateways[1].url, "PUT", &path, &headers, &body).await?;
    ensure!(read.status == 200 && read.body == json!({ "unread": 1 }), "{read:?}");
    let receipt = of_alice.next_named("messagesRead", LIVENESS).await.context("no receipt")?;
    ensure!(receipt["upTo"] == sent[2]["messageId"], "{receipt}");
    told(&mut of_tablet, 1, 1).await?;
    let over_rest = request(stack.url(), "GET", "/api/chat/unread", &headers, "").await?;
    ensure!(over_rest.body == json!({ "counts": { chat.clone(): 1 }, "total": 1 }), "{over_rest:?}");

    let nowhere = json!({ "chatId": chat, "upTo": "00000000-0000-4000-8000-000000000000" });
    let refused = phone.emit_with_ack("markRead", &nowhere).await?;
    ensure!(refused["error"]["code"] == "NOT_FOUND" && refused["error"]["retryable"] == true, "{refused}");
    let (on_c, _events) = connect(0, &carol).await?;
    let refused = on_c.emit_with_ack("markRead", &up_to(2)).await?;
    ensure!(refused["error"]["code"] == "FORBIDDEN", "{refused}");
    // Nor by way of a chat of one's own.
    let elsewhere = json!({ "friendId": alice, "upTo": sent[2]["messageId"] });
    let refused = on_c.emit_with_ack("markRead", &elsewhere).await?;
    ensure!(refused["error"]["code"] == "NOT_FOUND", "{refused}");

    // Another chat comes above it at once, for both of its members, before anything is stored of it perhaps.
    let newer = send(&on_c, &format!("{bob}:{carol}"), "hello").await?;
    let page = ask(&phone, "conversations", json!({})).await?;
    let shown: Vec<_> = page["conversations"].as_array().into_iter().flatten().collect();
    ensure!(shown.len() == 2 && page.get("nextCursor").is_none(), "{page}");
    ensure!(shown[0]["lastMessage"]["messageId"] == newer["messageId"] && shown[0]["unread"] == 1, "{page}");
    ensure!(shown[0]["members"] == json!([bob, carol]) && shown[1]["chatId"] == chat, "{page}");
    let page = request(stack.url(), "GET", "/api/chat/conversations?limit=1", &headers, "").await?;
    ensure!(page.body["conversations"][0]["chatId"] == format!("{bob}:{carol}"), "{page:?}");
    ensure!(page.body["nextCursor"].is_string(), "{page:?}");
    Ok(())
}

/// Users who write, read and repeat at random, with the devices that are connected.
struct Crowd {
    users: Vec<String>,
    /// Each with its members.
    chats: Vec<(String, Vec<usize>)>,
    /// By user: devices, each on one gateway.
    devices: Vec<Vec<Client>>,
    sent: Vec<Vec<Value>>,
    /// Sends without an answer, of a chat's user: what a client repeats.
    owed: Vec<(usize, usize, Value)>,
    /// By chat and user: the farthest that was acknowledged.
    read: HashMap<(usize, usize), Place>,
    rng: Rng,
}

fn place(message: &Value) -> Place {
    (message["timestamp"].as_i64().unwrap_or_default(), message["messageId"].as_str().unwrap_or_default().to_owned())
}

impl Crowd {
    async fn new(stack: &Stack, seed: u64) -> Result<Self> {
        let mut users: Vec<_> = (0..5).map(|_| unique("user")).collect();
        users.sort();
        let mut chats = Vec::new();
        for one in 0..users.len() {
            for other in one + 1..users.len() {
                chats.push((format!("{}:{}", users[one], users[other]), vec![one, other]));
            }
        }
        let headers = [
            format!("authorization: Bearer {}", stack.token(&users[0])),
            "content-type: application/json".into(),
            "idempotency-key: all".into(),
        ];
        let body = json!({ "name": "all", "members": users }).to_string();
        let group = insist(stack.url(), "POST", "/api/chats", &headers, &body).await?;
        let id = group.body["chatId"].as_str().with_context(|| format!("{group:?}"))?;
        chats.push((id.to_owned(), (0..users.len()).collect()));
        let sent = chats.iter().map(|_| Vec::new()).collect();
        let mut crowd = Self {
            users,
            chats,
            devices: Vec::new(),
            sent,
            owed: Vec::new(),
            read: HashMap::new(),
            rng: Rng::with_seed(seed),
        };
        crowd.connect(stack).await?;
        Ok(crowd)
    }

    async fn connect(&mut self, stack: &Stack) -> Result<()> {
        self.devices.clear();
        for user in &self.users {
            let mut devices = Vec::new();
            for gateway in &stack.gateways {
                devices.push(Client::connect(&gateway.url, &stack.token(user)).await?.0);
            }
            self.devices.push(devices);
        }
        Ok(())
    }

    /// One step; a refusal is left at that.
    async fn step(&mut self) -> Result<()> {
        let chat = self.rng.usize(..self.chats.len());
        let (name, members) = self.chats[chat].clone();
        let user = members[self.rng.usize(..members.len())];
        let which = self.rng.usize(..self.devices[user].len());
        let device = &self.devices[user][which];
        let known = self.sent[chat].len();
        match self.rng.u32(..10) {
            0..5 => {
                let send = json!({ "chatId": name, "content": "x", "tempId": unique("t") });
                self.owed.push((chat, user, send.clone()));
                let answer = device.emit_with_ack("sendMessage", &send).await?;
                self.owed.pop();
                if answer["ok"] == true {
                    self.sent[chat].push(answer["message"].clone());
                }
            }
            5 if known > 0 => {
                let message = &self.sent[chat][self.rng.usize(..known)];
                let sender =
                    self.users.iter().position(|user| message["senderId"] == user.as_str()).context("sender")?;
                let again = json!({ "chatId": name, "content": "x", "tempId": message["tempId"] });
                let answer = self.devices[sender][0].emit_with_ack("sendMessage", &again).await?;
                ensure!(answer["ok"] != true || answer["message"]["messageId"] == message["messageId"], "{answer}");
            }
            6..8 if known > 0 => {
                // Mostly the newest, now and then one long gone by.
                let at = if self.rng.bool() { known - 1 } else { self.rng.usize(..known) };
                let message = self.sent[chat][at].clone();
                let request = json!({ "chatId": name, "upTo": message["messageId"] });
                let answer = device.emit_with_ack("markRead", &request).await?;
                if answer["ok"] == true {
                    let read = self.read.entry((chat, user)).or_insert_with(|| place(&message));
                    *read = read.clone().max(place(&message));
                }
            }
            8 => drop(device.emit_with_ack("unread", &json!({})).await?),
            _ => drop(device.emit_with_ack("conversations", &json!({ "limit": 3 })).await?),
        }
        Ok(())
    }

    /// Repeats what was not answered: it may have been shown, and not be durable.
    async fn repay(&mut self) -> Result<()> {
        for (chat, user, send) in std::mem::take(&mut self.owed) {
            let answer = ask(&self.devices[user][0], "sendMessage", send).await?;
            self.sent[chat].push(answer["message"].clone());
        }
        Ok(())
    }

    fn chats_of(&self, user: usize) -> Vec<String> {
        self.chats.iter().filter(|(_, members)| members.contains(&user)).map(|(chat, _)| chat.clone()).collect()
    }

    /// Every user's counts and lists on every gateway are what MongoDB says, and so are the watermarks.
    async fn check(&self, stack: &Stack, truth: &Truth, within: Duration) -> Result<()> {
        let sent: usize = self.sent.iter().map(Vec::len).sum();
        eventually("all is stored", LIVENESS, async || {
            let stored = stack.stored.count().await?;
            ensure!(stored >= sent as u64, "{stored} of {sent}");
            Ok(())
        })
        .await?;
        let watermarks = truth.watermarks().await?;
        for ((chat, user), place) in &self.read {
            let stored = watermarks.get(&(self.chats[*chat].0.clone(), self.users[*user].clone()));
            ensure!(stored >= Some(place), "{stored:?} is behind {place:?}, which was acknowledged");
        }
        for (user, devices) in self.devices.iter().enumerate() {
            for device in devices {
                eventually("counts and lists are MongoDB's", within, async || {
                    let (expected, order) = truth.inbox(&self.users[user], &self.chats_of(user)).await?;
                    let seen = counts(&ask(device, "unread", json!({})).await?);
                    ensure!(seen == expected, "unread {seen:?}, MongoDB says {expected:?}");
                    let shown = list(device, 3, &expected).await?;
                    ensure!(shown == order, "a list of {shown:?}, MongoDB says {order:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_kept_right_by_arrivals_and_readings_alone() -> Result<()> {
    let shared = shared().await;
    // It lives for longer than the test: nothing is mended by counting anew.
    // And a cache that is slow, on a busy machine, is no cache that is away.
    let settings = vec![
        ("CACHE_UNREAD_TTL", "600".into()),
        ("CACHE_CONVLIST_TTL", "600".into()),
        ("REDIS_BUDGET_MS", "1000".into()),
        ("SEND_DEADLINE_MS", "10000".into()),
    ];
    let options = StackOptions { gateways: 2, settings, ..Default::default() };
    let stack = Stack::start(&Backends::from(shared), options).await?;
    let truth = Truth::of(&stack, &shared.mongo_url).await?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut crowd = Crowd::new(&stack, seed).await?;
    for _ in 0..4 {
        for _ in 0..150 {
            crowd.step().await?;
        }
        crowd.check(&stack, &truth, LIVENESS).await?;
    }
    let mut counted = 0.0;
    for gateway in &stack.gateways {
        counted += gateway.metric("holdfast_gateway_inboxes_counted_total").await?;
    }
    ensure!(counted <= 50.0, "counted anew {counted} times: the cache is of no use");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_settings_that_are_shipped_counts_and_lists_come_to_what_mongodb_says() -> Result<()> {
    let shared = shared().await;
    let stack = Stack::start(&Backends::from(shared), StackOptions::shipped(2)).await?;
    let truth = Truth::of(&stack, &shared.mongo_url).await?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut crowd = Crowd::new(&stack, seed).await?;
    for _ in 0..2 {
        for _ in 0..100 {
            crowd.step().await?;
        }
        // Lists live for two minutes: a call that found the cache too slow is mended by then at the latest.
        crowd.check(&stack, &truth, Duration::from_secs(120) + LIVENESS).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_counts_and_lists_come_back_to_what_mongodb_says() -> Result<()> {
    let shared = shared().await;
    let cache = Redis::cache().await?;
    let backends = Backends { redis: cache.url(), ..Backends::from(shared) };
    let settings = vec![("CACHE_UNREAD_TTL", "2".into()), ("CACHE_CONVLIST_TTL", "2".into())];
    let options = StackOptions { gateways: 2, settings, ..Default::default() };
    let stack = Stack::start(&backends, options).await?;
    let truth = Truth::of(&stack, &shared.mongo_url).await?;
    let mut redis = connect_redis(&cache.url()).await?;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut crowd = Crowd::new(&stack, seed).await?;
    for round in 0..4 {
        for step in 0..100 {
            crowd.step().await?;
            if step % 40 == 20 {
                redis::cmd("FLUSHALL").exec_async(&mut redis).await?;
            }
        }
        // A gateway dies in the middle of what it does.
        let killed = &stack.gateways[round % 2];
        let doomed = crowd.step();
        let (_, died) = tokio::join!(doomed, killed.program.kill9());
        died?;
        killed.program.start_again()?;
        killed.ready().await?;
        crowd.connect(&stack).await?;
        crowd.repay().await?;
    }
    crowd.check(&stack, &truth, LIVENESS).await
}
