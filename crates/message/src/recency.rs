//! When a chat was written to last, as lists of conversations order it.
//!
//! A message's timestamp may lie far ahead of the clock: a gateway's clock was wrong, or another tool wrote it. In history such a message
//! is the newest until that time. But it must not keep its chat at the top of everybody's list until then: there it counts as of when it
//! arrived, like any other, and messages that come later put other chats above it.
//!
//! See `docs/decisions/messages-ahead.md`.

/// How far ahead of the clock a timestamp is taken as it is, in milliseconds: clocks differ, and stamps of a burst run ahead.
pub const SLACK_MS: i64 = 60_000;

/// The greatest timestamp that is taken as it is.
pub const fn latest(now: i64) -> i64 {
    now.saturating_add(SLACK_MS)
}

/// Whether a timestamp lies too far ahead.
pub const fn is_ahead(timestamp: i64, now: i64) -> bool {
    timestamp > latest(now)
}

/// As of when a message that arrives now counts in lists of conversations.
pub const fn of_arrival(timestamp: i64, now: i64) -> i64 {
    if is_ahead(timestamp, now) { now } else { timestamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_far_ahead_counts_as_of_its_arrival() {
        let now = 1_700_000_000_000;
        for ordinary in [0, now - 1, now, now + SLACK_MS] {
            assert_eq!(of_arrival(ordinary, now), ordinary);
        }
        for ahead in [now + SLACK_MS + 1, now + 1_000_000_000, i64::MAX] {
            assert_eq!(of_arrival(ahead, now), now);
        }
        assert!(!is_ahead(i64::MAX, i64::MAX));
    }
}
