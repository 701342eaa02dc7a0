//! Both roles of Redis: the queue, which must keep what it is given, and the cache, which must make room.

use holdfast_cache::failed::Durability;
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

/// Looks at both.
pub async fn check(cache: &Connection, queue: &Connection, durability: Durability) -> Vec<Check> {
    let (cache, queue) = tokio::join!(ask(cache, "redis cache"), ask(queue, "redis queue"));
    let mut checks = Vec::new();
    checks.extend(queue.unserved());
    for asked in &queue.servers {
        match asked {
            Ok(asked) => checks.extend(judge_queue(&asked.name, &asked.facts, durability)),
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

fn judge_queue(server: &str, facts: &ServerFacts, durability: Durability) -> Vec<Check> {
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
            judge_queue("redis queue", &ServerFacts::default(), durability).iter().map(|check| check.status).max()
        };
        assert_eq!(worst(Durability::Checked), Some(Status::Wrong));
        assert_eq!(worst(Durability::Assumed), Some(Status::Unknown));
    }

    #[test]
    fn a_replica_is_no_queue() {
        let facts = ServerFacts { role: Some("slave".into()), ..ServerFacts::default() };
        let checks = judge_queue("redis queue", &facts, Durability::Assumed);
        assert!(checks.iter().any(|check| check.name.ends_with("role") && check.status == Status::Wrong));
    }
}
