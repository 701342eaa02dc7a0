//! Timestamps under a clock that jumps, is set back, and stands still.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;

const START: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn chat(text: &str) -> ChatId {
    ChatId::parse(text).unwrap()
}

/// Timestamps by a clock that the test sets.
fn at(time: i64) -> (TimestampAllocator, Arc<AtomicI64>) {
    let clock = Arc::new(AtomicI64::new(time));
    let read = clock.clone();
    (TimestampAllocator::new(move || read.load(Ordering::Relaxed)), clock)
}

#[test]
fn timestamps_rise_strictly_per_sender_and_per_chat_and_nobody_pushes_the_others() {
    let (stamps, _) = at(START);
    let next = |sender: &str, of: &str| stamps.next(&user(sender), &chat(of)).unwrap();
    let of_alice: Vec<_> = (0..1000).map(|_| next("alice", "alice:bob")).collect();
    assert!(of_alice.is_sorted_by(|a, b| a < b));
    assert!(next("bob", "alice:bob") > of_alice[999]);
    let carol = next("alice", "alice:carol");
    assert!(carol > of_alice[999]);
    // An answer to a message that its sender's other messages have pushed ahead.
    assert!(next("carol", "alice:carol") > carol);
    assert_eq!(next("dora", "dora:emil"), START);
}

/// Alice writes through a gateway whose clock is ahead by `jump` for ten seconds, Bob through one whose clock is right, in turn.
/// Returns when each message was sent, and its timestamp.
fn conversation(jump: i64, length: i64) -> Vec<(i64, i64)> {
    let ((of_alice, jumping), (of_bob, right)) = (at(START), at(START));
    let chat = chat("alice:bob");
    (0..length / 100)
        .map(|turn| {
            let elapsed = turn * 100;
            right.store(START + elapsed, Ordering::Relaxed);
            let ahead = if (1000..11_000).contains(&elapsed) { jump } else { 0 };
            jumping.store(START + elapsed + ahead, Ordering::Relaxed);
            let (stamps, sender) = if turn % 2 == 0 { (&of_alice, "alice") } else { (&of_bob, "bob") };
            (START + elapsed, stamps.next(&user(sender), &chat).unwrap())
        })
        .collect()
}

#[test]
fn a_gateway_whose_clock_jumped_ahead_is_right_again_as_soon_as_the_clock_is() {
    for jump in [HOUR, 24 * HOUR, MAX_AHEAD_MS + 300] {
        let messages = conversation(jump, 60_000);
        let (_, corrected): (Vec<_>, Vec<_>) = messages.into_iter().partition(|(sent, _)| *sent < START + 11_000);
        let wrong = corrected.iter().filter(|(sent, stamp)| sent != stamp).count();
        assert_eq!(wrong, 0, "of {} messages after a jump of {jump} ms was corrected", corrected.len());
        assert!(corrected.is_sorted_by_key(|(_, stamp)| *stamp), "answers stand behind what they answer");
    }
}

#[test]
fn after_a_small_jump_timestamps_go_on_rising_until_the_clock_has_caught_up() {
    for jump in [200, 5000, MAX_AHEAD_MS - 300] {
        let messages = conversation(jump, 60_000);
        let of_alice: Vec<_> = messages.iter().step_by(2).collect();
        assert!(of_alice.is_sorted_by(|one, next| one.1 < next.1), "strictly rising all the time");
        let caught_up = messages.iter().filter(|(sent, _)| *sent >= START + 11_000 + jump);
        assert!(caught_up.clone().count() > 100);
        assert!(caught_up.clone().all(|(sent, stamp)| sent == stamp), "after a jump of {jump} ms");
    }
}

#[test]
fn a_burst_runs_ahead_of_the_clock_by_so_much_and_is_then_slowed_down() {
    let (stamps, clock) = at(START);
    let next = || stamps.next(&user("alice"), &chat("alice:bob"));
    assert_eq!((0..=MAX_AHEAD_MS).filter(|_| next().is_ok()).count() as i64, MAX_AHEAD_MS + 1);
    for _ in 0..3 {
        assert_eq!(next(), Err(TooFarAhead { retry_after: Duration::from_millis(1) }));
    }
    assert_eq!(stamps.next(&user("dora"), &chat("dora:emil")), Ok(START), "others go on");
    clock.fetch_add(1, Ordering::Relaxed);
    assert_eq!(next(), Ok(START + MAX_AHEAD_MS + 1));
    assert!(next().is_err());
}

#[test]
fn any_number_of_senders_costs_each_send_the_same_and_is_forgotten() {
    let (stamps, clock) = at(START);
    for number in 0..150_000 {
        let sender = user(&format!("u{number}"));
        assert_eq!(stamps.next(&sender, &ChatId::direct(&sender, &user("all")).unwrap()), Ok(START));
    }
    let entries = |stamps: &TimestampAllocator| {
        let last = stamps.last.lock().unwrap();
        last.young.len() + last.old.len()
    };
    assert_eq!(entries(&stamps), 300_000);
    for _ in 0..2 {
        clock.fetch_add(PERIOD_MS + 1, Ordering::Relaxed);
        stamps.next(&user("alice"), &chat("alice:bob")).unwrap();
    }
    assert_eq!(entries(&stamps), 2);
}

#[derive(Debug, Clone)]
enum Step {
    /// The clock goes on, or is set, by so much.
    Clock(i64),
    /// One of some senders writes to one of some chats, so often.
    Send(usize, usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..50).prop_map(Step::Clock),
        2 => (0..2 * MAX_AHEAD_MS).prop_map(Step::Clock),
        1 => (-2 * MAX_AHEAD_MS..0).prop_map(Step::Clock),
        1 => prop::sample::select(vec![HOUR, -HOUR, MAX_AHEAD_MS, MAX_AHEAD_MS + 1, -MAX_AHEAD_MS]).prop_map(Step::Clock),
        8 => (0_usize..3, 0_usize..3, prop_oneof![3 => 1_usize..20, 1 => 1_usize..4000]).prop_map(|(sender, chat, count)| Step::Send(sender, chat, count)),
    ]
}

/// An allocator that forgets nothing, unless the clock is set back by more than timestamps may run ahead.
struct Model {
    now: i64,
    /// The latest time that the clock has said since it was set back so far.
    latest: i64,
    /// The last timestamps, and whether they can't have been forgotten.
    last: HashMap<String, (i64, bool)>,
}

impl Model {
    fn clock(&mut self, now: i64) {
        if now < self.now {
            self.last.retain(|_, (last, _)| *last <= now + MAX_AHEAD_MS);
        }
        if now < self.latest - MAX_AHEAD_MS {
            for (last, certain) in self.last.values_mut() {
                *certain &= *last >= self.latest - MAX_AHEAD_MS;
            }
            self.latest = now;
        }
        self.now = now;
        self.latest = self.latest.max(now);
    }

    /// The least and the greatest timestamp that may come next.
    fn next(&self, keys: &[String; 2]) -> (i64, i64) {
        let last = || keys.iter().filter_map(|key| self.last.get(key));
        let after = |last: Option<i64>| last.map_or(self.now, |last| self.now.max(last + 1));
        let certain = last().filter(|(_, certain)| *certain).map(|(last, _)| *last).max();
        (after(certain), after(last().map(|(last, _)| *last).max()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_forgotten_binds_nobody(steps in prop::collection::vec(step(), 1..60)) {
        let (stamps, clock) = at(START);
        let mut model = Model { now: START, latest: START, last: HashMap::new() };
        for step in steps {
            match step {
                Step::Clock(by) => {
                    model.clock(clock.fetch_add(by, Ordering::Relaxed) + by);
                    // The allocator sees only what the clock says when it is asked.
                    let _ = stamps.next(&user("x"), &chat("x:y"));
                }
                Step::Send(sender, of, count) => {
                    let keys = [format!("u{sender}"), format!("g{of}:h")];
                    let now = model.now;
                    for _ in 0..count {
                        let (least, most) = model.next(&keys);
                        match stamps.next(&user(&keys[0]), &chat(&keys[1])) {
                            Ok(stamp) => {
                                prop_assert!((least..=most).contains(&stamp) && stamp <= now + MAX_AHEAD_MS);
                                model.last.extend(keys.iter().map(|key| (key.clone(), (stamp, true))));
                            }
                            Err(far) => {
                                let ahead = most - now - MAX_AHEAD_MS;
                                prop_assert!(ahead > 0 && far.retry_after.as_millis() as i64 <= ahead);
                            }
                        }
                    }
                }
            }
        }
    }
}
