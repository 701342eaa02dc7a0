//! `redis-benchmark` with the script that lists a message: what Redis can do if nothing else limits it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::connect_redis;
use tokio::process::Command;

use crate::load::content;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

/// The script as the gateway loads it.
const SCRIPT: &str = concat!(
    "#!lua\n",
    include_str!("../../../cache/src/scripts/recent_state.lua"),
    include_str!("../../../cache/src/scripts/recent_change.lua"),
    include_str!("../../../cache/src/scripts/recent_add.lua"),
);
const CONNECTIONS: &str = "4";
/// The gateway's batches.
const PIPELINE: &str = "64";

pub(super) async fn run(bench: &Bench) -> Result<Values> {
    let place = bench.servers.make_place().await?;
    let mut connection = connect_redis(&bench.servers.cache.url()).await?;
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection).await?;
    let count = bench.options.messages;
    let port = bench.servers.cache.port().to_string();
    let number = count.to_string();
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &port, "-c", CONNECTIONS, "-P", PIPELINE, "-n", &number]);
    command.args(["-r", "1000000000", "-q", "EVALSHA", &sha]).args(arguments());
    let meter = Meter::start(bench.servers.processes());
    let started = Instant::now();
    let output = command.kill_on_drop(true).output().await.context("redis-benchmark")?;
    let seconds = started.elapsed().as_secs_f64();
    let spent = meter.spent();
    ensure!(output.status.success(), "redis-benchmark: {}", String::from_utf8_lossy(&output.stderr));
    let seq: Option<u64> =
        redis::cmd("HGET").arg("chat:recent:{a:b}:head").arg("seq").query_async(&mut connection).await?;
    ensure!(seq.is_some_and(|seq| seq >= count as u64 * 9 / 10), "the script has listed {seq:?} of {count} messages");
    let mut values = Values::default();
    values.add("messages/s", count as f64 / seconds);
    values.spent(&spent, count as u64, "a message");
    Ok(values)
}

/// Keys and arguments of a message of one chat. `redis-benchmark` replaces `__rand_int__` by twelve digits, so that each message is a new
/// one. An argument of a command line holds no NUL, which is why the timestamp within the entry is a fraction.
fn arguments() -> Vec<OsString> {
    let keys = ["3", "chat:recent:{a:b}", "chat:recent:{a:b}:ids", "chat:recent:{a:b}:head"];
    let head =
        ["0123456789abcdef", "604800", "100", "1000", "00000000-0000-5000-8000-__rand_int__", "abcd__rand_int__"];
    let timestamp = 1_764_441_900_123.456_7_f64;
    let mut rest = vec![0xb0];
    rest.extend_from_slice(b"abcd__rand_int__");
    // The attempt, the timestamp, the sender's position in the chat's id.
    rest.extend_from_slice(&[0xce, 0x7f, 0x7f, 0x7f, 0x7f, 0xcb]);
    rest.extend_from_slice(&timestamp.to_be_bytes());
    rest.push(0x01);
    let text = content(100);
    rest.extend_from_slice(&[0xd9, 100]);
    rest.extend_from_slice(text.as_bytes());
    // No tempId, no image.
    rest.extend_from_slice(&[0xc0, 0xc0, 0xc0]);
    let attempt = ["2139062143".to_owned(), timestamp.to_string()];
    let channels = ["chat:v1:user:{a}", "chat:v1:user:{b}"];
    let mut all: Vec<OsString> = keys.into_iter().chain(head).map(OsString::from).collect();
    all.extend(attempt.map(OsString::from));
    all.push(OsString::from_vec(rest));
    // As long as a publication's beginning.
    all.push(OsString::from("x".repeat(20)));
    all.extend(channels.map(OsString::from));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_hold_no_nul() {
        assert!(arguments().into_iter().all(|argument| !argument.into_vec().contains(&0)));
    }
}
