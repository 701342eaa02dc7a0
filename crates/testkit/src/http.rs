//! Just enough HTTP to ask an operators' port.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The status and the body of `GET http://{address}{path}`, within half a minute: the machine may be busy.
///
/// # Errors
/// No connection, no answer in time, or none that is HTTP.
pub async fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    timeout(Duration::from_secs(30), get(address, path)).await.with_context(|| format!("{address} does not answer"))?
}

async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("can't connect to {address}"))?;
    // 1.0 has neither chunks nor persistent connections.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer has no status")?;
    Ok((status, body.to_owned()))
}
