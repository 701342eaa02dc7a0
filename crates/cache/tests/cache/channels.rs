use std::time::Duration;

use holdfast_cache::channels::{ChannelSettings, Subscription};
use holdfast_cache::event::Event;
use holdfast_cache::recent::Attempt;
use holdfast_cache::{Announcer, ChannelEvent, Channels, LiveEvent, Origin};
use holdfast_keys::{Channel, Keys};
use holdfast_message::{ChatId, Message};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{Proxy, Role, unique, until};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::support::{BUDGET, add, cache_url, chat, connect, list, message, messages, number_of, raw, server, user};

/// Channels that are up before anything is wanted, so that nothing can have been missed at the start.
async fn start(url: &str, settings: ChannelSettings) -> (Channels, Receiver<ChannelEvent>) {
    let started = Channels::start(connect(url), Keys::default(), &unique("gateway"), settings);
    until("the channels are up", async || started.0.is_healthy()).await;
    started
}

async fn subscribe(channels: &Channels, chat: &ChatId) -> Vec<Subscription> {
    let subscriptions: Vec<_> =
        Channel::audience(chat).into_iter().map(|channel| channels.subscribe(channel)).collect();
    for subscription in &subscriptions {
        timeout(BUDGET, subscription.confirmed()).await.unwrap();
    }
    subscriptions
}

async fn next(events: &mut Receiver<ChannelEvent>) -> ChannelEvent {
    timeout(BUDGET, events.recv()).await.unwrap().unwrap()
}

/// The next message, whatever else comes before.
async fn next_message(events: &mut Receiver<ChannelEvent>) -> (Channel, Message) {
    next_of(events, |event| match event {
        ChannelEvent::Heard { channel, event: Event::Message { message, .. } } => Some((channel, *message)),
        _ => None,
    })
    .await
}

async fn until_resubscribed(events: &mut Receiver<ChannelEvent>) {
    next_of(events, |event| (event == ChannelEvent::Resubscribed).then_some(())).await;
}

/// The next event that is wanted. Other events do not prolong the wait.
async fn next_of<T>(events: &mut Receiver<ChannelEvent>, wanted: impl Fn(ChannelEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(events.recv().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(10 * BUDGET, found).await.unwrap_or_else(|_| panic!("the event never came"))
}

async fn subscribers(url: &str, channel: &Channel) -> u32 {
    let name = Keys::default().channel(channel);
    let mut raw = raw(url).await;
    let answer: (String, u32) = redis::cmd("PUBSUB").arg("NUMSUB").arg(name).query_async(&mut raw).await.unwrap();
    answer.1
}

#[tokio::test]
async fn what_is_added_is_heard_on_each_of_the_chats_channels_with_its_position() {
    let url = cache_url().await;
    let (channels, mut events) = start(&url, ChannelSettings::default()).await;
    let chat = chat();
    let _subscriptions = subscribe(&channels, &chat).await;
    assert!(channels.is_healthy());
    let list = list(&url, 100, 1000);
    let sent = message(&chat, 1, 5);
    let attempt = Attempt(3);
    let position = match list.add(&sent, attempt, BUDGET).await.unwrap() {
        holdfast_cache::recent::Added::New(position) => position,
        other => panic!("{other:?}"),
    };
    let mut heard_on = Vec::new();
    for _ in 0..2 {
        let ChannelEvent::Heard { channel, event } = next(&mut events).await else { panic!() };
        let (position, message) = (position.clone(), Box::new(sent.clone()));
        assert_eq!(event, Event::Message { origin: Origin(7), position, message });
        heard_on.push(channel);
    }
    assert_eq!(heard_on, Channel::audience(&chat));

    assert!(list.add(&sent, Attempt(4), BUDGET).await.is_ok());
    list.tombstone(&sent, attempt, BUDGET).await.unwrap();
    let ChannelEvent::Heard { event, .. } = next(&mut events).await else { panic!() };
    let temp_id = sent.temp_id.clone();
    let failed = Event::Failed { origin: Origin(7), message_id: sent.id, temp_id, chat };
    assert_eq!(event, failed, "the repeat was not announced");
}

#[tokio::test]
async fn live_events_are_heard_in_order_and_one_that_this_build_does_not_know_is_counted() {
    let url = cache_url().await;
    let registry = prometheus::Registry::new();
    let connection = Connection::open("test", &url, RedisMetrics::register(&registry).unwrap()).unwrap();
    let settings = ChannelSettings::default();
    let (channels, mut events) = Channels::start(connection, Keys::default(), &unique("gateway"), settings);
    let (alice, group) = (user(), ChatId::group(uuid::Uuid::from_u128(fastrand::u128(..))));
    let heard_on = [Channel::User(alice.clone()), Channel::Group(group)];
    let subscriptions = heard_on.clone().map(|channel| channels.subscribe(channel));
    for subscription in &subscriptions {
        timeout(BUDGET, subscription.confirmed()).await.unwrap();
    }
    // The subscription may have begun with the news that it has.
    while events.try_recv().is_ok() {}

    let later = [&b"\x97\x01\xc4\x08"[..], &[0; 8], b"\x02\xa0\xc0\xa8tomorrow\xa2{}"].concat();
    let name = Keys::default().channel(&heard_on[0]);
    let _: () = redis::cmd("PUBLISH").arg(name).arg(later).query_async(&mut raw(&url).await).await.unwrap();
    let announcer = Announcer::new(connect(&url), Keys::default(), Origin(9));
    let announcement = announcer.announcement(Some(&alice), LiveEvent::Typing, "{}");
    let announcements = heard_on.clone().map(|channel| (channel, announcement.clone()));
    assert_eq!(announcer.publish(&announcements, BUDGET).await, Ok(0));
    for expected in heard_on {
        let heard = next_of(&mut events, |event| match event {
            ChannelEvent::Heard { channel, event } => Some((channel, event)),
            _ => None,
        });
        let (channel, event) = heard.await;
        let (except, payload) = (Some(alice.clone()), "{}".into());
        assert_eq!(event, Event::Live { origin: Origin(9), except, event: LiveEvent::Typing, payload });
        assert_eq!(channel, expected);
    }
    let undecodable =
        registry.gather().into_iter().find(|family| family.name() == holdfast_redis::metrics::UNDECODABLE);
    let counts: f64 = undecodable.unwrap().get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
    assert_eq!(counts, 1.0);
}

#[tokio::test]
async fn a_channel_is_subscribed_once_and_until_the_last_interest_ends() {
    let url = cache_url().await;
    let (channels, _events) = start(&url, ChannelSettings::default()).await;
    let channel = Channel::User(user());
    let first = channels.subscribe(channel.clone());
    let second = channels.subscribe(channel.clone());
    timeout(BUDGET, second.confirmed()).await.unwrap();
    assert!(first.is_confirmed());
    assert_eq!(subscribers(&url, &channel).await, 1);
    drop(first);
    // Subscriptions are worked off in order: when this one is confirmed, the drop has been seen.
    timeout(BUDGET, channels.subscribe(Channel::User(user())).confirmed()).await.unwrap();
    assert_eq!(subscribers(&url, &channel).await, 1);
    drop(second);
    until("nobody subscribes", async || subscribers(&url, &channel).await == 0).await;
    let again = channels.subscribe(channel.clone());
    timeout(BUDGET, again.confirmed()).await.unwrap();
    assert_eq!(subscribers(&url, &channel).await, 1);
}

#[tokio::test]
async fn thousands_of_subscriptions_are_confirmed_and_survive_a_restart() {
    let server = server(Role::Cache, &[]).await;
    let (channels, mut events) = start(&server.url(), ChannelSettings::default()).await;
    let chats: Vec<_> = (0..1000).map(|_| chat()).collect();
    let mut subscriptions = Vec::new();
    for chat in &chats {
        subscriptions.extend(Channel::audience(chat).into_iter().map(|channel| channels.subscribe(channel)));
    }
    for subscription in &subscriptions {
        timeout(BUDGET, subscription.confirmed()).await.unwrap();
    }
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    until_resubscribed(&mut events).await;
    assert!(channels.is_healthy());
    assert!(subscriptions.iter().all(Subscription::is_confirmed));
    let sent = message(&chats[999], 1, 5);
    add(&list(&server.url(), 100, 1000), &sent).await;
    assert_eq!(next_message(&mut events).await.1, sent);
}

#[tokio::test]
async fn interests_taken_while_the_server_is_away_are_heard_when_it_comes() {
    let server = server(Role::Cache, &[]).await;
    let (channels, mut events) = start(&server.url(), ChannelSettings::default()).await;
    let first = chat();
    let _first = subscribe(&channels, &first).await;
    server.kill9().await.unwrap();
    let second = chat();
    let taken: Vec<_> = Channel::audience(&second).into_iter().map(|channel| channels.subscribe(channel)).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!channels.is_healthy() && !taken[0].is_confirmed());
    server.start_again().await.unwrap();
    until_resubscribed(&mut events).await;
    timeout(BUDGET, taken[1].confirmed()).await.unwrap();
    let list = list(&server.url(), 100, 1000);
    for chat in [&second, &first] {
        add(&list, &message(chat, 1, 5)).await;
        assert_eq!(next_message(&mut events).await.1.chat, *chat);
        assert_eq!(next_message(&mut events).await.1.chat, *chat);
    }
}

#[tokio::test]
async fn a_subscription_that_delivers_nothing_is_noticed_by_its_beacon() {
    let server = server(Role::Cache, &[]).await;
    let proxy = Proxy::start(server.port()).await.unwrap();
    let settings = ChannelSettings {
        beacon_interval: Duration::from_millis(100),
        silence: Duration::from_millis(600),
        ..ChannelSettings::default()
    };
    let (channels, mut events) = start(&server.url_at(proxy.port()), settings).await;
    let chat = chat();
    let _subscriptions = subscribe(&channels, &chat).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(channels.is_healthy(), "the beacon is heard");
    proxy.blackhole();
    until("the silence is noticed", async || !channels.is_healthy()).await;
    let list = list(&server.url(), 100, 1000);
    add(&list, &message(&chat, 1, 5)).await;
    proxy.heal().await.unwrap();
    until_resubscribed(&mut events).await;
    let sent = message(&chat, 2, 6);
    add(&list, &sent).await;
    assert_eq!(next_message(&mut events).await.1, sent);
}

#[tokio::test]
async fn what_is_not_taken_fast_enough_is_dropped_and_said_so() {
    let url = cache_url().await;
    let (channels, mut events) = start(&url, ChannelSettings { capacity: 4, ..ChannelSettings::default() }).await;
    let chat = chat();
    let _subscriptions = subscribe(&channels, &chat).await;
    let list = list(&url, 100, 1000);
    let sent = messages(&chat, 20);
    for message in &sent[..19] {
        add(&list, message).await;
    }
    // Once one has been taken there is room for the news, and only then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut heard = Vec::new();
    loop {
        match next(&mut events).await {
            ChannelEvent::Heard { event: Event::Message { message, .. }, .. } => heard.push(number_of(&message)),
            ChannelEvent::Heard { .. } => panic!(),
            ChannelEvent::Resubscribed => break,
        }
    }
    assert_eq!(heard, [1, 1, 2, 2]);
    assert!(channels.is_healthy());
    add(&list, &sent[19]).await;
    assert_eq!(number_of(&next_message(&mut events).await.1), 20);
}

#[tokio::test]
async fn garbage_on_a_channel_spoils_nothing() {
    let url = cache_url().await;
    let (channels, mut events) = start(&url, ChannelSettings::default()).await;
    let chat = chat();
    let subscriptions = subscribe(&channels, &chat).await;
    let name = Keys::default().channel(subscriptions[0].channel());
    let mut raw = raw(&url).await;
    let _: () = redis::cmd("PUBLISH").arg(name).arg("garbage").query_async(&mut raw).await.unwrap();
    let sent = message(&chat, 1, 5);
    add(&list(&url, 100, 1000), &sent).await;
    assert_eq!(next_message(&mut events).await.1, sent);
}

#[tokio::test]
async fn a_late_arrival_is_announced() {
    use holdfast_cache::recent::Repair;
    let url = cache_url().await;
    let list = list(&url, 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 2);
    let repair = async |messages: &[Message]| {
        let page = list.read(&chat, BUDGET).await.unwrap();
        let repair =
            Repair { chat: &chat, epoch: &page.position.epoch, read_at: page.read_at, messages, covered: None };
        list.repair(&repair, BUDGET).await.unwrap();
    };
    repair(&sent[..1]).await;
    let (channels, mut events) = start(&url, ChannelSettings::default()).await;
    let _subscriptions = subscribe(&channels, &chat).await;
    repair(&sent).await;
    assert_eq!(next_message(&mut events).await.1, sent[1]);
}
