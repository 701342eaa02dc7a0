//! What operators tell gateways, by the channels that those listen to anyway.

use std::time::Duration;

use holdfast_message::UserId;

use crate::event::{self, Origin};
use crate::keys::{Channel, Keys};
use crate::script::{Call, parse};
use crate::{CacheError, Connection};

/// Asks every gateway that holds a socket of this user to close it. Answers how many gateways heard it: each listens to a user's
/// channel once, while it holds a socket of theirs.
pub async fn disconnect(
    connection: &Connection,
    keys: &Keys,
    user: &UserId,
    budget: Duration,
) -> Result<u64, CacheError> {
    let channel = keys.channel(&Channel::User(user.clone()));
    let call = Call::new("PUBLISH").arg(channel).arg(event::disconnect(Origin::random(), user));
    parse(connection.run_one("control", call, budget).await?)
}

/// How many gateways hold a socket of this user.
pub async fn listeners(
    connection: &Connection,
    keys: &Keys,
    user: &UserId,
    budget: Duration,
) -> Result<u64, CacheError> {
    let call = Call::new("PUBSUB").arg("NUMSUB").arg(keys.channel(&Channel::User(user.clone())));
    let (_, count): (String, u64) = parse(connection.run_one("control", call, budget).await?)?;
    Ok(count)
}
