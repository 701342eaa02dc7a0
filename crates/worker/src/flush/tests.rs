use prometheus::Registry;

use super::*;
use crate::buffer::RecordMeta;
use crate::buffer::tests::message;
use crate::ledger::Start;

struct Desk {
    flusher: Flusher,
    buffer: Buffer,
    ledger: Ledger,
    metrics: Metrics,
    now: Instant,
}

impl Desk {
    /// With messages 1 to `count` in the buffer, at the offsets of their numbers.
    fn with(count: u8) -> Self {
        let (mut buffer, mut ledger, now) = (Buffer::default(), Ledger::default(), Instant::now());
        ledger.assign(0, Start::after(Some(1)));
        for number in 1..=count {
            let generation = ledger.receive(0, number.into()).unwrap().generation;
            let offset = number.into();
            buffer.push(
                message(number),
                RecordMeta { partition: 0, generation, offset, received: now, trace: None, refused_since: None },
            );
        }
        let flusher = Flusher::new(10, Duration::from_secs(300), LONE_REFUSAL);
        Self { flusher, buffer, ledger, metrics: Metrics::register(&Registry::new()).unwrap(), now }
    }

    /// One flush of all that can be flushed, with these outcomes.
    fn flush(&mut self, result: Result<Vec<Written>, BatchFailed>) -> (Vec<i64>, Settled) {
        let batch = self.buffer.take(100, true);
        let offsets = batch.metas.iter().map(|meta| meta.offset).collect();
        let flushed = Flushed { batch, result, took: Duration::from_millis(3) };
        (offsets, self.flusher.settle(self.now, flushed, &mut self.buffer, &mut self.ledger, &self.metrics))
    }

    fn point(&self) -> i64 {
        self.ledger.point(0).unwrap()
    }
}

fn retry() -> Written {
    Written::Retry { code: 11000, reason: "another index".into() }
}

fn away() -> BatchFailed {
    BatchFailed(StoreError::Unavailable("no primary".into()))
}

#[test]
fn a_failed_batch_moves_nothing_and_comes_back_in_order() {
    let mut desk = Desk::with(3);
    for _ in 0..50 {
        assert_eq!(desk.flush(Err(away())).0, [1, 2, 3]);
        assert_eq!((desk.point(), desk.buffer.len()), (1, 3));
    }
    assert!(desk.flusher.is_failing() && !desk.flusher.backoff.is_over(desk.now));
    desk.flush(Ok(vec![Written::Stored, Written::Duplicate, Written::Stored]));
    assert_eq!((desk.point(), desk.buffer.len(), desk.buffer.bytes()), (4, 0, 0));
    assert!(!desk.flusher.is_failing());
    assert_eq!((desk.metrics.stored.get(), desk.metrics.duplicates.get(), desk.metrics.retried.get()), (2, 1, 150));
}

#[test]
fn each_message_has_an_outcome_of_its_own() {
    let mut desk = Desk::with(4);
    let refused = Written::Refused { code: 121, reason: "validation".into() };
    let (_, settled) = desk.flush(Ok(vec![Written::Stored, refused, retry(), Written::Stored]));
    assert_eq!((settled.letters.len(), settled.stored.len()), (1, 2));
    assert_eq!(desk.point(), 2, "the refused one is done when its letter is acknowledged");
    assert_eq!((desk.buffer.len(), desk.buffer.aside()), (1, 1));
    assert_eq!(desk.flush(Ok(vec![Written::Stored])).0, [3]);
    assert_eq!(desk.point(), 2);
}

#[test]
fn a_message_refused_alone_is_a_dead_letter_only_after_ten_minutes_in_which_others_were_taken() {
    let mut desk = Desk::with(2);
    desk.flush(Ok(vec![Written::Stored, retry()]));
    desk.now += LONE_REFUSAL + Duration::from_secs(1);
    let (_, settled) = desk.flush(Ok(vec![retry()]));
    assert!(settled.letters.is_empty(), "nothing else was tried in that time");

    let mut desk = Desk::with(2);
    desk.flush(Ok(vec![Written::Stored, retry()]));
    let generation = desk.ledger.receive(0, 3).unwrap().generation;
    desk.now += LONE_REFUSAL - Duration::from_secs(30);
    let meta = RecordMeta { partition: 0, generation, offset: 3, received: desk.now, trace: None, refused_since: None };
    desk.buffer.push(message(3), meta);
    let (offsets, settled) = desk.flush(Ok(vec![retry(), Written::Stored]));
    assert_eq!((offsets, settled.letters.len()), (vec![2, 3], 0));
    desk.now += Duration::from_secs(31);
    assert_eq!(desk.flush(Ok(vec![retry()])).1.letters.len(), 1);
    assert!(desk.buffer.is_empty());
}

#[test]
fn a_server_that_refuses_everything_is_away_and_blames_no_message() {
    let mut desk = Desk::with(3);
    let (_, settled) = desk.flush(Ok(vec![retry(), retry(), retry()]));
    assert!(settled.letters.is_empty() && desk.flusher.is_failing());
    assert_eq!((desk.buffer.aside(), desk.buffer.len()), (0, 3));
}

#[test]
fn what_comes_back_for_an_assignment_that_is_over_is_let_go() {
    let mut desk = Desk::with(4);
    let batch = desk.buffer.take(100, true);
    desk.ledger.revoke(0);
    desk.ledger.assign(0, Start::after(Some(1)));
    desk.ledger.receive(0, 1);
    let outcomes =
        vec![Written::Stored, Written::Refused { code: 121, reason: String::new() }, retry(), Written::Duplicate];
    let flushed = Flushed { batch, result: Ok(outcomes), took: Duration::ZERO };
    let settled = desk.flusher.settle(desk.now, flushed, &mut desk.buffer, &mut desk.ledger, &desk.metrics);
    assert!(settled.letters.is_empty());
    assert_eq!((desk.point(), desk.buffer.len(), desk.buffer.bytes()), (1, 0, 0));

    let mut desk = Desk::with(4);
    let batch = desk.buffer.take(100, true);
    desk.ledger.revoke(0);
    let flushed = Flushed { batch, result: Err(away()), took: Duration::ZERO };
    desk.flusher.settle(desk.now, flushed, &mut desk.buffer, &mut desk.ledger, &desk.metrics);
    assert_eq!((desk.buffer.len(), desk.buffer.bytes()), (0, 0));
}

#[test]
fn outcomes_that_do_not_match_their_batch_count_for_nothing() {
    let mut desk = Desk::with(2);
    desk.flush(Ok(vec![Written::Stored]));
    assert_eq!((desk.point(), desk.buffer.len()), (1, 2));
}

/// Refuses message 2 alone, lets `meanwhile` happen for longer than the patience with one, and tries it beside another.
fn letters_after(refusal: &Written, meanwhile: impl Fn(&mut Desk)) -> usize {
    let mut desk = Desk::with(2);
    desk.flush(Ok(vec![Written::Stored, refusal.clone()]));
    meanwhile(&mut desk);
    desk.now += LONE_REFUSAL + Duration::from_secs(60);
    let generation = desk.ledger.receive(0, 3).unwrap().generation;
    let meta = RecordMeta { partition: 0, generation, offset: 3, received: desk.now, trace: None, refused_since: None };
    desk.buffer.push(message(3), meta);
    desk.flush(Ok(vec![refusal.clone(), Written::Stored])).1.letters.len()
}

#[test]
fn neither_an_outage_nor_a_shard_that_is_away_makes_a_dead_letter() {
    assert_eq!(letters_after(&retry(), |_| ()), 1, "or this test could not fail");
    assert_eq!(letters_after(&retry(), |desk| drop(desk.flush(Err(away())))), 0);
    let shard_away = Written::Retry { code: 133, reason: "no primary of the shard".into() };
    assert_eq!(letters_after(&shard_away, |_| ()), 0);
}
