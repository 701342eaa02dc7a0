//! What the nodes of a cluster say about slots: which node has which (`CLUSTER SLOTS`), and where a slot has gone (`MOVED`, `ASK`).

use std::fmt;
use std::sync::Arc;

use redis::{ConnectionAddr, Value};

use crate::hash_slot::SLOTS;

/// The address of a node. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// `host:port`; the host of an IPv6 address may stand in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|&port| port > 0)?;
        (!host.is_empty() && !host.contains(['/', '@'])).then(|| Self::new(host, port))
    }

    /// The address that a client connects to; `None`: a socket file.
    pub(crate) fn of(address: &ConnectionAddr) -> Option<Self> {
        match address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some(Self::new(host, *port)),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a node did not execute a call. In every case it applied nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detour {
    /// The slot belongs to another node now.
    Moved(Address),
    /// The slot is moving to another node, which has this key or would get it.
    Ask(Address),
    /// The slot is moving, and only some of the call's keys have arrived.
    TryAgain,
    /// The node does not serve the slot now, and names no other node.
    Down(String),
}

impl Detour {
    /// The detour that an answer asks for; `None`: the answer is the result. `asked` replaces a host that the node leaves out: its own.
    pub(crate) fn of(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::ServerError(error) = answer else { return None };
        let target = || {
            // A slot and an address.
            let text = error.details()?.split(' ').nth(1)?;
            match text.strip_prefix(':') {
                Some(port) => Some(Address { host: asked.host.clone(), port: port.parse().ok()? }),
                None => Address::parse(text),
            }
        };
        let down = || Self::Down(format!("{} {}", error.code(), error.details().unwrap_or_default()));
        match error.code() {
            "MOVED" => Some(target().map_or_else(down, Self::Moved)),
            "ASK" => Some(target().map_or_else(down, Self::Ask)),
            "TRYAGAIN" => Some(Self::TryAgain),
            "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" => Some(down()),
            _ => None,
        }
    }
}

/// A range of slots and the nodes that have it, as in `CLUSTER SLOTS`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) slots: std::ops::RangeInclusive<u16>,
    pub(crate) master: Address,
    pub(crate) replicas: Vec<Address>,
}

/// Parses the answer to `CLUSTER SLOTS` of the node at `asked`; `None` if it has another shape.
pub(crate) fn ranges(answer: &Value, asked: &Address) -> Option<Vec<Range>> {
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let node = |value: &Value| {
        let Value::Array(node) = value else { return None };
        let [host, port, ..] = node.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::SimpleString(host) => host,
            // The node that was asked.
            Value::Nil => "",
            _ => return None,
        };
        // A node that knows no host of its own answers "?".
        let host = if matches!(host, "" | "?") { asked.host.clone() } else { host.into() };
        Some(Address { host, port: number(port)? })
    };
    let range = |value: &Value| {
        let Value::Array(range) = value else { return None };
        let [first, last, master, replicas @ ..] = range.as_slice() else { return None };
        let slots = number(first)?..=number(last).filter(|&last| last < SLOTS)?;
        Some(Range { slots, master: node(master)?, replicas: replicas.iter().filter_map(node).collect() })
    };
    let Value::Array(answer) = answer else { return None };
    answer.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["10.0.0.1:6379", "redis-0.redis:7000", "[::1]:6379"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Address::parse("::1:6379"), Some(Address::new("::1", 6379)), "as MOVED writes it");
        for text in ["", "host", "host:", "host:0", "host:x", ":6379", "redis://host:6379", "user:pw@host:1"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    fn error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn what_a_node_refuses_says_where_to_go() {
        let asked = Address::new("10.0.0.1", 7000);
        let detour = |line: &str| Detour::of(&error(line), &asked);
        let there = Address::new("10.0.0.2", 7001);
        assert_eq!(detour("MOVED 3999 10.0.0.2:7001"), Some(Detour::Moved(there.clone())));
        assert_eq!(detour("ASK 3999 10.0.0.2:7001"), Some(Detour::Ask(there)));
        assert_eq!(detour("MOVED 3999 :7001"), Some(Detour::Moved(Address::new("10.0.0.1", 7001))));
        assert_eq!(detour("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Detour::TryAgain));
        assert!(matches!(detour("CLUSTERDOWN Hash slot not served"), Some(Detour::Down(_))));
        assert!(matches!(detour("MOVED nonsense"), Some(Detour::Down(_))));
        assert_eq!(detour("OOM command not allowed"), None);
        assert_eq!(Detour::of(&Value::Okay, &asked), None);
    }

    #[test]
    fn a_map_of_slots_is_read_with_its_replicas_and_gaps() {
        let asked = Address::new("seed", 7000);
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        let named = |host: &str, port| node(Value::BulkString(host.into()), port);
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            range(0, 5, vec![named("a", 1), named("b", 2)]),
            range(7, 16_383, vec![node(Value::Nil, 3)]),
        ]);
        let read = ranges(&answer, &asked).unwrap();
        assert_eq!(read[0], Range { slots: 0..=5, master: Address::new("a", 1), replicas: vec![Address::new("b", 2)] });
        assert_eq!(read[1], Range { slots: 7..=16_383, master: Address::new("seed", 3), replicas: vec![] });
        assert_eq!(ranges(&Value::Array(vec![range(0, 16_384, vec![named("a", 1)])]), &asked), None);
        assert_eq!(ranges(&Value::Okay, &asked), None);
    }
}
