//! Compares the stored message with the records of it.

use anyhow::Result;
use holdfast_message::{Message, MessageId};
use holdfast_store::StoredCopy;

use super::Finding;

/// How far apart the clocks of two gateways may be, in milliseconds, for judging which of two copies came first.
const CLOCKS: i64 = 60_000;

/// What follows from the records that are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It is as it should be.
    Fine,
    /// It differs, in this way.
    Found(Finding),
    /// All but its time, which is that of none of these records.
    OtherTime(Suspect),
}

/// A message whose stored time is that of no record seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// The stored time.
    pub stored: i64,
    /// The earliest time of its records.
    pub earliest: i64,
}

impl Suspect {
    /// What is to be said of it once every record of the range has been seen. `from_the_beginning`: nothing of its partition comes
    /// before the range.
    pub fn finding(&self, from_the_beginning: bool) -> Finding {
        // The first stored copy wins, so one from before the range has an earlier time, as far as clocks agree.
        if from_the_beginning || self.stored > self.earliest.saturating_add(CLOCKS) {
            return Finding::Altered { fields: vec!["timestamp"] };
        }
        Finding::TimestampUnjudged
    }
}

/// Compares a message's records, at least one, with what is stored of it.
pub fn judge(records: &[&Message], copies: &[&StoredCopy]) -> Result<Judged> {
    let stored = match copies {
        [] => return Ok(Judged::Found(Finding::Missing)),
        [stored] => stored,
        copies => return Ok(Judged::Found(Finding::Duplicated { copies: copies.len() })),
    };
    let mut differences = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let fields = stored.differences(record)?;
        if fields.is_empty() || index == 0 {
            differences = fields;
        }
        if differences.is_empty() {
            break;
        }
    }
    differences.extend(wrong_in_itself(stored).filter(|field| !differences.contains(field)));
    if !differences.is_empty() {
        return Ok(Judged::Found(Finding::Altered { fields: differences }));
    }
    let Some(time) = stored.timestamp() else {
        return Ok(Judged::Found(Finding::Altered { fields: vec!["timestamp"] }));
    };
    if records.iter().any(|record| record.timestamp == time) {
        return Ok(Judged::Fine);
    }
    let earliest = records.iter().map(|record| record.timestamp).min().unwrap_or(time);
    Ok(Judged::OtherTime(Suspect { stored: time, earliest }))
}

/// What a stored copy says of itself that can't be: a field that is none, or an id that its fields don't make.
pub fn wrong_in_itself(copy: &StoredCopy) -> Option<&'static str> {
    match copy.message() {
        Err(field) => Some(field),
        Ok(message) => (expected_id(&message).is_some_and(|id| id != copy.id)).then_some("_id"),
    }
}

/// The id that a message with a `tempId` must have.
fn expected_id(message: &Message) -> Option<MessageId> {
    let temp_id = message.temp_id.as_deref()?;
    let (url, public_id) = (message.image_url.as_deref(), message.public_id.as_deref());
    Some(MessageId::of_send(&message.sender, &message.chat, temp_id, &message.content, url, public_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_from_before_the_range_is_judged_only_where_nothing_comes_before_it() {
        let altered = Finding::Altered { fields: vec!["timestamp"] };
        let earlier = Suspect { stored: 1_000_000, earliest: 2_000_000 };
        assert_eq!(earlier.finding(true), altered);
        assert_eq!(earlier.finding(false), Finding::TimestampUnjudged);
        // No first copy is later than a later one.
        assert_eq!(Suspect { stored: 3_000_000, earliest: 2_000_000 }.finding(false), altered);
    }
}
