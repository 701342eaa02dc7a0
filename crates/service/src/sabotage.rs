//! Ways to break the promise on purpose, so that the checker of the promise can be seen to notice.
//!
//! `HOLDFAST_SABOTAGE` names one. Only a debug build with the feature `sabotage` looks at it.

/// `KAFKA_PROPERTIES` override even what the promise rests on (`acks`, idempotence, automatic commits).
pub const KAFKA: &str = "kafka";
/// The retry service removes entries before it publishes them.
pub const POP_FIRST: &str = "pop-first";

/// Whether this process is to break the promise in this way.
pub fn is(how: &str) -> bool {
    cfg!(all(feature = "sabotage", debug_assertions))
        && std::env::var("HOLDFAST_SABOTAGE").is_ok_and(|asked| asked == how)
}
