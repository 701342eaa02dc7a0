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
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl Response {
    /// A header's value, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// Sends one request on a connection of its own. `url` is `http://host:port`, `headers` whole lines.
///
/// # Errors
/// No connection, or an answer that is not HTTP.
pub async fn request(url: &str, method: &str, path: &str, headers: &[String], body: &str) -> Result<Response> {
    let host = url.strip_prefix("http://").context("http:// only")?;
    let mut stream = TcpStream::connect(host).await?;
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    // 1.0 has neither chunks nor persistent connections.
    let head = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {length}\r\n");
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let bytes = answer.split_off(end + 4);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok(Response { status, head, body: serde_json::from_slice(&bytes).unwrap_or_default(), bytes })
}
