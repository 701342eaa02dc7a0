//! URLs of other servers, which hold passwords: their forms are checked here, and no error repeats a part of them.
//!
//! A client library would say which part it can't read, and that part may be a password whose `/`, `?`, `#` or `@` is not
//! percent-encoded; or it would take the first half of such a password for a port and try to reach it, and log that.

use super::{Secret, Value};

const ENCODE: &str = "user or password must be percent-encoded (`%2F` for /, `%3F` for ?, `%23` for #, `%40` for @)";

/// The URL of a Redis server, never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl(Secret);

/// MongoDB's connection string, never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongoUrl(Secret);

impl RedisUrl {
    /// The URL itself.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl MongoUrl {
    /// The URL itself.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl Value for RedisUrl {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let text = printable(text)?;
        match text.split_once("://") {
            Some(("redis" | "rediss" | "valkey" | "valkeys", rest)) => authority(rest)?,
            Some(("unix" | "redis+unix" | "valkey+unix", _)) => {}
            _ => return Err("must begin with redis:// or rediss://".into()),
        }
        Secret::parse(text).map(Self)
    }
}

impl Value for MongoUrl {
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let text = printable(text)?;
        match text.split_once("://") {
            Some(("mongodb" | "mongodb+srv", rest)) => authority(rest)?,
            _ => return Err("must begin with mongodb:// or mongodb+srv://".into()),
        }
        Secret::parse(text).map(Self)
    }
}

/// Without blanks and line ends around it, which no URL has.
fn printable(text: &str) -> Result<&str, String> {
    let text = text.trim_ascii();
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must not contain blanks, line ends or control characters; percent-encode them".into());
    }
    Ok(text)
}

/// `[user[:password]@]host[:port][,host[:port]]...` and what follows.
fn authority(rest: &str) -> Result<(), String> {
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let hosts = match authority.rsplit_once('@') {
        _ if path.contains('@') => return Err(ENCODE.into()),
        Some((_, hosts)) => hosts,
        None if tail.contains('@') => return Err(ENCODE.into()),
        None => authority,
    };
    for (number, host) in (1..).zip(hosts.split(',')) {
        let port = match host.rsplit_once(':') {
            // The colons of an IPv6 address are in brackets.
            Some((_, port)) if !host.ends_with(']') => port,
            _ => "1",
        };
        if port.parse::<u16>().is_err() {
            return Err(format!("the port of host {number} must be a number from 1 to 65535"));
        }
        if host.is_empty() || host.starts_with(':') {
            return Err(format!("host {number} is missing"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_is_reached_by_passes_as_it_is() {
        for url in [
            "redis://127.0.0.1",
            "redis://:p%40ss@cache:6379/3",
            "rediss://user:$ecret,=!@cache:6380/#insecure",
            "redis://:one:two@three@cache:6379",
            "redis://[::1]:6379",
            "redis://[::1]",
            "unix:///run/redis.sock?pass=a@b",
        ] {
            assert_eq!(RedisUrl::parse(url).unwrap().reveal(), url);
            assert_eq!(RedisUrl::parse(&format!("{url}\n")).unwrap().reveal(), url);
        }
        for url in [
            "mongodb://a:1,b:2,c/?replicaSet=rs0",
            "mongodb://user:p%2Fss@a/chat?authSource=admin",
            "mongodb+srv://user:$ecret@cluster.example/",
            "mongodb://u:p@%2Ftmp%2Fmongodb.sock/chat",
        ] {
            assert_eq!(MongoUrl::parse(url).unwrap().reveal(), url);
        }
    }

    #[test]
    fn what_would_be_misread_is_refused_without_its_text() {
        for rest in [
            "u:CAN ARY@h",
            "u:CAN\nARY@h",
            "u:CAN/ARY@h",
            "u:12/ARY@h",
            "u:CAN?ARY@h",
            "u:12?db=ARY@h",
            "u:CAN#ARY@h",
            "u:C@NARY/CAN@h",
            "u:CANARY@h:CANARY",
            "h:CANARY",
            "u:CANARY@",
            "u:CANARY@:6379",
            "u:CANARY@h:70000",
            "",
        ] {
            for error in [
                RedisUrl::parse(&format!("redis://{rest}")).unwrap_err(),
                MongoUrl::parse(&format!("mongodb://{rest}")).unwrap_err(),
                RedisUrl::parse(&format!("CANARY://{rest}")).unwrap_err(),
                MongoUrl::parse(&format!("CANARY{rest}")).unwrap_err(),
            ] {
                assert!(!error.contains("CAN") && !error.contains("ARY") && !error.contains("12"), "{rest}: {error}");
            }
        }
        assert!(!format!("{:?}", RedisUrl::parse("redis://u:CANARY@h").unwrap()).contains("CANARY"));
    }
}
