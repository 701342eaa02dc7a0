//! The bare echo server as a process of its own: `PORT`, on the loopback.

use std::time::Duration;

use anyhow::{Context, Result};

// The gateway's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As often as the gateway does by default.
const PING: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() -> Result<()> {
    let port: u16 = std::env::var("PORT").context("PORT is not set")?.parse().context("PORT is no port")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.context("can't listen")?;
    holdfast_bench::peer::serve(listener, PING).await.context("can't serve")
}
