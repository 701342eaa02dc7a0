//! The environment variables of the gateways and workers.

/// Where the servers are.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) redis_cache: String,
    pub(crate) redis_queue: String,
    pub(crate) mongo: String,
    pub(crate) kafka: String,
}

/// The settings that all services get where the caller's environment (`given`) has none. That of the caller is passed on besides.
pub(crate) fn common(
    addresses: &Addresses,
    secret: &str,
    given: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    [
        ("PROFILE", "development"),
        ("JWT_SECRET", secret),
        ("BIND", "127.0.0.1"),
        ("KAFKA_BROKERS", &addresses.kafka),
        // There is one broker.
        ("KAFKA_REPLICATION_FACTOR", "1"),
        ("REDIS_URL", &addresses.redis_cache),
        ("REDIS_QUEUE_URL", &addresses.redis_queue),
        ("MONGO_URL", &addresses.mongo),
        ("MONGO_DB", "chat"),
        // The default of five minutes makes for large, cheap writes. A person at a page wants the history within a second.
        ("FLUSH_INTERVAL_MS", "1000"),
        ("MESSAGE_LIMIT", "100"),
        ("EVENT_LIMIT", "300"),
        ("WINDOW_SECONDS", "10"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), given(name).unwrap_or_else(|| value.to_owned())))
    .collect()
}

/// The settings that one service has for itself. The caller's environment can't give them, since there may be several services.
pub(crate) fn own(common: &[(String, String)], port: Option<u16>, ops_port: u16) -> Vec<(String, String)> {
    let mut all = common.to_vec();
    all.push(("OPS_ADDR".to_owned(), format!("127.0.0.1:{ops_port}")));
    if let Some(port) = port {
        all.push(("PORT".to_owned(), port.to_string()));
    }
    all
}

/// A variable of the caller's; an empty one is none.
pub(crate) fn given(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(settings: &'a [(String, String)], name: &str) -> &'a str {
        settings.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    #[test]
    fn the_callers_settings_win() {
        let addresses =
            Addresses { redis_cache: "r".into(), redis_queue: "q".into(), mongo: "m".into(), kafka: "k".into() };
        let settings = common(&addresses, "secret", |name| (name == "FLUSH_INTERVAL_MS").then(|| "50".into()));
        assert_eq!(value(&settings, "FLUSH_INTERVAL_MS"), "50");
        assert_eq!(value(&settings, "REDIS_QUEUE_URL"), "q");
        let gateway = own(&settings, Some(3001), 9474);
        assert_eq!((value(&gateway, "PORT"), value(&gateway, "OPS_ADDR")), ("3001", "127.0.0.1:9474"));
    }
}
