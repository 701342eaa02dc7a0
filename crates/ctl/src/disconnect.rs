//! `disconnect`: every gateway closes a user's sockets. The client sees an ordinary disconnect by the server, after which it does not
//! reconnect by itself; the user may connect again.

use anyhow::Result;
use holdfast_cache::control;
use holdfast_keys::Keys;
use holdfast_message::UserId;
use holdfast_redis::Connection;
use serde_json::json;

use crate::exit::Verdict;
use crate::output::Output;
use crate::{BUDGET, audit};

/// Publishes the command to the gateways; with `dry_run`, only counts those that would receive it.
pub async fn run(
    cache: &Connection,
    keys: &Keys,
    user: &UserId,
    dry_run: bool,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    let gateways = if dry_run {
        control::listeners(cache, keys, user, BUDGET).await?
    } else {
        let heard = control::disconnect(cache, keys, user, BUDGET).await?;
        audit::disconnected(user.as_str());
        heard
    };
    let said = match (gateways, dry_run) {
        (0, _) => format!("no gateway holds a socket of {user}"),
        (_, true) => format!("{gateways} gateway(s) hold sockets of {user}; nothing was done"),
        (_, false) => format!("{gateways} gateway(s) were asked to close the sockets of {user}"),
    };
    output.say(&json!({ "userId": user.as_str(), "gateways": gateways, "dryRun": dry_run }), said)?;
    Ok(Verdict::Fine)
}
