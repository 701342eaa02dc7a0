//! What the store promises, asked of a real `mongod`.

#![allow(clippy::unwrap_used)]

mod ahead;
mod groups;
mod other_tools;
mod reading;

use std::time::{Duration, Instant};

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::{BatchFailed, Page, Store, StoreError, StoreSettings, Touched, Written};
use holdfast_testkit::{Mongo, MongoOptions, unique};
use mongodb::bson::{Bson, Document, doc};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// How long the driver looks for a server unless it is told otherwise. What takes far less has kept the store's own limit.
const DRIVERS_PATIENCE: Duration = Duration::from_secs(30);

/// Longer than a write takes on a machine that is busy otherwise.
const PATIENT: Duration = Duration::from_secs(60);

struct Fixture {
    store: Store,
    /// What the database holds, asked past the store.
    db: mongodb::Database,
    /// The name that the store's connections give; failpoints are set for it alone.
    app: String,
    failing: Option<MutexGuard<'static, ()>>,
    /// How the store was opened.
    settings: StoreSettings,
}

/// A database of its own on a server that all tests share.
async fn fixture() -> Fixture {
    static SERVER: OnceCell<Mongo> = OnceCell::const_new();
    fixture_on(SERVER.get_or_init(server).await).await
}

/// A server for a test that stops it.
async fn server() -> Mongo {
    let args = vec!["--setParameter".to_owned(), "enableTestCommands=1".to_owned()];
    Mongo::start_with(MongoOptions { args, ..MongoOptions::default() }).await.unwrap()
}

async fn fixture_on(server: &Mongo) -> Fixture {
    fixture_within(server, PATIENT).await
}

/// A fixture that gives a write up after so long.
async fn fixture_within(server: &Mongo, write_timeout: Duration) -> Fixture {
    let name = unique("store");
    let db = mongodb::Client::with_uri_str(server.url()).await.unwrap().database(&name);
    let settings = StoreSettings { write_timeout, ..settings(server, &name) };
    let store = Store::new(settings.clone()).await.unwrap();
    store.ensure_indexes().await.unwrap();
    Fixture { store, db, app: name, failing: None, settings }
}

fn settings(server: &Mongo, name: &str) -> StoreSettings {
    let mut settings = StoreSettings::new(format!("{}&appName={name}", server.url()), name);
    settings.write_timeout = PATIENT;
    settings
}

fn id(n: u64) -> MessageId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    MessageId::from_bytes(bytes)
}

fn message(n: u64) -> Message {
    let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
    Message {
        id: id(n),
        temp_id: Some(format!("t{n}")),
        chat: ChatId::direct(&alice, &bob).unwrap(),
        sender: alice,
        receiver: Some(bob),
        content: format!("number {n}"),
        image_url: None,
        public_id: None,
        timestamp: 1_700_000_000_000 + n as i64,
    }
}

fn batch(range: std::ops::Range<u64>) -> Vec<Message> {
    range.map(message).collect()
}

impl Fixture {
    async fn stored(&self) -> u64 {
        self.db.collection::<Document>("messages").count_documents(doc! {}).await.unwrap()
    }

    /// Sets the server's one failpoint for commands; it is this test's until the test ends.
    async fn fail(&mut self, mode: Document, mut data: Document) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        if self.failing.is_none() {
            self.failing = Some(ONE_AT_A_TIME.lock().await);
        }
        data.insert("appName", &self.app);
        let failpoint = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.db.client().database("admin").run_command(failpoint).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_is_stored_once_and_its_first_copy_stays() {
    let t = fixture().await;
    assert_eq!(t.store.insert(&[]).await.unwrap(), []);
    assert_eq!(t.store.insert(&batch(0..3)).await.unwrap(), vec![Written::Stored; 3]);

    let mut second = message(1);
    second.timestamp += 1_000_000;
    // 1 is stored already, 7 comes twice in one batch.
    let written = t.store.insert(&[second, message(7), message(7), message(8)]).await.unwrap();
    assert_eq!(written, [Written::Duplicate, Written::Stored, Written::Duplicate, Written::Stored]);

    assert_eq!(t.stored().await, 5);
    let ids: Vec<_> = (0..20).map(id).collect();
    let found = t.store.get(&ids).await.unwrap();
    assert_eq!(found.len(), 5);
    assert_eq!(found[&id(1)], message(1));
    assert_eq!(t.store.stored(&ids).await.unwrap(), found.keys().copied().collect());
}

#[tokio::test]
async fn only_a_duplicate_of_the_primary_key_counts_as_stored() {
    let t = fixture().await;
    let unique =
        doc! { "createIndexes": "messages", "indexes": [{ "key": { "tempId": 1 }, "name": "t", "unique": true }] };
    t.db.run_command(unique).await.unwrap();
    t.store.insert(&[message(1)]).await.unwrap();
    let mut other = message(2);
    other.temp_id = message(1).temp_id;
    let written = t.store.insert(&[message(1), other, message(3)]).await.unwrap();
    assert_eq!((&written[0], &written[2]), (&Written::Duplicate, &Written::Stored));
    let Written::Retry { code: 11000, reason } = &written[1] else { panic!("{written:?}") };
    assert!(reason.contains("index: t") && !reason.contains("t1"), "{reason}");
}

#[tokio::test]
async fn a_document_that_the_database_refuses_does_not_hold_up_the_others() {
    let t = fixture().await;
    let validator = doc! { "collMod": "messages", "validator": { "content": { "$ne": "number 5" } } };
    t.db.run_command(validator).await.unwrap();
    let mut huge = message(6);
    huge.content = "x".repeat(16 << 20);
    // Within the driver's limit for a command, beyond the server's for a document.
    let mut large = message(7);
    large.content = "x".repeat((16 << 20) - 100);
    let written = t.store.insert(&[message(4), message(5), huge, large, message(8)]).await.unwrap();
    assert_eq!((&written[0], &written[4]), (&Written::Stored, &Written::Stored));
    assert!(matches!(written[1], Written::Refused { code: 121, .. }), "{:?}", written[1]);
    assert!(matches!(written[2], Written::Refused { code: 10334, .. }), "{:?}", written[2]);
    assert!(matches!(written[3], Written::Refused { .. }), "{:?}", written[3]);
    assert_eq!(t.stored().await, 2);
}

#[tokio::test]
async fn a_command_refused_for_one_document_is_narrowed_down_to_it() {
    let mut t = fixture().await;
    // Refuses 8, then 4, then 2, then 1; after that the command is let through.
    t.fail(doc! { "times": 4 }, doc! { "failCommands": ["insert"], "errorCode": 10334 }).await;
    let written = t.store.insert(&batch(0..8)).await.unwrap();
    assert!(matches!(written[0], Written::Refused { code: 10334, .. }), "{written:?}");
    assert_eq!(written[1..], vec![Written::Stored; 7]);
}

#[tokio::test]
async fn a_batch_of_more_duplicates_than_one_command_takes_is_all_duplicates() {
    let t = fixture().await;
    let many = batch(0..12_000);
    assert_eq!(t.store.insert(&many).await.unwrap(), vec![Written::Stored; many.len()]);
    assert_eq!(t.store.insert(&many).await.unwrap(), vec![Written::Duplicate; many.len()]);
}

#[tokio::test]
async fn a_large_batch_is_split() {
    let t = fixture().await;
    let mut many = batch(0..60);
    many.iter_mut().for_each(|message| message.content = "x".repeat(1 << 20));
    assert_eq!(t.store.insert(&many).await.unwrap(), vec![Written::Stored; 60]);
    assert_eq!(t.stored().await, 60);
}

#[tokio::test]
async fn a_write_concern_error_means_that_nothing_counts_not_even_duplicates() {
    let mut t = fixture().await;
    t.store.insert(&[message(1)]).await.unwrap();
    let error = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    t.fail(doc! { "times": 1 }, doc! { "failCommands": ["insert"], "writeConcernError": error }).await;
    let BatchFailed(cause) = t.store.insert(&batch(1..3)).await.unwrap_err();
    assert!(matches!(&cause, StoreError::Unavailable(reason) if reason.contains("code 64")), "{cause}");
    assert_eq!(t.store.insert(&batch(1..3)).await.unwrap(), vec![Written::Duplicate; 2]);
}

#[tokio::test]
async fn a_step_down_or_a_broken_connection_is_repeated_once_and_then_reported() {
    let mut t = fixture().await;
    let stepping_down = || doc! { "failCommands": ["insert"], "errorCode": 10107 };
    t.fail(doc! { "times": 1 }, stepping_down()).await;
    assert_eq!(t.store.insert(&batch(0..2)).await.unwrap(), vec![Written::Stored; 2]);
    t.fail(doc! { "times": 1 }, doc! { "failCommands": ["insert"], "closeConnection": true }).await;
    assert_eq!(t.store.insert(&batch(2..4)).await.unwrap(), vec![Written::Stored; 2]);
    t.fail(doc! { "times": 2 }, stepping_down()).await;
    let failed = t.store.insert(&batch(4..6)).await.unwrap_err();
    assert!(matches!(failed.0, StoreError::Unavailable(_)), "{failed}");
}

#[tokio::test]
async fn a_wrong_setting_is_told_from_an_absence() {
    let mut t = fixture().await;
    t.fail(doc! { "times": 1 }, doc! { "failCommands": ["insert"], "errorCode": 13 }).await;
    let failed = t.store.insert(&batch(0..1)).await.unwrap_err();
    assert!(matches!(failed.0, StoreError::Rejected { code: Some(13), .. }), "{failed}");
    let bad = Store::new(StoreSettings::new("mongodb://", "chat")).await;
    assert!(matches!(bad.err(), Some(StoreError::Rejected { code: None, .. })));
}

#[tokio::test]
async fn an_option_of_the_connection_string_takes_precedence_or_is_refused_by_its_name() {
    let at = |query: &str| {
        // An hour each: a call that ends was ended by what the connection string says.
        let hour = Duration::from_secs(3600);
        let mut settings = StoreSettings::new(format!("mongodb://127.0.0.1:1/?directConnection=true{query}"), "chat");
        (settings.server_selection_timeout, settings.connect_timeout, settings.read_timeout) = (hour, hour, hour);
        Store::new(settings)
    };
    let store = at("&serverSelectionTimeoutMS=50").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), store.ping(Duration::from_secs(3600))).await;
    assert!(matches!(ended, Ok(Err(StoreError::Unavailable(_)))), "{ended:?}");
    for (option, name) in [("w=1", "w"), ("journal=false", "journal")] {
        match at(&format!("&{option}")).await.err() {
            Some(StoreError::Rejected { code: None, reason }) => {
                assert!(reason.contains(&format!("option {name} ")), "{reason}");
            }
            other => panic!("{option}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_reported_in_time_and_found_again() {
    let server = server().await;
    let t = fixture_on(&server).await;
    t.store.insert(&batch(0..2)).await.unwrap();
    server.kill9().await.unwrap();
    for _ in 0..2 {
        let asked = Instant::now();
        let failed = t.store.insert(&batch(2..4)).await.unwrap_err();
        assert!(matches!(failed.0, StoreError::Unavailable(_)), "{failed}");
        assert!(asked.elapsed() < DRIVERS_PATIENCE / 2, "{:?}", asked.elapsed());
    }
    assert!(t.store.ping(Duration::from_millis(200)).await.is_err());
    assert!(matches!(t.store.page(&message(0).chat, None, 5).await, Err(StoreError::Unavailable(_))));
    // A store that is made meanwhile waits for the server like any other.
    let late = Store::new(settings(&server, &t.app)).await.unwrap();
    assert!(late.ping(Duration::from_millis(200)).await.is_err());

    server.start_again().await.unwrap();
    found_again(&late).await;
    found_again(&t.store).await;
    let written = t.store.insert(&batch(0..4)).await.unwrap();
    assert_eq!(written[..2], [Written::Duplicate, Written::Duplicate]);
    assert_eq!(t.stored().await, 4);
}

#[tokio::test]
async fn a_server_that_hangs_is_reported_in_time_and_found_again() {
    let server = server().await;
    let t = fixture_within(&server, Duration::from_secs(3)).await;
    t.store.insert(&batch(0..1)).await.unwrap();
    server.freeze().unwrap();
    for _ in 0..2 {
        let asked = Instant::now();
        let failed = t.store.insert(&batch(1..2)).await.unwrap_err();
        assert!(matches!(failed.0, StoreError::Unavailable(_)), "{failed}");
        assert!(asked.elapsed() < DRIVERS_PATIENCE / 2, "{:?}", asked.elapsed());
    }
    server.thaw().unwrap();
    found_again(&t.store).await;
    // The abandoned inserts may have happened after all.
    assert_eq!(t.store.insert(&batch(1..2)).await.unwrap().len(), 1);
    assert_eq!(t.stored().await, 2);
}

async fn found_again(store: &Store) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.ping(Duration::from_secs(1)).await {
        assert!(Instant::now() < deadline, "the server is not found again: {error}");
    }
}

#[tokio::test]
async fn pages_follow_timestamp_and_id_and_the_cursor_is_strict() {
    let t = fixture().await;
    // Seven to a millisecond, and another chat in between.
    let mut all: Vec<_> =
        (0..50).map(|n| Message { timestamp: 1_700_000_000_000 + n as i64 / 7, ..message(n) }).collect();
    t.store.insert(&all).await.unwrap();
    let (alice, carol) = (UserId::parse("alice").unwrap(), UserId::parse("carol").unwrap());
    let chat = ChatId::direct(&alice, &carol).unwrap();
    let other = Message { chat: chat.clone(), receiver: Some(carol), ..message(1000) };
    t.store.insert(std::slice::from_ref(&other)).await.unwrap();

    all.sort_by_key(|message| std::cmp::Reverse(message.key()));
    for limit in [1, 3, 10, 49, 50, 51] {
        let (mut read, mut before) = (Vec::new(), None);
        loop {
            let Page { messages, more } = t.store.page(&message(0).chat, before, limit).await.unwrap();
            assert!(messages.len() <= limit && (messages.len() == limit || !more));
            before = messages.last().map(Message::key);
            read.extend(messages);
            if !more {
                break;
            }
        }
        assert_eq!(read, all, "limit {limit}");
    }
    assert_eq!(t.store.page(&chat, None, 10).await.unwrap(), Page { messages: vec![other.clone()], more: false });
    assert_eq!(t.store.page(&chat, Some(other.key()), 10).await.unwrap(), Page { messages: vec![], more: false });
}

#[tokio::test]
async fn a_page_reads_little_more_than_it_shows() {
    let t = fixture().await;
    t.store.insert(&batch(0..2000)).await.unwrap();
    t.db.run_command(doc! { "profile": 2 }).await.unwrap();
    t.store.page(&message(0).chat, Some(message(1000).key()), 20).await.unwrap();
    t.db.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = t.db.collection::<Document>("system.profile");
    let found = profile.find_one(doc! { "op": "query", "ns": format!("{}.messages", t.app) }).await.unwrap().unwrap();
    assert!(found.get_i32("docsExamined").unwrap() <= 23, "{found}");
    assert!(found.get_i32("keysExamined").unwrap() <= 23, "{found}");
    assert!(!found.contains_key("cursorid"), "the cursor is left open: {found}");
}

#[tokio::test]
async fn documents_that_are_no_messages_are_left_out_and_do_not_end_the_history() {
    let t = fixture().await;
    t.store.insert(&batch(0..10)).await.unwrap();
    let chat = message(0).chat;
    let raw = t.db.collection::<Document>("messages");
    let strange =
        |n: i64, id: Bson, timestamp: Bson| doc! { "_id": id, "chatId": "alice:bob", "n": n, "timestamp": timestamp };
    // Newer than all, in the middle, at the same time as 5, and with timestamps that are none.
    for n in 0..30 {
        raw.insert_one(strange(n, format!("x{n}").into(), (1_800_000_000_000 + n).into())).await.unwrap();
    }
    raw.insert_one(strange(31, 31.into(), message(5).timestamp.into())).await.unwrap();
    raw.insert_one(strange(32, id(900).to_string().into(), "soon".into())).await.unwrap();
    raw.insert_one(strange(33, id(901).to_string().into(), Bson::Null)).await.unwrap();

    let numbers = |page: &Page| page.messages.iter().map(|m| m.timestamp - 1_700_000_000_000).collect::<Vec<_>>();
    let first = t.store.page(&chat, None, 4).await.unwrap();
    assert_eq!((numbers(&first), first.more), (vec![9, 8, 7, 6], true));
    assert!(t.store.unreadable_met() >= 30);
    let second = t.store.page(&chat, Some(first.messages[3].key()), 4).await.unwrap();
    assert_eq!((numbers(&second), second.more), (vec![5, 4, 3, 2], true));
    let last = t.store.page(&chat, Some(second.messages[3].key()), 4).await.unwrap();
    assert_eq!((numbers(&last), last.more), (vec![1, 0], false));
    assert_eq!(t.store.get(&[id(900), id(1)]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn conversations_show_the_latest_message_in_whatever_order_they_hear_of_them() {
    let t = fixture().await;
    let conversation = || async {
        t.db.collection::<Document>("conversations").find_one(doc! { "_id": "alice:bob" }).await.unwrap().unwrap()
    };
    let touch = async |n: std::ops::Range<u64>| t.store.touch_conversations(&batch(n)).await.unwrap();
    assert_eq!(t.store.touch_conversations(&[]).await.unwrap(), Touched::default());
    assert_eq!(touch(3..6).await, Touched { moved: 1, later: 0, failed: 0 });
    let shown = conversation().await;
    assert_eq!(shown.get_array("members").unwrap().as_slice(), ["alice".into(), "bob".into()]);
    assert_eq!(shown.get_document("lastMessage").unwrap().get_str("_id"), Ok(id(5).to_string().as_str()));
    assert_eq!(shown.get_i64("lastTimestamp"), Ok(message(5).timestamp));

    assert_eq!(touch(0..4).await, Touched { moved: 0, later: 1, failed: 0 });
    assert_eq!(touch(5..6).await, Touched { moved: 0, later: 1, failed: 0 });
    assert_eq!(conversation().await, shown);
    let tie = Message { timestamp: message(5).timestamp, ..message(6) };
    t.store.touch_conversations(&[tie]).await.unwrap();
    assert_eq!(conversation().await.get_document("lastMessage").unwrap().get_str("content"), Ok("number 6"));
}

#[tokio::test]
async fn racing_for_a_conversation_ends_with_the_latest_message() {
    let t = fixture().await;
    for round in 0..20 {
        let (alice, friend) = (UserId::parse("alice").unwrap(), UserId::parse(&format!("u{round}")).unwrap());
        let chat = ChatId::direct(&alice, &friend).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let (store, chat) = (t.store.clone(), chat.clone());
            let message = Message { chat, receiver: Some(friend.clone()), ..message(n) };
            tasks.spawn(async move { store.touch_conversations(&[message]).await.unwrap() });
        }
        assert!(tasks.join_all().await.iter().all(|touched| touched.failed == 0));
        let shown = t.db.collection::<Document>("conversations").find_one(doc! { "_id": chat.as_str() }).await.unwrap();
        assert_eq!(shown.unwrap().get_i64("lastTimestamp"), Ok(message(7).timestamp));
    }
}
