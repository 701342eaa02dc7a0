//! Random interleavings of messages, countings, readings and losses: what is cached of a user loses no message and counts none twice.
//!
//! A message is listed at one moment and told to the cache at a later one, in any order. A counting begins, learns which chats there
//! are, counts them one by one, and commits; a reading moves a watermark, and then corrects the cached count; anything may
//! happen in between. The model's store and lists are always right: what is tested is how counts and arrivals are put together.

use std::collections::HashMap;

use holdfast_cache::Inboxes;
use holdfast_cache::event::Position;
use holdfast_cache::inbox::{Arrival, Committed, Count, CountedChat, Counting, InboxLife, UnreadCounts};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::RedisError;
use holdfast_testkit::Role;
use proptest::prelude::*;

use crate::support::{BUDGET, cache_url, cluster, connect, connect_cluster, user};

const CHATS: usize = 3;
const COUNTERS: usize = 2;
const READERS: usize = 2;

fn done(results: Vec<Result<(), RedisError>>) {
    results.into_iter().for_each(Result::unwrap);
}

#[derive(Debug, Clone)]
enum Step {
    Send {
        chat: usize,
        own: bool,
    },
    /// A message that waits to be told is.
    Tell(prop::sample::Index),
    /// A counting goes one step further, whatever its next step is.
    Count(usize),
    /// Somebody who has read nothing, or is done with it, reads a chat up to one of its messages.
    Read {
        reader: usize,
        chat: usize,
        up_to: prop::sample::Index,
    },
    /// The correction after a reading goes one step further.
    Correct(usize),
    /// A chat's list begins a new epoch.
    NewEpoch(usize),
    /// A chat's list expires, long after everything was told.
    Expire(usize),
    /// What is cached is lost.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        10 => (0..CHATS, prop::bool::weighted(0.2)).prop_map(|(chat, own)| Step::Send { chat, own }),
        10 => index().prop_map(Step::Tell),
        20 => (0..COUNTERS).prop_map(Step::Count),
        4 => (0..READERS, 0..CHATS, index()).prop_map(|(reader, chat, up_to)| Step::Read { reader, chat, up_to }),
        8 => (0..READERS).prop_map(Step::Correct),
        1 => (0..CHATS).prop_map(Step::NewEpoch),
        1 => (0..CHATS).prop_map(Step::Expire),
        1 => Just(Step::Forget),
    ]
}

#[derive(Default)]
struct Chat {
    /// Whether each message is the user's own.
    messages: Vec<bool>,
    read: usize,
    epoch: u32,
    seq: u64,
    last_timestamp: i64,
}

/// A counting on its way.
#[derive(Default)]
struct Counter {
    counting: Option<Counting>,
    /// The chats that are still to be counted.
    left: Option<Vec<usize>>,
    counted: Vec<CountedChat>,
}

enum Reader {
    Done,
    /// A chat's watermark has moved.
    Moved(usize),
    /// And the cached counts have been read.
    Before(usize, UnreadCounts),
    /// And the chat has been counted.
    Counted(usize, UnreadCounts, Count),
}

struct World {
    inboxes: Inboxes,
    user: UserId,
    names: Vec<ChatId>,
    chats: Vec<Chat>,
    clock: i64,
    untold: Vec<(usize, Arrival)>,
    counters: Vec<Counter>,
    readers: Vec<Reader>,
}

impl World {
    fn new(url: &str) -> Self {
        let me = user();
        Self {
            inboxes: Inboxes::new(connect(url), Keys::default(), InboxLife::default()),
            names: (0..CHATS).map(|_| ChatId::direct(&me, &user()).unwrap()).collect(),
            chats: (0..CHATS).map(|_| Chat::default()).collect(),
            user: me,
            clock: 1000,
            untold: Vec::new(),
            counters: (0..COUNTERS).map(|_| Counter::default()).collect(),
            readers: (0..READERS).map(|_| Reader::Done).collect(),
        }
    }

    fn unread(&self, chat: usize) -> usize {
        let chat = &self.chats[chat];
        chat.messages[chat.read..].iter().filter(|own| !**own).count()
    }

    fn count(&self, chat: usize) -> Count {
        let Chat { epoch, seq, .. } = self.chats[chat];
        let at = (seq > 0).then(|| Position { epoch: format!("e{epoch}").into(), seq });
        Count { unread: self.unread(chat), at }
    }

    fn counted(&self, chat: usize) -> CountedChat {
        CountedChat {
            chat: self.names[chat].clone(),
            count: self.count(chat),
            last_timestamp: self.chats[chat].last_timestamp,
            live: true,
        }
    }

    async fn tell(&mut self, index: usize) {
        let (_, arrival) = self.untold.swap_remove(index);
        done(self.inboxes.arrived(&[(self.user.clone(), vec![arrival])], BUDGET).await);
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Send { chat, own } => {
                self.clock += 1;
                let name = self.names[chat].clone();
                let state = &mut self.chats[chat];
                state.messages.push(own);
                (state.seq, state.last_timestamp) = (state.seq + 1, self.clock);
                let unread = (!own).then(|| Position { epoch: format!("e{}", state.epoch).into(), seq: state.seq });
                self.untold.push((chat, Arrival { chat: name, timestamp: self.clock, unread }));
            }
            Step::Tell(_) if self.untold.is_empty() => {}
            Step::Tell(index) => self.tell(index.index(self.untold.len())).await,
            Step::Count(counter) => self.advance(counter).await,
            Step::Read { reader, chat, up_to } => {
                let state = &mut self.chats[chat];
                if matches!(self.readers[reader], Reader::Done) && !state.messages.is_empty() {
                    state.read = state.read.max(up_to.index(state.messages.len()) + 1);
                    self.readers[reader] = Reader::Moved(chat);
                }
            }
            Step::Correct(reader) => self.correct(reader).await,
            Step::NewEpoch(chat) => {
                let state = &mut self.chats[chat];
                (state.epoch, state.seq) = (state.epoch + 1, 1);
            }
            Step::Expire(chat) => {
                while let Some(index) = self.untold.iter().position(|(of, _)| *of == chat) {
                    self.tell(index).await;
                }
                let state = &mut self.chats[chat];
                (state.epoch, state.seq) = (state.epoch + 1, 0);
            }
            Step::Forget => done(self.inboxes.forget(std::slice::from_ref(&self.user), BUDGET).await),
        }
    }

    /// Begins a counting, learns of the chats, counts one of them, or commits.
    async fn advance(&mut self, counter: usize) {
        let Some(counting) = self.counters[counter].counting.clone() else {
            self.counters[counter].counting = self.inboxes.begin(&self.user, BUDGET).await.unwrap();
            return;
        };
        match self.counters[counter].left.as_mut().map(Vec::pop) {
            None => {
                let known = (0..CHATS).filter(|chat| !self.chats[*chat].messages.is_empty()).collect();
                self.counters[counter].left = Some(known);
            }
            Some(Some(chat)) => {
                let counted = self.counted(chat);
                self.counters[counter].counted.push(counted);
            }
            Some(None) => {
                let counted = &self.counters[counter].counted;
                match self.inboxes.commit(&self.user, &counting, counted, false, BUDGET).await.unwrap() {
                    Committed::Done | Committed::Overtaken => self.counters[counter] = Counter::default(),
                    Committed::Unknown(chats) => {
                        let index = |chat| self.names.iter().position(|name| name == chat).unwrap();
                        let Counter { counted, left, .. } = &mut self.counters[counter];
                        counted.retain(|known| !chats.contains(&known.chat));
                        *left = Some(chats.iter().map(index).collect());
                        // A chat that has no list still can't be told from one that has lost it.
                        if chats.iter().any(|chat| self.chats[index(chat)].seq == 0) {
                            done(self.inboxes.forget(std::slice::from_ref(&self.user), BUDGET).await);
                        }
                    }
                }
            }
        }
    }

    /// As the gateway does after a watermark has moved.
    async fn correct(&mut self, reader: usize) {
        let next = match std::mem::replace(&mut self.readers[reader], Reader::Done) {
            Reader::Done => Reader::Done,
            Reader::Moved(chat) => match self.inboxes.unread(&self.user, BUDGET).await.unwrap() {
                Some(before) => Reader::Before(chat, before),
                None => {
                    // Whoever is counting may have counted with the old watermark.
                    done(self.inboxes.forget(std::slice::from_ref(&self.user), BUDGET).await);
                    Reader::Done
                }
            },
            Reader::Before(chat, before) => {
                let count = self.count(chat);
                Reader::Counted(chat, before, count)
            }
            Reader::Counted(chat, before, count) => {
                let taken = self.inboxes.counted(&self.user, &self.names[chat], &before, &count, BUDGET).await.unwrap();
                if taken { Reader::Done } else { Reader::Moved(chat) }
            }
        };
        self.readers[reader] = next;
    }

    async fn finish(&mut self) {
        for reader in 0..READERS {
            while !matches!(self.readers[reader], Reader::Done) {
                self.correct(reader).await;
            }
        }
        while !self.untold.is_empty() {
            self.tell(0).await;
        }
        for counter in 0..COUNTERS {
            while self.counters[counter].counting.is_some() {
                self.advance(counter).await;
            }
        }
    }

    /// Whether anything was cached.
    async fn check(&self) -> Result<bool, TestCaseError> {
        let cached = self.inboxes.unread(&self.user, BUDGET).await.unwrap();
        if let Some(cached) = &cached {
            for chat in 0..CHATS {
                prop_assert_eq!(cached.of(&self.names[chat]), self.unread(chat), "chat {}", chat);
            }
        }
        let page = self.inboxes.page(&self.user, None, 10, BUDGET).await.unwrap();
        if let Some(page) = &page {
            let mut expected: Vec<_> = (0..CHATS)
                .filter(|chat| !self.chats[*chat].messages.is_empty())
                .map(|chat| (self.names[chat].clone(), self.chats[chat].last_timestamp))
                .collect();
            expected.sort_by_key(|(_, timestamp)| -timestamp);
            prop_assert_eq!(&page.chats, &expected);
        }
        Ok(cached.is_some() && page.is_some())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_loses_a_message_or_counts_one_twice(steps in prop::collection::vec(step(), 10..120)) {
        static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> =
            std::sync::LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
        RUNTIME.block_on(async {
            let mut world = World::new(&cache_url().await);
            for step in steps {
                world.take(step).await;
            }
            world.finish().await;
            world.check().await?;
            // And once more from nothing, which must be cached: the model is not one in which nothing ever is.
            done(world.inboxes.forget(&[world.user.clone()], BUDGET).await);
            world.advance(0).await;
            while world.counters[0].counting.is_some() {
                world.advance(0).await;
            }
            prop_assert!(world.check().await?, "nothing is cached");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_new_epoch_drops_what_is_known_and_no_arrival_that_is_told_with_it() {
    let inboxes = Inboxes::new(connect(&cache_url().await), Keys::default(), InboxLife::default());
    let me = user();
    let [old, first] = [(); 2].map(|()| ChatId::direct(&me, &user()).unwrap());
    let at = |epoch: &str, seq| Position { epoch: epoch.into(), seq };
    let counted = |chat: &ChatId, at: Position| CountedChat {
        chat: chat.clone(),
        count: Count { unread: 1, at: Some(at) },
        last_timestamp: 1000,
        live: true,
    };
    let counting = inboxes.begin(&me, BUDGET).await.unwrap().unwrap();
    let known = [counted(&old, at("before", 7))];
    assert_eq!(inboxes.commit(&me, &counting, &known, false, BUDGET).await.unwrap(), Committed::Done);
    let arrival = |chat: &ChatId, at| Arrival { chat: chat.clone(), timestamp: 2000, unread: Some(at) };
    let told = vec![arrival(&old, at("after", 1)), arrival(&first, at("first", 1))];
    done(inboxes.arrived(&[(me.clone(), told)], BUDGET).await);
    assert!(inboxes.unread(&me, BUDGET).await.unwrap().is_none(), "positions of two epochs can't be compared");
    // Whoever counts next learns of the chats, which the store may not know yet.
    let counting = inboxes.begin(&me, BUDGET).await.unwrap().unwrap();
    match inboxes.commit(&me, &counting, &[], false, BUDGET).await.unwrap() {
        Committed::Unknown(chats) => assert!(chats.contains(&old) && chats.contains(&first), "{chats:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_corrections_that_read_the_same_count_lose_no_message_that_arrives_between_them() {
    let inboxes = Inboxes::new(connect(&cache_url().await), Keys::default(), InboxLife::default());
    let me = user();
    let chat = ChatId::direct(&me, &user()).unwrap();
    let count = |unread, seq| Count { unread, at: Some(Position { epoch: "e".into(), seq }) };
    let counting = inboxes.begin(&me, BUDGET).await.unwrap().unwrap();
    let counted = [CountedChat { chat: chat.clone(), count: count(1, 2), last_timestamp: 1000, live: true }];
    assert_eq!(inboxes.commit(&me, &counting, &counted, false, BUDGET).await.unwrap(), Committed::Done);
    // Two of the user's devices read the chat to its end, so two corrections count none unread.
    let before = inboxes.unread(&me, BUDGET).await.unwrap().unwrap();
    assert!(inboxes.counted(&me, &chat, &before, &count(0, 2), BUDGET).await.unwrap());
    let unread = Some(Position { epoch: "e".into(), seq: 3 });
    let arrival = Arrival { chat: chat.clone(), timestamp: 2000, unread };
    done(inboxes.arrived(&[(me.clone(), vec![arrival])], BUDGET).await);
    assert!(!inboxes.counted(&me, &chat, &before, &count(0, 2), BUDGET).await.unwrap(), "a message has arrived");
    assert_eq!(inboxes.unread(&me, BUDGET).await.unwrap().unwrap().of(&chat), 1);
}

#[tokio::test]
async fn of_users_on_a_master_that_is_away_nothing_is_told_or_dropped_and_of_all_others_it_is() {
    let cluster = cluster(Role::Cache).await;
    let inboxes = Inboxes::new(connect_cluster(&cluster), Keys::default(), InboxLife::default());
    let mut users = [const { Vec::new() }; 3];
    while users.iter().any(|users| users.len() < 2) {
        let user = user();
        let slot = cluster.slot_of(&Keys::default().unread(&user)).await.unwrap();
        users[cluster.owner_of(slot).await.unwrap()].push(user);
    }
    let users: Vec<_> =
        users.into_iter().enumerate().flat_map(|(owner, of)| of.into_iter().map(move |u| (owner, u))).collect();
    let names: Vec<_> = users.iter().map(|(_, user)| user.clone()).collect();
    let told: Vec<_> = names
        .iter()
        .map(|user| {
            let chat = ChatId::direct(user, &self::user()).unwrap();
            (user.clone(), vec![Arrival { chat, timestamp: 1000, unread: None }])
        })
        .collect();
    done(inboxes.forget(&names, BUDGET).await);
    cluster.node(1).kill9().await.unwrap();
    for results in [inboxes.arrived(&told, BUDGET).await, inboxes.forget(&names, BUDGET).await] {
        for ((owner, user), result) in users.iter().zip(results) {
            assert_eq!(result.is_ok(), *owner != 1, "{user} on {owner}: {result:?}");
        }
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page_in_one_order_and_pages_meet() {
    let inboxes = Inboxes::new(connect(&cache_url().await), Keys::default(), InboxLife::default());
    let me = user();
    let mut chats: Vec<_> = (0..60).map(|n| (ChatId::direct(&me, &user()).unwrap(), 1000 + n / 20)).collect();
    let counting = inboxes.begin(&me, BUDGET).await.unwrap().unwrap();
    assert_eq!(inboxes.page(&me, None, 10, BUDGET).await.unwrap(), None, "it is being made");
    let counted = |(chat, last_timestamp): &(ChatId, i64)| CountedChat {
        chat: chat.clone(),
        count: Count { unread: 0, at: None },
        last_timestamp: *last_timestamp,
        live: false,
    };
    let counted: Vec<_> = chats.iter().map(counted).collect();
    assert_eq!(inboxes.commit(&me, &counting, &counted, true, BUDGET).await.unwrap(), Committed::Done);
    assert_eq!(inboxes.begin(&me, BUDGET).await.unwrap(), None, "it is there");
    chats.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
    let mut read: Vec<(ChatId, i64)> = Vec::new();
    loop {
        let before = read.last().map(|(chat, timestamp)| (*timestamp, chat));
        let page = inboxes.page(&me, before, 7, BUDGET).await.unwrap().unwrap();
        assert!(page.older_stored && page.chats.len() <= 7);
        if page.chats.is_empty() {
            break;
        }
        read.extend(page.chats);
    }
    assert_eq!(read, chats);
    // A place that is in the list no more.
    let moved = HashMap::from([(chats[30].0.clone(), 2000)]);
    let arrival = Arrival { chat: chats[30].0.clone(), timestamp: moved[&chats[30].0], unread: None };
    done(inboxes.arrived(&[(me.clone(), vec![arrival])], BUDGET).await);
    let after = inboxes.page(&me, Some((chats[30].1, &chats[30].0)), 100, BUDGET).await.unwrap().unwrap();
    assert_eq!(after.chats, chats[31..]);
}
