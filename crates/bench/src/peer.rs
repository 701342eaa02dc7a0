//! The peer that the gateway is compared with: a bare socketioxide server, which answers each `sendMessage` with what was sent and
//! does nothing else. What the gateway costs above it is the price of its promise.

use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use tokio::net::TcpListener;

/// Serves until the process or the task ends, pinging each client so often. The token `refuse` is refused, for tests.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, ping: Duration) -> std::io::Result<()> {
    let (layer, io) = SocketIo::builder().max_buffer_size(1024).ping_interval(ping).ping_timeout(ping).build_layer();
    let connected = async |socket: SocketRef| {
        socket.on("sendMessage", async |Data::<Value>(sent), ack: AckSender| {
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
