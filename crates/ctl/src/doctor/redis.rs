//! Both roles of Redis: the queue, which must keep what it is given, and the cache, which must make room.

use holdfast_cache::failed::Durability;
use holdfast_cache::inspect::ServerFacts;
use holdfast_cache::{CacheError, Connection};
use holdfast_service::clock::unix_ms;

use super::{clock, unreachable};
use crate::BUDGET;
use crate::check::{Check, Status, known};

/// A server's facts, and this machine's clock before and after it was asked.
struct Asked {
    facts: ServerFacts,
    before: i64,
    after: i64,
}

/// Looks at both.
pub async fn check(cache: &Connection, queue: &Connection, durability: Durability) -> Vec<Check> {
    let (cache, queue) = tokio::join!(ask(cache), ask(queue));
    let mut checks = Vec::new();
    let one_server = match (&cache, &queue) {
        (Ok(cache), Ok(queue)) => Some(cache.facts.run_id == queue.facts.run_id),
        _ => None,
    };
    match &queue {
        Ok(asked) => checks.extend(judge_queue(&asked.facts, durability)),
        Err(error) => checks.push(unreachable("redis queue", error, "start it, or correct REDIS_QUEUE_URL")),
    }
    if let Some(one_server) = one_server {
        let found = if one_server { "one server" } else { "two servers" };
        checks.push(Check::ok("redis: queue and cache", found, "two servers").unless(
            !one_server,
            Status::Warning,
            "give the queue a server of its own (REDIS_QUEUE_URL): a cache that fills the memory makes the queue refuse",
        ));
    }
    match &cache {
        Ok(asked) if one_server != Some(true) => checks.push(judge_cache(&asked.facts)),
        Ok(_) => {}
        Err(error) => checks.push(unreachable("redis cache", error, "start it, or correct REDIS_URL")),
    }
    for (name, asked) in [("redis queue", &queue), ("redis cache", &cache)] {
        if let Ok(Asked { facts, before, after }) = asked {
            checks.push(clock(name, *before, facts.clock, *after));
        }
    }
    checks
}

async fn ask(connection: &Connection) -> Result<Asked, CacheError> {
    // Connected first, so that it is not part of what is measured.
    connection.ping(BUDGET / 2).await?;
    let before = unix_ms();
    let facts = ServerFacts::read(connection, BUDGET).await?;
    Ok(Asked { facts, before, after: unix_ms() })
}

fn judge_queue(facts: &ServerFacts, durability: Durability) -> Vec<Check> {
    let name = |what: &str| format!("redis queue: {what}");
    let mut checks = vec![
        known(name("appendonly"), facts.aof.clone(), "yes", |aof, check| {
            check.unless(aof == "yes", Status::Wrong, "appendonly yes, or gateways refuse to queue")
        }),
        known(name("appendfsync"), facts.fsync.clone(), "always", |fsync, check| match fsync.as_str() {
            "always" => check,
            // Gateways wait for the disk then.
            "everysec" if facts.version >= (7, 2) => check,
            "everysec" => {
                check.with(Status::Warning, "appendfsync always: a power failure may take the last second's messages")
            }
            _ => check.with(Status::Wrong, "appendfsync always, or gateways refuse to queue"),
        }),
        known(name("maxmemory-policy"), facts.policy.clone(), "noeviction", |policy, check| {
            check.unless(
                policy == "noeviction",
                Status::Wrong,
                "maxmemory-policy noeviction, or gateways refuse to queue",
            )
        }),
        known(name("role"), facts.role.clone(), "master", |role, mut check| {
            check.found = format!("{role}, {} replicas online", facts.replicas);
            check.unless(role == "master", Status::Wrong, "point REDIS_QUEUE_URL at the master")
        }),
    ];
    if durability == Durability::Checked {
        for check in checks.iter_mut().filter(|check| check.status == Status::Unknown) {
            check.status = Status::Wrong;
            check.mend =
                "allow CONFIG GET and INFO, or set FAILED_QUEUE_DURABILITY=assumed; gateways refuse to queue".into();
        }
    }
    checks
}

fn judge_cache(facts: &ServerFacts) -> Check {
    known(
        "redis cache: maxmemory-policy".into(),
        facts.policy.clone(),
        "allkeys-lru, with a maxmemory",
        |policy, mut check| {
            let limit = facts.max_memory.unwrap_or_default();
            check.found =
                if limit == 0 { format!("{policy}, no maxmemory") } else { format!("{policy}, {limit} bytes") };
            check
                .unless(
                    limit > 0,
                    Status::Warning,
                    "set maxmemory: without it the cache grows until the machine has no memory",
                )
                .unless(
                    policy != "noeviction",
                    Status::Warning,
                    "an evicting policy: a full cache would refuse to learn anything new",
                )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_does_not_tell_is_wrong_unless_the_operator_vouches_for_it() {
        let worst =
            |durability| judge_queue(&ServerFacts::default(), durability).iter().map(|check| check.status).max();
        assert_eq!(worst(Durability::Checked), Some(Status::Wrong));
        assert_eq!(worst(Durability::Assumed), Some(Status::Unknown));
    }

    #[test]
    fn a_replica_is_no_queue() {
        let facts = ServerFacts { role: Some("slave".into()), ..ServerFacts::default() };
        let checks = judge_queue(&facts, Durability::Assumed);
        assert!(checks.iter().any(|check| check.name.ends_with("role") && check.status == Status::Wrong));
    }
}
