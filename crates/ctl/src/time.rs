//! Times and lengths of time, as people write and read them.

use std::time::{Duration, UNIX_EPOCH};

use holdfast_service::clock::unix_ms;

/// A time as text (RFC 3339), from Unix epoch milliseconds.
pub fn show(ms: i64) -> String {
    // Far outside of what a clock says; RFC 3339 has four digits for the year.
    if !(0..253_402_300_800_000).contains(&ms) {
        return format!("{ms} ms");
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())).to_string()
}

/// How long ago, in whole seconds from one on.
pub fn age(ms: i64) -> String {
    length(unix_ms().saturating_sub(ms))
}

/// A length of time in milliseconds, in whole seconds from one on.
pub fn length(ms: i64) -> String {
    let ms = ms.max(0).unsigned_abs();
    let shown = if ms < 1000 { ms } else { ms - ms % 1000 };
    humantime::format_duration(Duration::from_millis(shown)).to_string()
}

/// A moment in Unix epoch milliseconds: so long ago (`2h`, `3days`), or a time (`2026-11-21T10:00:00Z`).
pub fn parse_since(text: &str) -> Result<i64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(unix_ms().saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)).max(0));
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "a length of time (2h, 3days) or a UTC time (2026-11-21T10:00:00Z)".to_owned())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "a time after 1970".to_owned())?;
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A length of time: `90s`, `1h`, `7days`.
pub fn parse_length(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(parse_since("2026-11-21T10:00:00Z").unwrap(), 1_795_255_200_000);
        assert_eq!(show(1_795_255_200_000), "2026-11-21T10:00:00.000Z");
        let hour_ago = unix_ms() - parse_since("1h").unwrap();
        assert!((3_600_000..3_610_000).contains(&hour_ago), "{hour_ago}");
        assert!(parse_since("yesterday").is_err());
        assert_eq!((length(400), length(61_234), length(-5)), ("400ms".into(), "1m 1s".into(), "0s".into()));
    }
}
