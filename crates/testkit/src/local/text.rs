//! The text that is printed once everything is up.

use std::path::Path;
use std::time::Duration;

use holdfast_testkit::token;

use crate::environment::Addresses;

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The ports of one service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// For clients; a worker has none.
    pub(crate) clients: Option<u16>,
    /// For operators.
    pub(crate) operators: u16,
}

/// An address as it may be shown: without the user and the password that a URL may have.
pub(crate) fn without_password(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, server))) => format!("{scheme}://(hidden)@{server}"),
        _ => address.to_owned(),
    }
}

/// Addresses, tokens, a first message to send, and where an operator's command line finds its environment.
pub(crate) fn print(
    gateways: &[Ports],
    workers: &[Ports],
    addresses: &Addresses,
    secret: &str,
    data: &Path,
    environment: &Path,
) {
    let first = gateways.first().and_then(|ports| ports.clients).unwrap_or_default();
    println!("\nHoldfast is up.\n");
    println!("  chat         http://127.0.0.1:{first}/");
    for (number, ports) in (1..).zip(gateways) {
        let Ports { clients, operators } = ports;
        let clients = clients.unwrap_or_default();
        println!(
            "  gateway {number}    http://127.0.0.1:{clients}  metrics and health: http://127.0.0.1:{operators}/metrics, /health"
        );
    }
    for (number, Ports { operators, .. }) in (1..).zip(workers) {
        println!(
            "  worker {number}                            metrics and health: http://127.0.0.1:{operators}/metrics, /health"
        );
    }
    println!("  Redis cache  {}", without_password(&addresses.redis_cache));
    println!("  Redis queue  {}", without_password(&addresses.redis_queue));
    println!("  MongoDB      {}", without_password(&addresses.mongo));
    println!("  Kafka        {}", addresses.kafka);
    println!("  data, logs   {}", data.display());

    let (alice, bob) = (token("alice", secret, MONTH), token("bob", secret, MONTH));
    println!("\nTokens, valid for 30 days:\n\n  alice  {alice}\n  bob    {bob}");
    println!("\nA first message from alice to bob:\n");
    println!(
        "  curl -sS http://127.0.0.1:{first}/api/chat/messages -H 'Authorization: Bearer {alice}' -H 'Content-Type: application/json' \
         -d '{{\"friendId\":\"bob\",\"content\":\"hello\",\"tempId\":\"first\"}}'"
    );
    println!("\nBob reads it:\n");
    println!("  curl -sS http://127.0.0.1:{first}/api/chat/messages/alice -H 'Authorization: Bearer {bob}'");
    let folder = std::env::current_exe().ok().and_then(|this| Some(this.parent()?.join("holdfastctl")));
    let holdfastctl = folder.unwrap_or_else(|| "holdfastctl".into());
    println!("\nThe operator's command line, in another shell:\n");
    println!("  . {} && {} doctor", environment.display(), holdfastctl.display());
    println!("\nCtrl-C stops everything.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (address, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://user:pass/w@rd@cache:6379/1", "redis://(hidden)@cache:6379/1"),
            ("mongodb://u:p@a,b/?replicaSet=rs0", "mongodb://(hidden)@a,b/?replicaSet=rs0"),
            ("127.0.0.1:9092", "127.0.0.1:9092"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}
