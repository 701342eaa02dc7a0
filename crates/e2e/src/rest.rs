//! One REST request.

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header lines, in lower case.
    pub head: String,
    /// The body, if it is JSON; null otherwise.
    pub body: Value,
}

/// Sends one request on a connection of its own. `url` is `http://host:port`, `headers` whole lines.
pub async fn request(url: &str, method: &str, path: &str, headers: &[String], body: &str) -> Result<Response> {
    let host = url.strip_prefix("http://").context("http:// only")?;
    let mut stream = TcpStream::connect(host).await?;
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n");
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok(Response { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or_default() })
}
