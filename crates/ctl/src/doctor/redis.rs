//! Both roles of Redis: the queue, which must keep what it is given, and the cache, which must make room.

use holdfast_cache::failed::{Durability, FailedQueueSettings};
use holdfast_cache::inspect::{self, Server, ServerFacts};
use holdfast_cache::{CacheError, Connection};
use holdfast_service::clock::unix_ms;

use super::{clock, unreachable};
use crate::BUDGET;
use crate::check::{Check, Status, known};

/// A server's facts, and this machine's clock before and after it was asked.
struct Asked {
    /// As in `redis queue`, with the address of a cluster's node.
    name: String,
    facts: ServerFacts,
    before: i64,
    after: i64,
}

/// Looks at both. `rule` is what gateways take messages by.
pub async fn check(cache: &Connection, queue: &Connection, rule: FailedQueueSettings) -> Vec<Check> {
    let (cache, queue) = tokio::join!(ask(cache, "redis cache"), ask(queue, "redis queue"));
    let mut checks = Vec::new();
    checks.extend(queue.unserved());
    for asked in &queue.servers {
        match asked {
            Ok(asked) => checks.extend(judge_queue(&asked.name, &asked.facts, rule)),
            Err((name, error)) => checks.push(unreachable(name, error, "start it, or correct REDIS_QUEUE_URL")),
        }
    }
    let is_both = |asked: &Asked| queue.up().any(|other| other.facts.run_id == asked.facts.run_id);
    let shared = cache.up().filter(|asked| is_both(asked)).count();
    if cache.up().next().is_some() && queue.up().next().is_some() {
        let found = if shared == 0 { "servers of their own" } else { "the same server" };
        checks.push(Check::ok("redis: queue and cache", found, "servers of their own").unless(
            shared == 0,
            Status::Warning,
            "give the queue a server of its own (REDIS_QUEUE_URL): a cache that fills the memory makes the queue refuse",
        ));
    }
    if shared == 0 {
        checks.extend(cache.unserved());
    }
    for asked in &cache.servers {
        match asked {
            Ok(asked) if is_both(asked) => {}
            Ok(asked) => checks.push(judge_cache(&asked.name, &asked.facts)),
            Err((name, error)) => checks.push(unreachable(name, error, "start it, or correct REDIS_URL")),
        }
    }
    for Asked { name, facts, before, after } in queue.up().chain(cache.up()) {
        checks.push(clock(name, *before, facts.clock, *after));
    }
    checks
}

/// What a role's servers said.
struct Role {
    name: &'static str,
    servers: Vec<Result<Asked, (String, CacheError)>>,
    /// Whether a cluster's masters have every slot between them.
    whole: bool,
}

impl Role {
    fn up(&self) -> impl Iterator<Item = &Asked> {
        self.servers.iter().filter_map(|asked| asked.as_ref().ok())
    }

    fn unserved(&self) -> Option<Check> {
        let mend = "repair the cluster (redis-cli --cluster check): keys of such slots can't be read or written";
        let check = Check::ok(format!("{}: slots", self.name), "not all are served", "all are served");
        (!self.whole).then(|| check.with(Status::Wrong, mend))
    }
}

async fn ask(connection: &Connection, name: &'static str) -> Role {
    let servers = match inspect::servers(connection, BUDGET / 2).await {
        Ok(servers) => servers,
        Err(error) => return Role { name, servers: vec![Err((name.to_owned(), error))], whole: true },
    };
    let whole = inspect::covers_every_slot(connection, BUDGET / 2).await.unwrap_or(true);
    let mut asked = Vec::with_capacity(servers.len());
    for server in &servers {
        // The name of a role's only server is the role.
        let name = match server.address() {
            Some(address) if connection.is_cluster() => format!("{name} {address}"),
            _ => name.to_owned(),
        };
        asked.push(ask_one(server).await.map_err(|error| (name.clone(), error)).map(|(before, facts, after)| Asked {
            name,
            facts,
            before,
            after,
        }));
    }
    Role { name, servers: asked, whole }
}

async fn ask_one(server: &Server) -> Result<(i64, ServerFacts, i64), CacheError> {
    // Connected first, so that it is not part of what is measured.
    server.ping(BUDGET / 2).await?;
    let before = unix_ms();
    let facts = server.facts(BUDGET).await?;
    Ok((before, facts, unix_ms()))
}

fn judge_queue(server: &str, facts: &ServerFacts, rule: FailedQueueSettings) -> Vec<Check> {
    let name = |what: &str| format!("{server}: {what}");
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
        known(name("role"), facts.role.clone(), "master", |role, check| {
            check.unless(role == "master", Status::Wrong, "point REDIS_QUEUE_URL at the master")
        }),
        known(
            name("replicas"),
            facts.role.as_ref().map(|_| facts.replicas),
            "as many as gateways ask for",
            |online, check| judge_replicas(online, facts, rule.min_replicas, check),
        ),
    ];
    if rule.durability == Durability::Checked {
        for check in checks.iter_mut().filter(|check| check.status == Status::Unknown) {
            check.status = Status::Wrong;
            check.mend =
                "allow CONFIG GET and INFO, or set FAILED_QUEUE_DURABILITY=assumed; gateways refuse to queue".into();
        }
    }
    checks
}

/// Gateways wait for the replicas that they find; a number says when those are too few.
fn judge_replicas(online: u32, facts: &ServerFacts, min: u32, mut check: Check) -> Check {
    check.found = format!("{online} online, FAILED_QUEUE_MIN_REPLICAS {min}");
    let undecided = min == 0 && (online > 0 || facts.has_had_replicas);
    check
        .unless(
            !undecided,
            Status::Warning,
            "set FAILED_QUEUE_MIN_REPLICAS to 1 or more: a master that has lost all its replicas is taken for one that never had any, and what it accepts rests on one machine",
        )
        .unless(online >= min, Status::Wrong, "bring its replicas back; gateways refuse to queue")
}

fn judge_cache(server: &str, facts: &ServerFacts) -> Check {
    known(
        format!("{server}: maxmemory-policy"),
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
        let worst = |durability| {
            let rule = FailedQueueSettings { durability, ..FailedQueueSettings::default() };
            judge_queue("redis queue", &ServerFacts::default(), rule).iter().map(|check| check.status).max()
        };
        assert_eq!(worst(Durability::Checked), Some(Status::Wrong));
        assert_eq!(worst(Durability::Assumed), Some(Status::Unknown));
    }

    #[test]
    fn a_replica_is_no_queue() {
        let facts = ServerFacts { role: Some("slave".into()), ..ServerFacts::default() };
        let checks = judge_queue("redis queue", &facts, FailedQueueSettings::default());
        assert!(checks.iter().any(|check| check.name.ends_with("role") && check.status == Status::Wrong));
    }

    #[test]
    fn replicas_that_nobody_asks_for_are_pointed_out_and_those_that_are_missing_are_wrong() {
        let status = |online, has_had_replicas, min| {
            let facts = ServerFacts { replicas: online, has_had_replicas, ..ServerFacts::default() };
            judge_replicas(online, &facts, min, Check::ok("", "", "")).status
        };
        assert_eq!(status(0, false, 0), Status::Ok, "one machine, as it was meant");
        assert_eq!(status(2, true, 0), Status::Warning);
        assert_eq!(status(0, true, 0), Status::Warning, "it has lost them");
        assert_eq!((status(1, true, 1), status(2, true, 1)), (Status::Ok, Status::Ok));
        assert_eq!(status(1, true, 2), Status::Wrong);
    }
}
