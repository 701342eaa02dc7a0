use super::*;

const FIRST: &str = "00000000-0000-0000-0000-000000000001";
const SECOND: &str = "00000000-0000-0000-0000-000000000002";

fn message(id: &str, epoch: Value, seq: Value) -> (&'static str, Value) {
    (NEW_MESSAGE, json!({ "messageId": id, "chatId": "a:b", "content": "x", "epoch": epoch, "seq": seq }))
}

fn positioned(id: &str, epoch: &str, seq: u64) -> (&'static str, Value) {
    (MESSAGE_POSITIONED, json!({ "chatId": "a:b", "messageId": id, "epoch": epoch, "seq": seq }))
}

fn failed(id: &str) -> (&'static str, Value) {
    (MESSAGE_FAILED, json!({ "messageId": id, "tempId": null, "chatId": "a:b" }))
}

/// What is left of these events behind an answer that contained the first message as number 7.
fn left_of(events: Vec<(&'static str, Value)>) -> Vec<(&'static str, Value)> {
    let mut held = Held { holders: 1, ..Held::default() };
    held.contains(MessageId::parse(FIRST).unwrap(), "e", 7);
    let left = |(event, payload): (&'static str, Value)| match held
        .answered
        .left_of(event, &to_raw_value(&payload).unwrap())
    {
        Left::Event => Some((event, payload)),
        Left::Position(position) => Some((MESSAGE_POSITIONED, serde_json::from_str(position.get()).unwrap())),
        Left::Nothing => None,
    };
    events.into_iter().filter_map(left).collect()
}

#[test]
fn what_an_answer_contained_is_not_repeated_by_what_waited_behind_it() {
    let other = [("typing", json!({ "chatId": "a:b" })), message(SECOND, json!("e"), json!(8))];
    let mut events = vec![message(FIRST, json!("e"), json!(7)), message(FIRST, Value::Null, Value::Null)];
    events.extend(other.clone());
    assert_eq!(left_of(events), other);
}

#[test]
fn another_position_than_the_answers_is_told_once() {
    let events = vec![
        message(FIRST, json!("e"), json!(9)),
        message(FIRST, json!("e"), json!(9)),
        positioned(FIRST, "f", 1),
        message(FIRST, json!("f"), json!(2)),
    ];
    let positions = [positioned(FIRST, "e", 9), positioned(FIRST, "f", 1), positioned(FIRST, "f", 2)];
    assert_eq!(left_of(events), positions);
}

#[test]
fn what_was_retracted_behind_the_answer_may_come_again() {
    let again = message(FIRST, json!("e"), json!(7));
    let events = vec![again.clone(), failed(FIRST), again.clone()];
    assert_eq!(left_of(events), [failed(FIRST), again]);
}

#[test]
fn a_message_whose_retraction_waits_behind_its_answer_does_not_count_as_received() {
    let id = MessageId::parse(FIRST).unwrap();
    let mut held = Held { holders: 1, ..Held::default() };
    held.retracted(id);
    assert!(!held.contains(id, "e", 7));
    let mut held = Held::default();
    held.retracted(id);
    assert!(held.contains(id, "e", 7), "nothing waits: the retraction is out");
}
