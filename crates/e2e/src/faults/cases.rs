//! The fault cases. Each also checks that its fault took effect: one without an effect proves nothing.

mod cache;
mod clients;
mod gateway;
mod kafka;
mod mongo;
mod queue;
mod worker;

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{RigOptions, Scene};
use crate::eventually;

/// What a case does, between the load's beginning and the healing of whatever it leaves broken.
pub type Act = for<'a> fn(&'a mut Scene) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// One fault case.
pub struct Case {
    /// Its name, as `--case` takes it.
    pub name: &'static str,
    /// What happens, in a line.
    pub about: &'static str,
    /// Whether the tests run it; the others take longer.
    pub quick: bool,
    /// Whether it can be part of a soak: it wants no settings of its own, and can happen again and again.
    pub soak: bool,
    /// Changes the system's options before the start.
    pub options: fn(&mut RigOptions),
    /// Causes the fault.
    pub act: Act,
}

/// `case!(flags, name, about, act)`, with options before `act` if there are any. Flags: `q`uick, `s`oak.
macro_rules! case {
    ($flags:literal, $name:literal, $about:literal, $act:path) => {
        case!($flags, $name, $about, |_| {}, $act)
    };
    ($flags:literal, $name:literal, $about:literal, $options:expr, $act:path) => {
        Case {
            name: $name,
            about: $about,
            quick: has($flags, b'q'),
            soak: has($flags, b's'),
            options: $options,
            act: |scene| Box::pin($act(scene)),
        }
    };
}

const fn has(flags: &str, flag: u8) -> bool {
    let flags = flags.as_bytes();
    let mut index = 0;
    while index < flags.len() {
        if flags[index] == flag {
            return true;
        }
        index += 1;
    }
    false
}

/// All fault cases.
pub const CASES: &[Case] = &[
    case!(
        "qs",
        "worker-killed-before-write",
        "the worker dies with a flush in flight that MongoDB never saw",
        worker::killed_before_write
    ),
    case!(
        "s",
        "worker-killed-before-commit",
        "the worker dies after the write and before the commit",
        worker::killed_before_commit
    ),
    case!(
        "",
        "worker-term-full-buffer",
        "SIGTERM to a worker with a full buffer",
        worker::lazy,
        worker::terminated_with_full_buffer
    ),
    case!(
        "s",
        "worker-frozen",
        "a worker is frozen past its session, then thawed",
        |options| options.workers = 2,
        worker::frozen
    ),
    case!(
        "",
        "flush-slower-than-max-poll",
        "MongoDB holds a flush for longer than max.poll.interval.ms",
        worker::impatient,
        worker::slow_flush
    ),
    case!("", "workers-1-3-1", "two workers join, then two leave", worker::scaled),
    case!(
        "",
        "rebalance-while-paused",
        "a worker joins while the other is paused",
        worker::small_buffer,
        worker::rebalanced_while_paused
    ),
    case!(
        "s",
        "gateway-killed-before-answer",
        "a gateway dies between Kafka's answer and the client's",
        gateway::killed_before_answer
    ),
    case!("s", "gateway-term-sends-in-flight", "SIGTERM to a gateway with sends in flight", gateway::terminated),
    case!("s", "gateway-frozen", "a gateway is frozen for 8 s", gateway::frozen),
    case!("s", "gateway-isolated", "a gateway is cut off from Kafka and both Redis for 6 s", gateway::isolated),
    case!("qs", "kafka-refused", "Kafka refuses connections for 8 s", kafka::refused),
    case!("s", "kafka-black-holed", "packets to Kafka vanish for 8 s", kafka::black_holed),
    case!("s", "kafka-answers-lost", "Kafka takes records and its answers are lost for 6 s", kafka::answers_lost),
    case!("s", "kafka-reset", "connections to Kafka are reset every 2 s", kafka::reset),
    case!("s", "kafka-killed", "Kafka is killed and started again", kafka::killed),
    case!(
        "",
        "kafka-right-withdrawn",
        "gateways lose the right to write and to have a producer id, one of them restarts, and they get it back",
        |options| options.kafka_authorizer = true,
        kafka::right_withdrawn
    ),
    case!("qs", "cache-killed", "the cache is killed and starts empty", cache::killed),
    case!("s", "cache-frozen", "the cache answers nothing for 8 s", cache::frozen),
    case!("s", "cache-flushed", "FLUSHALL, three times", cache::flushed),
    case!("s", "cache-key-evicted", "one key of a chat vanishes, again and again", cache::key_evicted),
    case!(
        "s",
        "cache-link-blinking",
        "one gateway's line to the cache blinks while its clients stay",
        cache::link_blinking
    ),
    case!("s", "queue-killed", "the failed queue's server is killed while nobody needs it", queue::killed),
    case!(
        "",
        "queue-killed-full",
        "Kafka away, and the full failed queue is killed (appendfsync always)",
        queue::fsync_always,
        queue::killed_full
    ),
    case!(
        "",
        "queue-out-of-memory",
        "Kafka away, and the failed queue reaches maxmemory",
        queue::small,
        queue::out_of_memory
    ),
    case!(
        "",
        "queue-evicting",
        "Kafka away, and the failed queue's server may evict: refused",
        queue::evicting,
        queue::refuses
    ),
    case!(
        "",
        "queue-without-aof",
        "Kafka away, and the failed queue's server keeps no file: refused",
        queue::without_aof,
        queue::refuses
    ),
    case!(
        "",
        "queue-disk-full",
        "Kafka away, and the failed queue's disk is full",
        queue::on_small_disk,
        queue::disk_full
    ),
    case!(
        "",
        "queue-aof-switched-on",
        "Kafka away, an append-only file is switched on, and the server is killed before it is whole",
        queue::settings_without_aof,
        queue::aof_switched_on
    ),
    case!("", "kafka-and-redis-down", "Kafka and both Redis away: nothing is accepted", queue::everything_down),
    case!(
        "",
        "retry-killed-before-removal",
        "both gateways die between a replay and its removal",
        queue::slow_replay,
        queue::retry_killed
    ),
    case!(
        "",
        "retry-by-two-one-frozen",
        "two gateways replay, one is frozen past its lease and thawed",
        queue::slow_replay,
        queue::retry_frozen
    ),
    case!("", "mongo-down", "MongoDB away for 2 minutes", mongo::down),
    case!("s", "mongo-killed-in-bulk", "MongoDB is killed while it writes", mongo::killed_in_bulk),
    case!(
        "",
        "mongo-stepped-down",
        "the primary of three steps down, twice",
        |options| options.mongo_set = true,
        mongo::stepped_down
    ),
    case!("", "one-message-two-workers", "two groups store every message at once", worker::two_groups),
    case!("", "poison", "undecodable, oversized and invalid records, with the dead-letter topic up", worker::poison),
    case!("", "poison-dlq-refusing", "the same while the dead-letter topic refuses them", worker::poison_refused),
    case!("qs", "client-cut", "clients are cut between send and answer", clients::cut),
    case!("", "slow-reader", "a device stops reading for 10 s under heavy load", clients::heavy, clients::slow_reader),
    case!(
        "",
        "silent-reader",
        "a device under heavy load reads nothing for longer than a heartbeat",
        clients::heavy,
        clients::silent_reader
    ),
    case!("s", "limits", "users send more than they may, and wait as the refusals say", clients::beyond_limits),
    case!(
        "",
        "two-hundred-chats",
        "twenty users with two hundred chats, without Kafka and then without the cache",
        clients::crowded,
        clients::many_chats
    ),
    case!(
        "",
        "blocked-sender-resends",
        "a user is blocked and repeats what was accepted long before",
        clients::short_resend_window,
        clients::blocked_sender
    ),
    case!("", "burst", "ten times the load, and a full producer queue", clients::small_producer_queue, clients::burst),
    case!(
        "",
        "rolling-restart",
        "every service and server restarts in turn",
        |options| options.workers = 2,
        clients::rolling_restart
    ),
];

/// Waits for a service's sample to satisfy a condition.
async fn wait_for(
    what: &str,
    limit: Duration,
    service: &crate::Service,
    sample: &str,
    holds: impl Fn(f64) -> bool,
) -> Result<()> {
    eventually(what, limit, async || {
        let value = service.metric(sample).await?;
        ensure!(holds(value), "{sample} is {value}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::CASES;

    #[test]
    fn names_are_unique_and_the_soak_has_some() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
        assert!(CASES.iter().filter(|case| case.soak).all(|case| !case.about.is_empty()));
    }
}
