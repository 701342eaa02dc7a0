//! `doctor`: every setting that the promise rests on, one line each.
//!
//! It reads the settings in effect from the servers, not the configuration files. The only thing that it writes is a document of its own
//! in MongoDB, which it deletes again. Kafka does not report its time, so its clock is not checked.

pub mod kafka;
pub mod mongo;
pub mod own;
pub mod redis;

use anyhow::Result;
use holdfast_service::settings::Source;

use crate::check::{self, Check, Status};
use crate::exit::Verdict;
use crate::output::Output;
use crate::settings::Settings;

/// Clocks further apart than this, in milliseconds, are warned about: history is ordered by them.
const CLOCKS_DIFFER: i64 = 1000;
/// Clocks further apart than this, in milliseconds, are wrong: tokens expire and leases begin at another time.
const CLOCKS_WRONG: i64 = 30_000;

/// Checks Kafka, both Redis servers, MongoDB and this program's own settings.
pub async fn run(settings: &Settings, output: &mut Output<'_>) -> Result<Verdict> {
    let (admin, kafka) = (settings.admin()?, settings.kafka());
    let (cache, queue) = (settings.cache()?, settings.queue()?);
    let store = settings.store().await?;
    let rule = settings.gateway.failed_queue();
    let (kafka, redis, mongo) =
        tokio::join!(kafka::check(&admin, &kafka), redis::check(&cache, &queue, rule), mongo::check(&store),);
    let checks: Vec<Check> = [own::check(Source::from_process), kafka, redis, mongo].into_iter().flatten().collect();
    let verdict = check::report(&checks, output)?;
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (wrong, warnings) = (count(Status::Wrong) + count(Status::Unreachable), count(Status::Warning));
    output.note(format!(
        "{} checks: {wrong} wrong, {warnings} warnings, {} unknown",
        checks.len(),
        count(Status::Unknown)
    ))?;
    Ok(verdict)
}

fn unreachable(name: &str, error: impl std::fmt::Display, mend: &str) -> Check {
    Check::ok(name, error.to_string(), "answers").with(Status::Unreachable, mend)
}

/// Compares a server's clock with this machine's: asked between two readings of the latter, all in Unix epoch milliseconds.
fn clock(name: &str, before: i64, theirs: Option<i64>, after: i64) -> Check {
    check::known(format!("{name}: clock"), theirs, "within a second of this machine's", |theirs, mut check| {
        // The time on the network can't be distinguished from a difference of the clocks.
        let apart = if theirs < before { theirs - before } else { (theirs - after).max(0) };
        check.found = format!("{apart} ms apart");
        let status = if apart.abs() > CLOCKS_WRONG { Status::Wrong } else { Status::Warning };
        check.unless(apart.abs() <= CLOCKS_DIFFER, status, "synchronise the clocks of all machines (NTP)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_the_way_cannot_explain() {
        let status = |theirs| clock("x", 100_000, theirs, 100_400).status;
        assert_eq!(status(Some(100_200)), Status::Ok);
        assert_eq!(status(Some(99_000)), Status::Ok);
        assert_eq!(status(Some(98_999)), Status::Warning);
        assert_eq!(status(Some(101_401)), Status::Warning);
        assert_eq!(status(Some(130_401)), Status::Wrong);
        assert_eq!(status(Some(10)), Status::Wrong);
        assert_eq!(status(None), Status::Unknown);
    }
}
