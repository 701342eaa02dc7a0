//! A connection that receives publications. It confirms subscriptions within a time limit and reports its end; it does not reconnect.
//!
//! In a cluster it is a connection to any one node, because every node delivers what is published on any other.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, ToRedisArgs, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::RedisError;
use crate::connection::{Connection, connection_config};

/// The time to connect, and for the server to confirm one command.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a subscription broke.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The server refused, or the connection broke.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// No server could be reached.
    #[error("{0}")]
    Unavailable(#[from] RedisError),
    /// The server did not confirm a command in time.
    #[error("a subscription was not confirmed in time")]
    Unconfirmed,
    /// The connection was closed.
    #[error("the stream ended")]
    Ended,
    /// A beacon was not received in time: the subscription looks alive and delivers nothing.
    #[error("the beacon is not received")]
    Silent,
}

/// A connection that receives publications.
pub struct Subscriber {
    raw: MultiplexedConnection,
    ended: Arc<Notify>,
}

impl Subscriber {
    /// Connects to the server, or to any master of the cluster. `receive` gets the channel and the payload of every publication; the
    /// connection's reader task calls it, so it must not block.
    ///
    /// # Errors
    /// The server could not be reached in time.
    pub async fn connect(
        connection: &Connection,
        receive: impl Fn(&[u8], &[u8]) + Send + Sync + 'static,
    ) -> Result<Self, SubscriptionError> {
        let ended = Arc::new(Notify::new());
        let notify = ended.clone();
        let config = connection_config().set_push_sender(move |info: PushInfo| {
            match info.kind {
                PushKind::Disconnection => notify.notify_one(),
                PushKind::Message => {
                    if let [Value::BulkString(channel), Value::BulkString(payload), ..] = info.data.as_slice() {
                        receive(channel, payload);
                    }
                }
                _ => {}
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let server = connection.any(Instant::now() + CONFIRM_TIMEOUT).await?;
        let raw = confirmed(server.client().get_multiplexed_async_connection_with_config(&config)).await?;
        Ok(Self { raw, ended })
    }

    /// Subscribes to channels, and waits for the confirmation.
    ///
    /// # Errors
    /// The server refused, did not confirm in time, or the connection broke.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), SubscriptionError> {
        confirmed(self.raw.subscribe(channels)).await
    }

    /// Unsubscribes from channels, and waits for the confirmation.
    ///
    /// # Errors
    /// As [`Subscriber::subscribe`].
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), SubscriptionError> {
        confirmed(self.raw.unsubscribe(channels)).await
    }

    /// Waits until the connection is closed.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}

async fn confirmed<T>(step: impl Future<Output = Result<T, redis::RedisError>>) -> Result<T, SubscriptionError> {
    Ok(timeout(CONFIRM_TIMEOUT, step).await.map_err(|_| SubscriptionError::Unconfirmed)??)
}
