//! A lean Socket.IO v5 client (Engine.IO v4) over WebSocket, for tests and for load. Development only.
//!
//! One task owns the connection: it sends packets, answers pings, passes events to a function and acknowledgements to their callers. It does
//! not reconnect, because a test wants to see a connection end.
//!
//! Protocol: <https://socket.io/docs/v4/engine-io-protocol/>, <https://socket.io/docs/v4/socket-io-protocol/>. Binary
//! attachments, other namespaces and acknowledgements that the server asks for are left out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The time for connecting as a whole.
const CONNECT: Duration = Duration::from_secs(15);
/// The capacity of the queue of commands; when it is full, callers wait.
const COMMANDS: usize = 256;

type Socket = WebSocketStream<TcpStream>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's `connect_error`.
    #[error("connect_error: {message}")]
    Refused {
        /// Its `message`.
        message: String,
        /// Its `data`, or null.
        data: Value,
    },
    /// The connection failed before that.
    #[error("can't connect: {0}")]
    Failed(String),
}

/// The connection ended before the answer arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct Closed;

/// An event as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its arguments as JSON, separated by commas; empty without arguments.
    pub data: &'a str,
}

/// An event that has arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its first argument, or null.
    pub data: Value,
}

/// The events of a connection, in the order of their arrival. None is dropped, so read them or drop this.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// The next event of this name within `limit`; those of other names are dropped.
    pub async fn next_named(&mut self, name: &str, limit: Duration) -> Option<Value> {
        timeout(limit, async {
            loop {
                let event = self.next().await?;
                if event.name == name {
                    return Some(event.data);
                }
            }
        })
        .await
        .ok()
        .flatten()
    }

    /// The events that have arrived by now.
    pub fn arrived(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

enum Command {
    Send { packet: String, answer: Option<(u64, oneshot::Sender<String>)> },
    Read(bool),
}

/// A connection. Dropping it closes the connection; [`Client::kill`] ends it without a closing handshake.
#[derive(Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    task: AbortHandle,
    next: AtomicU64,
    sid: String,
}

impl Client {
    /// Connects as the user of `token`, and queues the events.
    ///
    /// # Errors
    /// The server can't be reached or refuses.
    pub async fn connect(url: &str, token: &str) -> Result<(Self, Events), ConnectError> {
        Self::connect_with(url, &json!({ "token": token })).await
    }

    /// Connects with this `auth`, and queues the events.
    ///
    /// # Errors
    /// The server can't be reached or refuses.
    pub async fn connect_with(url: &str, auth: &Value) -> Result<(Self, Events), ConnectError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let client = Self::connect_to(url, auth, move |event: Incoming<'_>| {
            let mut arguments = serde_json::Deserializer::from_str(event.data).into_iter();
            let data = arguments.next().and_then(Result::ok).unwrap_or_default();
            // An error means that the events are not wanted any more.
            let _ = sender.send(Event { name: event.name.to_owned(), data });
        });
        Ok((client.await?, Events(receiver)))
    }

    /// Connects with this `auth` and hands each event to `on_event`, on the connection's task.
    ///
    /// `url` is `http://host:port` or `ws://host:port`; without TLS.
    ///
    /// # Errors
    /// The server can't be reached or refuses.
    pub async fn connect_to(
        url: &str,
        auth: &Value,
        on_event: impl FnMut(Incoming<'_>) + Send + 'static,
    ) -> Result<Self, ConnectError> {
        let (socket, sid) = timeout(CONNECT, open(url, auth))
            .await
            .map_err(|_| ConnectError::Failed(format!("no connection within {CONNECT:?}")))??;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let task = tokio::spawn(run(socket, receiver, on_event)).abort_handle();
        Ok(Self { commands, task, next: AtomicU64::new(0), sid })
    }

    /// The id that the server has given the socket.
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// Emits and waits for the acknowledgement's first argument, however long that takes.
    ///
    /// # Errors
    /// The connection has ended; the server may have taken the event.
    pub async fn emit_with_ack(&self, event: &str, data: &Value) -> Result<Value, Closed> {
        let answer = self.call(event, &data.to_string()).await?;
        Ok(serde_json::from_str::<Vec<Value>>(&answer)
            .ok()
            .and_then(|mut all| all.drain(..).next())
            .unwrap_or_default())
    }

    /// As [`Client::emit_with_ack`], on JSON text both ways; the answer is the array of all arguments.
    ///
    /// # Errors
    /// As [`Client::emit_with_ack`].
    pub async fn call(&self, event: &str, json: &str) -> Result<String, Closed> {
        self.begin(event, json).await?.await.map_err(|_| Closed)
    }

    /// Emits, and returns the receiver of the answer: events begun one after the other are sent in that order. The receiver fails when the
    /// connection ends.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn begin(&self, event: &str, json: &str) -> Result<oneshot::Receiver<String>, Closed> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let packet = format!("42{id}[\"{event}\",{json}]");
        self.commands.send(Command::Send { packet, answer: Some((id, sender)) }).await.map_err(|_| Closed)?;
        Ok(receiver)
    }

    /// Emits without asking for an acknowledgement.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn emit(&self, event: &str, data: &Value) -> Result<(), Closed> {
        let packet = format!("42[\"{event}\",{data}]");
        self.commands.send(Command::Send { packet, answer: None }).await.map_err(|_| Closed)
    }

    /// Stops or resumes reading. A client that does not read is stalled: packets of the server pile up, and pings are not answered.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn read(&self, on: bool) -> Result<(), Closed> {
        self.commands.send(Command::Read(on)).await.map_err(|_| Closed)
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }

    /// Ends the connection without the closing handshake of any layer.
    pub fn kill(&self) {
        self.task.abort();
    }
}

/// Opens the connection: WebSocket, Engine.IO's `open`, Socket.IO's `CONNECT`.
async fn open(url: &str, auth: &Value) -> Result<(Socket, String), ConnectError> {
    let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(error.to_string());
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let stream = TcpStream::connect(host).await.map_err(|error| failed(&error))?;
    // Small packets both ways: Nagle's algorithm would hold them back for an acknowledgement that is itself delayed.
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let address = format!("ws://{host}/socket.io/?EIO=4&transport=websocket");
    let (mut socket, _) = client_async(address, stream).await.map_err(|error| failed(&error))?;
    loop {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(failed(&error)),
            None => return Err(failed(&"the server closed the connection")),
        };
        match text.as_str() {
            "2" => send(&mut socket, "3".into()).await.map_err(|error| failed(&error))?,
            open if open.starts_with('0') => {
                send(&mut socket, format!("40{auth}").into()).await.map_err(|error| failed(&error))?;
            }
            connected if connected.starts_with("40") => {
                let body: Value = serde_json::from_str(&connected[2..]).unwrap_or_default();
                return Ok((socket, body["sid"].as_str().unwrap_or_default().to_owned()));
            }
            refused if refused.starts_with("44") => {
                let mut body: Value = serde_json::from_str(&refused[2..]).unwrap_or_default();
                let message = body["message"].as_str().unwrap_or_default().to_owned();
                return Err(ConnectError::Refused { message, data: body["data"].take() });
            }
            other => return Err(failed(&format_args!("unexpected packet {other:?}"))),
        }
    }
}

async fn send(socket: &mut Socket, packet: Utf8Bytes) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    socket.send(Message::Text(packet)).await
}

/// Owns the connection until it ends or the client is dropped. Callers that wait for an answer then get [`Closed`].
async fn run(mut socket: Socket, mut commands: mpsc::Receiver<Command>, mut on_event: impl FnMut(Incoming<'_>)) {
    let mut waiting = HashMap::new();
    let mut reading = true;
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(mut command) = command else {
                    let _ = socket.close(None).await;
                    return;
                };
                // All queued packets are sent in one write.
                loop {
                    match command {
                        Command::Read(on) => reading = on,
                        Command::Send { packet, answer } => {
                            waiting.extend(answer);
                            if socket.feed(Message::Text(packet.into())).await.is_err() {
                                return;
                            }
                        }
                    }
                    match commands.try_recv() {
                        Ok(next) => command = next,
                        Err(_) => break,
                    }
                }
                if socket.flush().await.is_err() {
                    return;
                }
            }
            message = socket.next(), if reading => {
                let text = match message {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => continue,
                };
                match packet(&text) {
                    Packet::Ping => {
                        if send(&mut socket, "3".into()).await.is_err() {
                            return;
                        }
                    }
                    Packet::Event(event) => on_event(event),
                    Packet::Ack(id, answer) => {
                        // An error means that the caller has stopped waiting.
                        let _ = waiting.remove(&id).map(|waiter: oneshot::Sender<String>| waiter.send(answer.to_owned()));
                    }
                    Packet::End => return,
                    Packet::Other => {}
                }
            }
        }
    }
}

#[derive(Debug)]
enum Packet<'a> {
    Ping,
    Event(Incoming<'a>),
    Ack(u64, &'a str),
    End,
    Other,
}

fn packet(text: &str) -> Packet<'_> {
    match text.as_bytes() {
        b"2" => Packet::Ping,
        [b'1', ..] | [b'4', b'1', ..] => Packet::End,
        [b'4', b'2', ..] => numbered(&text[2..]).and_then(|(_, json)| event(json)).map_or(Packet::Other, Packet::Event),
        [b'4', b'3', ..] => match numbered(&text[2..]) {
            Some((Some(id), json)) => Packet::Ack(id, json),
            _ => Packet::Other,
        },
        _ => Packet::Other,
    }
}

/// The id of the acknowledgement, if there is one, and the array after it.
fn numbered(text: &str) -> Option<(Option<u64>, &str)> {
    let (digits, json) = text.split_at(text.find('[')?);
    if digits.is_empty() { Some((None, json)) } else { Some((Some(digits.parse().ok()?), json)) }
}

/// Parses `["name",…]`. Names with escapes are not supported, because no event has one.
fn event(json: &str) -> Option<Incoming<'_>> {
    let (name, rest) = json.strip_prefix("[\"")?.split_once('"')?;
    let data = rest.strip_suffix(']')?;
    Some(Incoming { name, data: data.strip_prefix(',').unwrap_or(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        let Packet::Event(event) = packet(r#"42["newMessage",{"a":[1,"]"]}]"#) else { panic!() };
        assert_eq!((event.name, event.data), ("newMessage", r#"{"a":[1,"]"]}"#));
        let Packet::Event(event) = packet(r#"427["resync"]"#) else { panic!() };
        assert_eq!((event.name, event.data), ("resync", ""));
        assert!(matches!(packet(r#"4312[{"ok":true}]"#), Packet::Ack(12, r#"[{"ok":true}]"#)));
        assert!(matches!(packet("2"), Packet::Ping));
        assert!(matches!(packet("41"), Packet::End));
        for other in ["", "6", "42", "42{}", "43[1]", "43x[1]", r#"451-["x",{"_placeholder":true,"num":0}]"#] {
            assert!(matches!(packet(other), Packet::Other), "{other}");
        }
    }
}
