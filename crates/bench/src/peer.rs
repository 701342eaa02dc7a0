//! A limit of the gateway: a bare socketioxide server. It answers each `sendMessage` with what was sent, emits it as `newMessage` to the
//! sender and to the friend, and does nothing else. It therefore writes to sockets what a gateway writes; what a gateway costs above it is
//! the price of its promise.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::serve::ListenerExt;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use holdfast_testkit::{Program, free_port};
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use tokio::net::TcpListener;

use crate::usage::Watched;

/// How long it may take to start.
const READY: Duration = Duration::from_secs(30);

/// Serves until the process or the task ends, pinging each client so often. The token `refuse` is refused, for tests.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, ping: Duration) -> std::io::Result<()> {
    let (layer, io) = SocketIo::builder().max_buffer_size(1024).ping_interval(ping).ping_timeout(ping).build_layer();
    let connected = async |socket: SocketRef, TryData::<Value>(auth)| {
        let user = auth.ok().and_then(|auth| user(auth["token"].as_str()?)).unwrap_or_default();
        if !user.is_empty() {
            socket.join(user.clone());
        }
        socket.on("sendMessage", async move |io: SocketIo, Data::<Value>(sent), ack: AckSender| {
            if let (false, Some(friend)) = (user.is_empty(), sent["friendId"].as_str()) {
                let mut message = sent.clone();
                message["senderId"] = json!(user);
                let _ = io.to([user.clone(), friend.to_owned()]).emit("newMessage", &message).await;
            }
            // The connection may have ended.
            let _ = ack.send(&json!({ "ok": true, "message": sent }));
        });
        socket.on("echo", async |socket: SocketRef, Data::<Value>(sent)| {
            let _ = socket.emit("echoed", &sent);
        });
        socket.on("leave", async |socket: SocketRef| {
            let _ = socket.disconnect();
        });
    };
    let admit = async |TryData::<Value>(auth)| match auth {
        Ok(auth) if auth["token"] == "refuse" => Err("UNAUTHENTICATED"),
        _ => Ok(()),
    };
    io.ns("/", socketioxide::handler::ConnectHandler::with(connected, admit));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().layer(layer)).await
}

/// The user that a token names. It is not verified: only a load uses this server.
fn user(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(claims["sub"].as_str()?.to_owned())
}

/// The bare echo server as a process of its own.
#[derive(Debug)]
pub struct Peer {
    program: Program,
    port: u16,
}

impl Peer {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start() -> Result<Self> {
        let port = free_port()?;
        let program = Program::start("holdfast-bench-peer", [("PORT", port.to_string())])?;
        let accepts = || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        program.ready_within(READY, accepts).await.context("the echo server")?;
        Ok(Self { program, port })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process, to be stopped or frozen.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its process, to be watched.
    pub fn process(&self) -> Watched {
        Watched::new("gateway", self.program.pid())
    }
}
