//! What a person is told once everything is up.

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

/// Addresses, tokens, and a first message to send.
pub(crate) fn print(gateways: &[Ports], workers: &[Ports], addresses: &Addresses, secret: &str, data: &Path) {
    let first = gateways.first().and_then(|ports| ports.clients).unwrap_or_default();
    println!("\nHoldfast is up.\n");
    println!("  page         http://127.0.0.1:{first}/");
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
    println!("  Redis cache  {}", addresses.redis_cache);
    println!("  Redis queue  {}", addresses.redis_queue);
    println!("  MongoDB      {}", addresses.mongo);
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
    println!("\nCtrl-C stops everything.");
}
