//! Where a client connects from, and how often it may.
//!
//! The address is the connection's; what `X-Forwarded-For` says is believed only as far as proxies of `TRUSTED_PROXIES` wrote it.
//! An IPv6 client is known by its /64: the rest is its own choice.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use holdfast_cache::rate_limit::{Decision, Limit, LocalLimiter};
use ipnet::IpNet;

use super::REMEMBERED;
use super::connection::{Meter, Rates};
use crate::metrics::{Limited, Metrics};
use crate::refusal::{Problem, Refusal};

/// The address that a connection is counted for, in the extensions of its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Lets handshakes pass, so many a second from one address, and gives each connection what it is measured by.
pub(crate) struct Handshakes {
    limiter: LocalLimiter<IpAddr>,
    trusted: Vec<IpNet>,
    rates: Rates,
    metrics: Metrics,
}

impl Handshakes {
    /// 0 `per_second` for no limit. Proxies in `trusted` are believed.
    pub(crate) fn new(per_second: u32, trusted: &[IpNet], rates: Rates, metrics: Metrics) -> Arc<Self> {
        let limit = Limit { events: per_second, window: Duration::from_secs(1) };
        let limiter = LocalLimiter::new(limit, REMEMBERED, Instant::now());
        Arc::new(Self { limiter, trusted: trusted.to_vec(), rates, metrics })
    }

    /// Refuses a handshake too many with 429. What passes carries its [`ClientAddress`] and its [`Meter`] to the connection.
    pub(crate) async fn guard(State(this): State<Arc<Self>>, mut request: Request, next: Next) -> Response {
        if !is_handshake(&request) {
            return next.run(request).await;
        }
        let now = Instant::now();
        if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
            let address = client(peer.ip(), request.headers(), &this.trusted);
            if let Decision::Limited { retry_after } = this.limiter.check(&address, now) {
                this.metrics.limited(Limited::Handshakes);
                let refusal = Refusal::rate_limited(retry_after);
                this.metrics.refused(refusal.code);
                return Problem::from(refusal).into_response();
            }
            request.extensions_mut().insert(ClientAddress(address));
        }
        request.extensions_mut().insert(Arc::new(Meter::new(this.rates, now)));
        next.run(request).await
    }
}

/// Whether a request opens a connection. One that belongs to a connection has its id.
fn is_handshake(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.uri().path().starts_with("/socket.io") && !query.split('&').any(|pair| pair.starts_with("sid="))
}

/// Who is behind the proxies that are trusted: each of them has appended the address that it was asked from.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer;
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(&address) {
            break;
        }
        let Some(before) = parse(hop.trim()) else { break };
        address = before;
    }
    network_of(address)
}

/// An address, perhaps with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_what_they_wrote() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        assert_eq!(client_of("203.0.113.7", &["198.51.100.1"], &proxies), "203.0.113.7");
        assert_eq!(client_of("10.0.0.1", &["198.51.100.1"], &proxies), "198.51.100.1");
        assert_eq!(client_of("10.0.0.1", &["198.51.100.1"], &[]), "10.0.0.1");
        // What the client itself claimed comes first and is not believed.
        assert_eq!(client_of("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"], &proxies), "198.51.100.1");
        assert_eq!(client_of("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.2"], &proxies), "198.51.100.1");
        assert_eq!(client_of("::ffff:10.0.0.1", &["198.51.100.1:4711"], &proxies), "198.51.100.1");
        assert_eq!(client_of("fd00::1", &["2001:db8:1:2:3:4:5:6"], &proxies), "2001:db8:1:2::");
        for garbage in ["", "unknown", "a, b", "_hidden", "1.2.3.4.5"] {
            assert_eq!(client_of("10.0.0.1", &[garbage], &proxies), "10.0.0.1", "{garbage}");
        }
        assert_eq!(client_of("10.0.0.1", &[], &proxies), "10.0.0.1");
        assert_eq!(client_of("10.0.0.1", &["10.0.0.3, 10.0.0.2"], &proxies), "10.0.0.3");
    }

    #[test]
    fn a_handshake_is_known_by_its_missing_id() {
        let request = |uri: &str| is_handshake(&Request::builder().uri(uri).body(Default::default()).unwrap());
        assert!(request("/socket.io/?EIO=4&transport=polling"));
        assert!(request("/socket.io?EIO=4&transport=websocket"));
        assert!(!request("/socket.io/?EIO=4&transport=polling&sid=abc"));
        assert!(!request("/api/chat/messages?limit=1"));
    }
}
