//! A sound run is clean, and each way to break it turns the judgement red, with the right word.

use super::*;
use crate::ledger::{Live, Order};

const TIMES: usize = 10;

struct Run {
    history: History,
    held: Held,
    shown: Vec<Reading>,
    circumstances: Circumstances,
}

fn attempt(order: &Order, number: usize, outcome: Outcome) -> Attempt {
    let at = 1_700_000_000_000 + number as i64 * 10;
    let (began, ended) = (order.next(), order.next());
    Attempt { gateway: "g1".into(), connection: 1, began, began_ms: at, ended, ended_ms: at + 5, outcome }
}

fn refused(retryable: bool) -> Outcome {
    Outcome::Refused { code: "UNAVAILABLE".into(), retryable }
}

/// Ten messages from alice to bob, each accepted at once, stored, shown, and seen by a device of bob's.
fn sound() -> Run {
    let order = Order::default();
    let mut run = Run {
        history: History::default(),
        held: Held::default(),
        shown: vec![Reading { chat: "alice:bob".into(), ids: Vec::new(), whole: true, cached: false }],
        circumstances: Circumstances::default(),
    };
    let mut seen = Seen { user: "bob".into(), device: "phone".into(), ..Seen::default() };
    for number in 0..TIMES {
        let mut sent = Sent {
            temp_id: format!("t{number}"),
            sender: "alice".into(),
            receiver: "bob".into(),
            group: None,
            content: format!("message {number}"),
            attempts: Vec::new(),
        };
        let message = sent.message().unwrap();
        let (id, timestamp) = (message.id.to_string(), 1_700_000_000_001 + number as i64 * 10);
        let accepted =
            Outcome::Accepted { message_id: id.clone(), timestamp, durability: "kafka".into(), duplicate: false };
        sent.attempts.push(attempt(&order, number, accepted));
        run.held.0.push(Document {
            id: id.clone(),
            temp_id: Some(sent.temp_id.clone()),
            chat: message.chat.to_string(),
            sender: sent.sender.clone(),
            receiver: Some(sent.receiver.clone()),
            content: sent.content.clone(),
            timestamp,
        });
        run.shown[0].ids.insert(0, id.clone());
        show(&mut seen, &id, 7, number as u64 + 1);
        run.history.sent.push(sent);
    }
    run.history.seen.push(seen);
    run
}

fn show(seen: &mut Seen, id: &str, connection: u64, seq: u64) {
    show_at(seen, id, connection, Some(("e".to_owned(), seq)));
}

fn show_at(seen: &mut Seen, id: &str, connection: u64, position: Option<(String, u64)>) {
    seen.live.entry(id.to_owned()).or_default().push(Live { connection, position });
}

impl Run {
    fn faults(&self) -> Vec<(Fault, usize)> {
        let verdict = judge(&self.history, &self.held, &self.shown, &self.circumstances);
        Fault::ALL.iter().map(|fault| (*fault, verdict.count(*fault))).filter(|(_, count)| *count > 0).collect()
    }

    fn id(&self, number: usize) -> String {
        self.history.sent[number].message().unwrap().id.to_string()
    }

    /// Takes a message's positive answer away.
    fn never_accepted(&mut self, number: usize, outcome: Outcome) {
        self.history.sent[number].attempts[0].outcome = outcome;
    }

    fn not_stored(&mut self, number: usize) {
        let id = self.id(number);
        self.held.0.retain(|document| document.id != id);
    }
}

#[test]
fn a_sound_run_is_clean() {
    let run = sound();
    assert_eq!(run.faults(), []);
    let verdict = judge(&run.history, &run.held, &run.shown, &run.circumstances);
    assert_eq!((verdict.sent, verdict.accepted["kafka"], verdict.refused, verdict.unknown), (TIMES, TIMES, 0, 0));
}

#[test]
fn a_message_removed_from_the_store_is_lost_and_what_history_shows_of_it_a_ghost() {
    let mut run = sound();
    run.not_stored(3);
    assert_eq!(run.faults(), [(Fault::Lost, 1), (Fault::Ghost, 1)]);
}

#[test]
fn a_message_stored_again_is_duplicated() {
    let mut run = sound();
    run.held.0.push(run.held.0[2].clone());
    assert!(run.faults().contains(&(Fault::Duplicated, 1)), "{:?}", run.faults());

    let mut run = sound();
    let again = Document { id: "another".into(), ..run.held.0[2].clone() };
    run.shown[0].ids.insert(TIMES - 3, again.id.clone());
    run.held.0.push(again);
    assert_eq!(run.faults(), [(Fault::Duplicated, 1)]);
}

#[test]
fn a_changed_message_is_mutated() {
    let changes: [fn(&mut Document); 5] = [
        |document| document.content.push('!'),
        |document| document.sender = "bob".into(),
        |document| document.receiver = None,
        |document| document.temp_id = None,
        |document| document.timestamp += 1,
    ];
    for change in changes {
        let mut run = sound();
        change(&mut run.held.0[4]);
        assert_eq!(run.faults(), [(Fault::Mutated, 1)]);
    }
    let mut run = sound();
    if let Outcome::Accepted { message_id, .. } = &mut run.history.sent[4].attempts[0].outcome {
        message_id.push('0');
    }
    assert_eq!(run.faults(), [(Fault::Mutated, 1)]);
}

#[test]
fn an_attempt_without_an_answer_may_be_stamped_later_than_it_was_given_up_and_no_other() {
    let stored_as_of = |outcome: Outcome, after: i64| {
        let (mut run, order) = (sound(), Order::default());
        // Message 9 was sent once more before.
        run.history.sent[9].attempts.insert(0, attempt(&order, 9, outcome));
        run.held.0[9].timestamp += after;
        run.faults()
    };
    for unanswered in [Outcome::TimedOut, Outcome::Disconnected] {
        assert_eq!(stored_as_of(unanswered.clone(), 60_000), []);
        assert_eq!(stored_as_of(unanswered, -60_000)[0], (Fault::Mutated, 1));
    }
    assert_eq!(stored_as_of(refused(true), 60_000), [(Fault::Mutated, 1)]);
}

#[test]
fn a_stored_message_that_nobody_sent_is_unexpected() {
    let mut run = sound();
    run.held.0.push(Document { id: "x".into(), temp_id: None, chat: "c:d".into(), ..run.held.0[0].clone() });
    assert_eq!(run.faults(), [(Fault::Unexpected, 1)]);
}

#[test]
fn messages_stored_in_another_order_than_sent_are_swapped() {
    let mut run = sound();
    let (early, late) = (run.held.0[2].timestamp, run.held.0[5].timestamp);
    run.held.0[2].timestamp = late;
    run.held.0[5].timestamp = early;
    // The answered timestamps would reveal it, too: change them so that only the order is wrong.
    for (number, timestamp) in [(2, late), (5, early)] {
        if let Outcome::Accepted { timestamp: answered, .. } = &mut run.history.sent[number].attempts[0].outcome {
            *answered = timestamp;
        }
    }
    run.shown[0].ids.swap(TIMES - 1 - 2, TIMES - 1 - 5);
    let faults = run.faults();
    assert!(matches!(faults[..], [(Fault::Swapped, _)]), "{faults:?}");

    // A repeat that was stamped anew proves nothing, unless it began after the other's answer.
    let mut run = sound();
    let order = Order::default();
    for sent in &mut run.history.sent {
        sent.attempts[0].connection = sent.attempts[0].began;
    }
    let (began, began_ms) = (run.history.sent[2].attempts[0].began, run.history.sent[2].attempts[0].began_ms);
    let mut first = attempt(&order, 0, Outcome::Disconnected);
    (first.began, first.began_ms) = (began, began_ms);
    run.history.sent[5].attempts.insert(0, first);
    run.history.sent[5].attempts[1].began = 1000;
    assert_eq!(run.faults(), []);

    // Neither does one that another gateway stamped anew and that was stored before the first, while that waited in the failed queue.
    let mut run = sound();
    let (id, stored) = (run.id(2), run.held.0[5].timestamp + 1);
    run.held.0[2].timestamp = stored;
    let accepted =
        Outcome::Accepted { message_id: id, timestamp: stored, durability: "kafka".into(), duplicate: false };
    let repeat = Attempt { gateway: "g2".into(), began: 900, ended: 901, ..attempt(&order, 5, accepted) };
    run.history.sent[2].attempts.push(repeat);
    let moved = run.shown[0].ids.remove(TIMES - 1 - 2);
    run.shown[0].ids.insert(TIMES - 1 - 5, moved);
    assert_eq!(run.faults(), []);
    run.history.sent[2].attempts[1].gateway = "g1".into();
    assert!(matches!(run.faults()[..], [(Fault::Swapped, _)]), "the same gateway knows it");
}

#[test]
fn history_in_another_order_than_stored_is_swapped() {
    let mut run = sound();
    run.shown[0].ids.swap(0, 1);
    assert_eq!(run.faults(), [(Fault::Swapped, 1)]);
}

#[test]
fn a_send_without_any_answer_is_unanswered_and_late_only_where_its_connection_stayed_open() {
    let mut run = sound();
    run.never_accepted(1, Outcome::Disconnected);
    assert_eq!(run.faults(), [(Fault::Unanswered, 1)]);
    run.never_accepted(1, Outcome::TimedOut);
    run.history.sent[1].attempts[0].ended_ms += LATE_MS;
    assert_eq!(run.faults(), [(Fault::Unanswered, 1), (Fault::Late, 1)]);
    let from_ms = run.history.sent[1].attempts[0].began_ms + 1000;
    run.circumstances.answers_were_held = vec![Span { from_ms, to_ms: from_ms + 1 }];
    assert_eq!(run.faults(), [(Fault::Unanswered, 1)]);
}

#[test]
fn a_refusal_for_good_of_what_is_stored_is_a_lie_and_a_passing_one_is_none() {
    let mut run = sound();
    run.never_accepted(1, refused(true));
    assert_eq!(run.faults(), []);
    run.never_accepted(1, refused(false));
    assert_eq!(run.faults(), [(Fault::Lied, 1)]);
}

#[test]
fn what_history_shows_and_nobody_stored_is_a_ghost_unless_its_gateway_was_killed_meanwhile() {
    let mut run = sound();
    run.never_accepted(1, refused(true));
    run.not_stored(1);
    assert_eq!(run.faults(), [(Fault::Ghost, 1)]);
    let at_ms = run.history.sent[1].attempts[0].began_ms + 1;
    run.circumstances.kills = vec![Kill { gateway: "g2".into(), at_ms }];
    assert_eq!(run.faults(), [(Fault::Ghost, 1)]);
    run.circumstances.kills = vec![Kill { gateway: "g1".into(), at_ms }];
    assert_eq!(run.faults(), []);
}

#[test]
fn an_acknowledged_message_that_history_does_not_show_is_hidden() {
    let mut run = sound();
    run.shown[0].ids.remove(0);
    assert_eq!(run.faults(), [(Fault::Hidden, 1)]);
    run.shown.clear();
    assert_eq!(run.faults(), [(Fault::Hidden, TIMES)]);
}

#[test]
fn a_device_must_see_every_acknowledged_message_in_some_way_and_none_twice_on_a_connection() {
    let mut run = sound();
    let id = run.id(6);
    let copies = run.history.seen[0].live.remove(&id).unwrap();
    assert_eq!(run.faults(), [(Fault::Unseen, 1)]);
    run.history.seen[0].resumed.insert(id.clone());
    assert_eq!(run.faults(), []);
    run.history.seen[0].live.insert(id.clone(), copies);
    assert_eq!(run.faults(), []);
    // On another connection it may come again; on the same one not.
    show(&mut run.history.seen[0], &id, 8, 60);
    assert_eq!(run.faults(), []);
    show(&mut run.history.seen[0], &id, 8, 61);
    assert_eq!(run.faults(), [(Fault::SeenTwice, 1)]);
    run.history.seen[0].retract(&id);
    assert_eq!(run.faults(), [(Fault::Unseen, 1)], "it was taken off the screen");
    show(&mut run.history.seen[0], &id, 8, 70);
    assert_eq!(run.faults(), [], "announced anew after `messageFailed`");
    show(&mut run.history.seen[0], &id, 8, 71);
    assert_eq!(run.faults(), [(Fault::SeenTwice, 1)], "and once more");
}

#[test]
fn a_message_to_a_group_is_seen_by_the_devices_that_take_part_in_it() {
    let mut run = sound();
    let group = "g_00000000-0000-4000-8000-000000000001";
    let order = Order::default();
    let sent = Sent { group: Some(group.into()), receiver: String::new(), ..run.history.sent[0].clone() };
    let message = sent.message().unwrap();
    let (id, timestamp) = (message.id.to_string(), 1_700_000_000_500);
    let accepted =
        Outcome::Accepted { message_id: id.clone(), timestamp, durability: "kafka".into(), duplicate: false };
    let attempts = vec![attempt(&order, 49, accepted)];
    run.history.sent.push(Sent { attempts, ..sent.clone() });
    let stored = Document { id: id.clone(), chat: group.into(), receiver: None, timestamp, ..run.held.0[0].clone() };
    run.held.0.push(stored);
    run.shown.push(Reading { chat: group.into(), ids: vec![id.clone()], whole: true, cached: false });
    assert_eq!(run.faults(), [], "bob takes no part in it");
    run.history.seen[0].chats.insert(group.into());
    assert_eq!(run.faults(), [(Fault::Unseen, 1)]);
    show(&mut run.history.seen[0], &id, 7, 99);
    assert_eq!(run.faults(), []);
    let shown = serde_json::json!({
        "messageId": id, "chatId": group, "senderId": sent.sender, "tempId": sent.temp_id, "content": sent.content,
    });
    assert!(crate::ledger::is_genuine(&shown));
    run.held.0[TIMES].receiver = Some("bob".into());
    assert_eq!(run.faults(), [(Fault::Mutated, 1)]);
}

#[test]
fn nothing_excuses_a_message_that_one_connection_is_given_twice() {
    let at = |epoch: &str, seq: u64| Some((epoch.to_owned(), seq));
    let cases = [
        ("without a position, then listed by whoever heals", [None, at("e", 40)]),
        ("never with a position", [None, None]),
        ("in a new epoch, after the cache had lost its data", [at("d", 7), at("e", 7)]),
        ("listed again beyond the resend window", [at("e", 7), at("e", 5000)]),
    ];
    for (case, positions) in cases {
        let mut run = sound();
        let id = run.id(6);
        run.circumstances.cache_was_away = true;
        for position in positions {
            show_at(&mut run.history.seen[0], &id, 8, position);
        }
        assert_eq!(run.faults(), [(Fault::SeenTwice, 1)], "{case}");
        // The events of another device change nothing.
        let mut other = Seen { device: "other".to_owned(), ..run.history.seen[0].clone() };
        other.live.insert(id.clone(), Vec::new());
        show_at(&mut other, &id, 9, None);
        other.taken_back.insert(id.clone());
        run.history.seen.push(other);
        assert_eq!(run.faults(), [(Fault::SeenTwice, 1)], "{case}");
    }
}

#[test]
fn what_a_device_has_and_nobody_stored_or_refused_is_a_ghost() {
    let mut run = sound();
    run.never_accepted(4, Outcome::Disconnected);
    run.not_stored(4);
    let id = run.id(4);
    run.shown[0].ids.retain(|shown| *shown != id);
    assert_eq!(run.faults(), [(Fault::Unanswered, 1), (Fault::Ghost, 1)]);
    run.history.seen[0].retract(&id);
    assert_eq!(run.faults(), [(Fault::Unanswered, 1)]);
}

#[test]
fn a_newest_page_must_show_what_is_stored_as_far_as_it_goes() {
    let mut run = sound();
    let mut page = Reading { whole: false, cached: true, ..run.shown[0].clone() };
    page.ids.truncate(4);
    run.shown.push(page);
    assert_eq!(run.faults(), []);
    run.shown[1].ids.remove(1);
    assert_eq!(run.faults(), [(Fault::Hidden, 1)]);
    run.shown[1].ids.swap(0, 1);
    assert_eq!(run.faults(), [(Fault::Swapped, 1), (Fault::Hidden, 1)]);
}

#[test]
fn a_message_that_is_not_what_its_id_says_is_no_genuine_one() {
    let run = sound();
    let sent = &run.history.sent[0];
    let shown = serde_json::json!({
        "messageId": run.id(0), "chatId": "alice:bob", "senderId": sent.sender, "receiverId": sent.receiver,
        "tempId": sent.temp_id, "content": sent.content,
    });
    assert!(crate::ledger::is_genuine(&shown));
    for name in ["messageId", "chatId", "senderId", "receiverId", "tempId", "content"] {
        let mut altered = shown.clone();
        altered[name] = "carol".into();
        assert!(!crate::ledger::is_genuine(&altered), "{name}");
    }
}

#[test]
fn a_history_is_judged_alike_after_it_was_written_and_read() {
    let run = sound();
    let mut file = Vec::new();
    run.history.write(&mut file).unwrap();
    assert_eq!(History::read(&file[..]).unwrap(), run.history);
    assert!(History::read(&b"{\"sent\":{}}\n"[..]).is_err());
}
