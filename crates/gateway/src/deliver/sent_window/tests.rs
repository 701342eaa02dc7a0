use super::*;

const UNKNOWN: Position<'static> = Position::Unknown;
const FIRST: Position<'static> = Position::At { epoch: "one", seq: 7 };
const LATER: Position<'static> = Position::At { epoch: "one", seq: 8 };
const NEW_EPOCH: Position<'static> = Position::At { epoch: "two", seq: 7 };

fn id(number: u128) -> MessageId {
    MessageId::from_bytes(number.to_be_bytes())
}

fn window() -> SentWindow {
    SentWindow::new(IntGauge::new("messages", "messages").unwrap())
}

impl SentWindow {
    /// Delivers to these connections, none of which drops what it is given; returns what each was due.
    fn to(&self, number: u128, position: Position<'_>, connections: &[ConnectionNumber]) -> Vec<Due> {
        self.at(self.began, number, position, connections)
    }

    fn at(&self, now: Instant, number: u128, position: Position<'_>, connections: &[ConnectionNumber]) -> Vec<Due> {
        let mut due = Vec::new();
        self.deliver(id(number), position, now, |delivery| {
            for connection in connections {
                due.push(delivery.due(*connection));
                if delivery.due(*connection) != Due::Nothing {
                    delivery.given(*connection);
                }
            }
        });
        due
    }

    fn totals(&self) -> (usize, usize, usize) {
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap());
        shards.fold((0, 0, 0), |(sent, queue, receipts), shard| {
            let counted: usize = shard.sent.values().map(|sent| sent.receipts.len()).sum();
            assert_eq!(shard.receipts, counted);
            (sent + shard.sent.len(), queue + shard.queue.len(), receipts + counted)
        })
    }
}

#[test]
fn a_connection_receives_a_message_once_and_each_position_once() {
    let window = window();
    assert_eq!(window.to(1, UNKNOWN, &[5, 3]), [Due::Message; 2]);
    assert_eq!(window.to(1, UNKNOWN, &[3, 5]), [Due::Nothing; 2]);
    assert_eq!(window.to(1, FIRST, &[3, 4, 5]), [Due::Position, Due::Message, Due::Position]);
    assert_eq!(window.to(1, FIRST, &[5, 4, 3]), [Due::Nothing; 3]);
    assert_eq!(window.to(1, UNKNOWN, &[3, 6]), [Due::Nothing, Due::Message]);
    assert_eq!(window.to(1, FIRST, &[3, 6]), [Due::Nothing, Due::Position], "6 received it without a position");
    assert_eq!(window.to(1, LATER, &[3]), [Due::Position], "listed once more, beyond the resend window");
    assert_eq!(window.to(1, NEW_EPOCH, &[3, 4, 5, 6]), [Due::Position; 4]);
    assert_eq!(window.to(2, NEW_EPOCH, &[3]), [Due::Message], "another message");
    assert_eq!(window.messages.get(), 2);
}

#[test]
fn what_a_full_buffer_did_not_take_is_due_again() {
    let window = window();
    window.deliver(id(1), UNKNOWN, window.began, |delivery| delivery.given(2));
    assert_eq!(window.to(1, UNKNOWN, &[1, 2]), [Due::Message, Due::Nothing]);
    window.deliver(id(1), FIRST, window.began, |delivery| delivery.given(1));
    assert_eq!(window.to(1, FIRST, &[1, 2]), [Due::Nothing, Due::Position]);
    window.lost(2, [id(1), id(9)]);
    assert_eq!(window.to(1, FIRST, &[1, 2]), [Due::Nothing, Due::Message]);
}

#[test]
fn only_those_who_were_told_of_a_retraction_receive_the_message_again() {
    let window = window();
    window.to(1, FIRST, &[1, 2, 3]);
    window.retract(id(1), || vec![3, 1]);
    assert_eq!(window.to(1, LATER, &[1, 2, 3]), [Due::Message, Due::Position, Due::Message]);
    window.retract(id(2), Vec::new);
    assert_eq!(window.totals(), (1, 1, 3));
}

#[test]
fn a_position_alone_reaches_nobody_who_has_not_received_the_message() {
    let window = window();
    window.to(1, UNKNOWN, &[1]);
    let mut due = Vec::new();
    window.position(id(1), FIRST, |delivery| due.extend([1, 2].map(|connection| delivery.due(connection))));
    assert_eq!(due, [Due::Position, Due::Message], "the caller gives nothing to the second");
    window.position(id(2), FIRST, |_| panic!("nobody has received it"));
    assert_eq!(window.totals(), (1, 1, 1));
}

#[test]
fn a_message_is_forgotten_ten_minutes_after_its_last_delivery() {
    let window = window();
    let after = |seconds: u64| window.began + Duration::from_secs(seconds);
    // All in one part of the window, which a delivery looks after.
    let number = |n: u128| n << 8;
    window.at(after(0), number(1), FIRST, &[1]);
    window.at(after(0), number(2), FIRST, &[1]);
    assert_eq!(window.at(after(300), number(1), FIRST, &[1, 2]), [Due::Nothing, Due::Message]);
    assert_eq!(window.at(after(599), number(2), FIRST, &[1]), [Due::Nothing], "that is no delivery");
    assert_eq!(window.at(after(600), number(3), FIRST, &[1]), [Due::Message]);
    assert_eq!(window.totals(), (2, 2, 3), "the second is forgotten");
    assert_eq!(window.at(after(899), number(1), FIRST, &[1, 2]), [Due::Nothing; 2]);
    assert_eq!(window.at(after(1300), number(4), FIRST, &[1]), [Due::Message]);
    assert_eq!(window.totals(), (1, 1, 1));
    assert_eq!(window.messages.get(), 1);
}

#[test]
fn the_window_is_bounded_in_messages_and_the_newest_stay() {
    let window = window();
    let many = (MAX_MESSAGES + 20_000) as u128;
    for number in 0..many {
        assert_eq!(window.to(number, UNKNOWN, &[1, 2]), [Due::Message; 2]);
    }
    let (sent, queued, receipts) = window.totals();
    assert_eq!((sent, queued, receipts), (MAX_MESSAGES, MAX_MESSAGES, 2 * MAX_MESSAGES));
    assert_eq!(window.messages.get(), MAX_MESSAGES as i64);
    for number in many - 50_000..many {
        assert_eq!(window.to(number, UNKNOWN, &[1, 2]), [Due::Nothing; 2]);
    }
    assert_eq!(window.to(0, UNKNOWN, &[1]), [Due::Message], "the oldest is forgotten");
}

#[test]
fn the_window_is_bounded_in_receipts() {
    let window = window();
    let connections: Vec<_> = (0..1000).collect();
    for number in 0..3000 {
        window.to(number, FIRST, &connections);
    }
    assert_eq!(window.totals(), (2000, 2000, MAX_RECEIPTS));
    assert!(window.to(2999, FIRST, &connections).iter().all(|due| *due == Due::Nothing));
}

#[test]
fn a_message_of_whom_nobody_is_here_is_not_remembered() {
    let window = window();
    window.to(1, FIRST, &[]);
    assert_eq!(window.totals(), (0, 0, 0));
}

#[test]
fn a_message_takes_as_much_memory_as_documented() {
    assert!(size_of::<(MessageId, Sent)>() <= 96);
    assert!(size_of::<(MessageId, u32)>() <= 20);
}
