//! Which node of a cluster has a key, and what a node answers that has it no longer.

use std::fmt;
use std::sync::Arc;

use redis::{ConnectionAddr, Value};

/// How many slots a cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The polynomial of CRC-16/XMODEM, as the cluster specification has it.
const POLYNOMIAL: u16 = 0x1021;

static TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// A key's slot: that of what stands between the first `{` and the next `}`, if there is something, else of the whole key.
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    let tag = || {
        let open = key.iter().position(|&byte| byte == b'{')? + 1;
        let length = key[open..].iter().position(|&byte| byte == b'}').filter(|&length| length > 0)?;
        Some(&key[open..open + length])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// Where a node is. Cheap to clone.
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

    /// Where the server of a client's address is; a socket file is no node.
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

/// Why a node did not do what it was asked. None of them applied anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detour {
    /// The slot belongs to another node now.
    Moved(Address),
    /// The slot is on its way to another node, which has this key, or would.
    Ask(Address),
    /// The slot is on its way, and some of the call's keys have arrived and others have not.
    TryAgain,
    /// The node does not serve the slot now, and nobody else is known to.
    Down(String),
}

impl Detour {
    /// What an answer says of where to go, if it does. `asked` stands for a host that the node leaves out: its own.
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

/// A range of slots and who has them, as `CLUSTER SLOTS` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) slots: std::ops::RangeInclusive<u16>,
    pub(crate) master: Address,
    pub(crate) replicas: Vec<Address>,
}

/// Reads the answer to `CLUSTER SLOTS` of the node at `asked`; `None` if it is no such answer.
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
            // "The one that you asked."
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
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"chat:recent:{alice:bob}:ids"), slot_of(b"chat:failed:{alice:bob}"));
    }

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
