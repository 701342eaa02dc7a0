//! Commands of operators to gateways, on the channels that gateways subscribe to anyway.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_keys::{Channel, Keys};
use holdfast_message::UserId;
use holdfast_redis::{Call, Connection, RedisError, parse};
use tokio::time::Instant;

use crate::event::{self, Origin};

/// Tells every gateway with a socket of this user to close it. Returns how many gateways received this: each subscribes once to the channel
/// of a user for as long as it has a socket of theirs.
pub async fn disconnect(
    connection: &Connection,
    keys: &Keys,
    user: &UserId,
    budget: Duration,
) -> Result<u64, RedisError> {
    let channel = keys.channel(&Channel::User(user.clone()));
    let call = Call::new("PUBLISH").arg(channel).arg(event::disconnect(Origin::random(), user));
    if connection.is_cluster() {
        // A node counts only its own subscribers.
        parse::<u64>(connection.run_one("control", call, budget).await?)?;
        return listeners(connection, keys, user, budget).await;
    }
    parse(connection.run_one("control", call, budget).await?)
}

/// How many gateways have a socket of this user.
pub async fn listeners(
    connection: &Connection,
    keys: &Keys,
    user: &UserId,
    budget: Duration,
) -> Result<u64, RedisError> {
    let deadline = Instant::now() + budget;
    let channel = keys.channel(&Channel::User(user.clone()));
    let nodes = connection.nodes(deadline).await?;
    let counts = nodes.iter().map(async |node| {
        let call = Call::new("PUBSUB").arg("NUMSUB").arg(&channel);
        let (_, count): (String, u64) = parse(connection.run_at("control", node, call, deadline).await?)?;
        Ok(count)
    });
    // A node that is away has no subscribers.
    let counts: Vec<Result<u64, RedisError>> = join_all(counts).await;
    let heard = counts.iter().filter_map(|count| count.as_ref().ok()).copied().reduce(|sum, count| sum + count);
    heard.ok_or_else(|| counts.into_iter().find_map(Result::err).unwrap_or_else(|| RedisError::unexpected("no node")))
}
