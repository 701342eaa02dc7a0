//! Both roles of Redis: the queue, which must keep what it is given, and the cache, which must make room.

use holdfast_failed_queue::{Durability, FailedQueueSettings};
use holdfast_redis::server_info::{AppendOnly, ConfigCalls, Server, ServerFacts};
use holdfast_redis::{Connection, RedisError, server_info};
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

/// Checks both roles. `rule` is the gateways' condition for accepting messages.
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

/// The facts reported by a role's servers.
struct Role {
    name: &'static str,
    servers: Vec<Result<Asked, (String, RedisError)>>,
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
    let servers = match server_info::servers(connection, BUDGET / 2).await {
        Ok(servers) => servers,
        Err(error) => return Role { name, servers: vec![Err((name.to_owned(), error))], whole: true },
    };
    let whole = server_info::covers_every_slot(connection, BUDGET / 2).await.unwrap_or(true);
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

async fn ask_one(server: &Server) -> Result<(i64, ServerFacts, i64), RedisError> {
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
        known(name("append-only file"), facts.state.append_only.map(|_| ""), "complete, and written", |_, check| {
            judge_append_only(&facts.state.append_only.unwrap_or_default(), facts, check)
        }),
        known(
            name("no-appendfsync-on-rewrite"),
            facts.no_sync_on_rewrite.map(|stops| if stops { "yes" } else { "no" }),
            "no",
            |stops, check| {
                let mend = "no-appendfsync-on-rewrite no: gateways refuse to queue while the file is written anew";
                check.unless(stops == "no", Status::Warning, mend)
            },
        ),
        known(name("maxmemory-policy"), facts.policy.clone(), "noeviction", |policy, check| {
            check.unless(
                policy == "noeviction",
                Status::Wrong,
                "maxmemory-policy noeviction, or gateways refuse to queue",
            )
        }),
        known(name("role"), facts.state.role.clone(), "master", |role, check| {
            check.unless(role == "master", Status::Wrong, "point REDIS_QUEUE_URL at the master")
        }),
        known(
            name("replicas"),
            facts.state.role.as_ref().map(|_| facts.state.replicas),
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
    // Nothing that gateways refuse for: it matters at the server's next restart.
    checks.push(judge_config(name("settings since its start"), facts));
    checks
}

/// What the server does with the file. A first rewrite and a later one look alike from here.
fn judge_append_only(append_only: &AppendOnly, facts: &ServerFacts, mut check: Check) -> Check {
    let may_be_first = append_only.rewriting && !facts.append_only_since_start();
    check.found = match append_only {
        AppendOnly { enabled: false, .. } => "none",
        AppendOnly { write_failed: true, .. } => "the last write failed",
        AppendOnly { rewriting: true, .. } => "being written anew",
        AppendOnly { rewrite_failed: true, .. } => "written; the last attempt to write it anew failed",
        _ => "written",
    }
    .into();
    check
        .unless(!append_only.rewrite_failed, Status::Warning, "see the server's log: the file only grows")
        .unless(
            !may_be_first,
            Status::Warning,
            "wait until it is done: if appendonly was switched on a moment ago, nothing is retained before, and gateways refuse to queue",
        )
        .unless(
            !append_only.write_failed,
            Status::Wrong,
            "make room on its disk (aof_last_write_status); gateways refuse to queue",
        )
        .unless(
            append_only.enabled || facts.aof.is_none(),
            Status::Wrong,
            "appendonly yes, or gateways refuse to queue",
        )
}

/// Whether the settings in effect are those that the server will have after a restart. No server reports the contents of its configuration
/// file; servers from 7.0 on report how often settings were changed and written to the file.
fn judge_config(name: String, facts: &ServerFacts) -> Check {
    let file = match facts.config_file.as_deref() {
        None => "a file that it does not report",
        Some("") => "no file",
        Some(file) => file,
    };
    let wanted = "as it was started";
    let Some(ConfigCalls { set, rewrite, reset }) = facts.config_calls else {
        let mend = format!("look yourself whether `appendonly yes` is where it is started from ({file})");
        return Check::ok(name, "the server does not report it", wanted).with(Status::Unknown, mend);
    };
    let found = format!("CONFIG SET {set} times, CONFIG REWRITE {rewrite} times; started with {file}");
    let lost = if reset > 0 { ", and counts were reset" } else { "" };
    Check::ok(name, found + lost, wanted).unless(
        (set == 0 || rewrite > 0) && reset == 0,
        Status::Warning,
        "look whether `appendonly yes` and `maxmemory-policy noeviction` are where it is started from, or they end with its next restart",
    )
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
    use holdfast_redis::server_info::ServerState;

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
    fn a_file_that_may_not_hold_everything_is_pointed_out_and_one_that_is_not_written_is_wrong() {
        let status = |append_only, set| {
            let config_calls = Some(ConfigCalls { set, ..ConfigCalls::default() });
            let facts = ServerFacts { aof: Some("yes".into()), config_calls, ..ServerFacts::default() };
            judge_append_only(&append_only, &facts, Check::ok("", "", "")).status
        };
        let written = AppendOnly { enabled: true, ..AppendOnly::default() };
        assert_eq!(status(written, 3), Status::Ok);
        assert_eq!(status(AppendOnly { rewriting: true, ..written }, 3), Status::Warning);
        assert_eq!(status(AppendOnly { rewriting: true, ..written }, 0), Status::Ok, "it has had it from the start");
        assert_eq!(status(AppendOnly { rewrite_failed: true, ..written }, 0), Status::Warning);
        assert_eq!(status(AppendOnly { write_failed: true, ..written }, 0), Status::Wrong);
        assert_eq!(status(AppendOnly::default(), 0), Status::Wrong);
    }

    #[test]
    fn settings_that_a_restart_may_undo_are_pointed_out() {
        let status = |set, rewrite, reset| {
            let config_calls = Some(ConfigCalls { set, rewrite, reset });
            judge_config(String::new(), &ServerFacts { config_calls, ..ServerFacts::default() }).status
        };
        assert_eq!((status(0, 0, 0), status(2, 1, 0)), (Status::Ok, Status::Ok));
        assert_eq!((status(1, 0, 0), status(0, 0, 1)), (Status::Warning, Status::Warning));
        assert_eq!(judge_config(String::new(), &ServerFacts::default()).status, Status::Unknown);
    }

    #[test]
    fn a_replica_is_no_queue() {
        let state = ServerState { role: Some("slave".into()), ..ServerState::default() };
        let facts = ServerFacts { state, ..ServerFacts::default() };
        let checks = judge_queue("redis queue", &facts, FailedQueueSettings::default());
        assert!(checks.iter().any(|check| check.name.ends_with("role") && check.status == Status::Wrong));
    }

    #[test]
    fn replicas_that_nobody_asks_for_are_pointed_out_and_those_that_are_missing_are_wrong() {
        let status = |online, has_had_replicas, min| {
            let state = ServerState { replicas: online, ..ServerState::default() };
            let facts = ServerFacts { state, has_had_replicas, ..ServerFacts::default() };
            judge_replicas(online, &facts, min, Check::ok("", "", "")).status
        };
        assert_eq!(status(0, false, 0), Status::Ok, "one machine, as it was meant");
        assert_eq!(status(2, true, 0), Status::Warning);
        assert_eq!(status(0, true, 0), Status::Warning, "it has lost them");
        assert_eq!((status(1, true, 1), status(2, true, 1)), (Status::Ok, Status::Ok));
        assert_eq!(status(1, true, 2), Status::Wrong);
    }
}
