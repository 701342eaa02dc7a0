//! Presence: which devices of which users are connected, until they expire.
//!
//! A device is a member of one sorted set, scored by the time at which it expires, and of a second one that belongs to its user, for
//! look-ups. Heartbeats move that time forward. A gateway that dies leaves only devices that expire; a server that lost its data gets them
//! all again with the next heartbeats. A device that disconnects counts as connected for a short grace period, so that a user who
//! reconnects does not go offline. Every gateway sweeps expired devices. The gateway whose sweep removes a user's last device learns that
//! the user went offline; no other gateway does.
//!
//! All times are the server's. For a user who is offline the time at which they were last seen is remembered for a week.
//!
//! See `docs/decisions/presence-storage.md`.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use holdfast_keys::Keys;
use holdfast_message::UserId;
use holdfast_redis::{Call, Connection, RedisError, Script, Value, parse};

use crate::event::Origin;

static JOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/presence_join.lua")));
static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/presence_leave.lua")));
static EXPIRED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/presence_expired.lua")));
static SWEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/presence_sweep.lua")));
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/presence_look.lua")));

/// How long the time at which a user was last seen is remembered.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long devices count as connected.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// After the last heartbeat.
    pub life: Duration,
    /// After they left.
    pub grace: Duration,
}

/// One connection of a user. Its text is the sorted sets' member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The user it belongs to.
    pub user: UserId,
    text: String,
}

impl Device {
    /// The device behind a socket of a gateway.
    pub fn new(user: UserId, gateway: Origin, socket: &impl fmt::Display) -> Self {
        let text = format!("{user}:{:016x}:{socket}", gateway.0);
        Self { user, text }
    }

    /// An error is the text, which is not a device.
    fn parse(text: String) -> Result<Self, String> {
        match text.split_once(':').map(|(user, _)| UserId::parse(user)) {
            Some(Ok(user)) => Ok(Self { user, text }),
            _ => Err(text),
        }
    }
}

/// A change of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It connected.
    Joined(Device),
    /// It disconnected.
    Left(Device),
}

/// The result of [`Online::expired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Devices that have expired, unless a heartbeat arrives before [`Online::sweep`].
    pub devices: Vec<Device>,
    /// Whether the given device is known, in both sorted sets; true if none was given.
    pub known: bool,
}

/// A user came online or went offline. Only the caller learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The user.
    pub user: UserId,
    /// Whether the user is online now.
    pub online: bool,
    /// When they came online, or were last online, in Unix epoch milliseconds.
    pub last_seen: i64,
}

/// The presence of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether any device is connected.
    pub online: bool,
    /// When they were last online, in Unix epoch milliseconds; the current time, if they are online.
    pub last_seen: Option<i64>,
}

/// The presence of all users, across all gateways. Cheap to clone.
#[derive(Clone)]
pub struct Online {
    connection: Connection,
    keys: Keys,
    settings: PresenceSettings,
}

impl Online {
    /// Presence on the cache server.
    pub fn new(connection: Connection, keys: Keys, settings: PresenceSettings) -> Self {
        Self { connection, keys, settings }
    }

    /// Applies changes of devices in order, as one pipeline. Returns the users who came online.
    pub async fn apply(&self, steps: &[Step], budget: Duration) -> Result<Vec<Change>, RedisError> {
        let call = |step: &Step| match step {
            Step::Joined(device) => self.join(std::slice::from_ref(device), true),
            Step::Left(device) => {
                let call = LEAVE.call(&[&self.keys.online(), &self.keys.devices(&device.user)]);
                call.arg(&device.text).arg(millis(self.settings.grace)).arg(millis(REMEMBER))
            }
        };
        let answers = self.connection.run("presence_apply", steps.iter().map(call).collect(), budget).await?;
        let mut came = Vec::new();
        for (step, answer) in steps.iter().zip(answers) {
            match (step, answer) {
                (Step::Joined(device), Ok(answer)) => came.extend(arrivals(std::slice::from_ref(device), answer)?),
                (Step::Left(_), Ok(_)) => {}
                (_, Err(error)) if error.is_transient() => return Err(error),
                // Heartbeats and expiry correct it.
                (Step::Joined(device) | Step::Left(device), Err(error)) => {
                    tracing::debug!(user = %device.user, %error, "a device's coming or going was refused");
                }
            }
        }
        Ok(came)
    }

    /// Sends a heartbeat for devices that are still connected. Returns the users who came online by it, because they had expired.
    pub async fn refresh(&self, devices: &[Device], budget: Duration) -> Result<Vec<Change>, RedisError> {
        arrivals(devices, self.connection.run_one("presence_refresh", self.join(devices, false), budget).await?)
    }

    /// Finds at most `max` expired devices, oldest first, and checks whether a connected device is still known.
    pub async fn expired(
        &self,
        most: usize,
        connected: Option<&Device>,
        budget: Duration,
    ) -> Result<Expired, RedisError> {
        let online = self.keys.online();
        let call = match connected {
            Some(device) => EXPIRED.call(&[&online, &self.keys.devices(&device.user)]),
            None => EXPIRED.call(&[&online]),
        };
        let call =
            call.arg(millis(self.settings.life)).arg(most).arg(connected.map_or("", |device| device.text.as_str()));
        let answer = self.connection.run_one("presence_expired", call, budget).await?;
        let (known, expired): (u8, Vec<String>) = parse(answer)?;
        let (devices, strange): (Vec<_>, Vec<_>) = expired.into_iter().map(Device::parse).partition(Result::is_ok);
        if !strange.is_empty() {
            let call =
                Call::new("ZREM").key(&online).arg(strange.into_iter().filter_map(Result::err).collect::<Vec<_>>());
            self.connection.run_one("presence_sweep", call, budget).await?;
        }
        Ok(Expired { devices: devices.into_iter().flatten().collect(), known: known == 1 })
    }

    /// Removes those of these devices that have expired. Returns the users who went offline with their last device.
    pub async fn sweep(&self, devices: &[Device], budget: Duration) -> Result<Vec<Change>, RedisError> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.of_devices(&SWEEP, devices).arg(millis(self.settings.life)).arg(millis(REMEMBER));
        let call = call.arg(texts(devices));
        let answer: Vec<i64> = parse(self.connection.run_one("presence_sweep", call, budget).await?)?;
        let change = |pair: &[i64]| {
            let device = devices.get(usize::try_from(pair[0]).ok()?)?;
            Some(Change { user: device.user.clone(), online: false, last_seen: pair[1] })
        };
        Ok(answer.chunks_exact(2).filter_map(change).collect())
    }

    /// The presence of these users, in their order, in one round trip.
    pub async fn look(&self, users: &[UserId], budget: Duration) -> Result<Vec<Seen>, RedisError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = users.iter().map(|user| self.keys.devices(user)).collect();
        let call = LOOK.call(&keys.iter().map(String::as_str).collect::<Vec<_>>()).arg(millis(self.settings.life));
        let answer: Vec<i64> = parse(self.connection.run_one("presence_look", call, budget).await?)?;
        if answer.len() != 2 * users.len() {
            return Err(RedisError::unexpected("not an answer for each user"));
        }
        let seen = |pair: &[i64]| Seen { online: pair[0] == 1, last_seen: Some(pair[1]).filter(|at| *at > 0) };
        Ok(answer.chunks_exact(2).map(seen).collect())
    }

    fn join(&self, devices: &[Device], fresh: bool) -> Call {
        let call = self.of_devices(&JOIN, devices).arg(millis(self.settings.life)).arg(millis(REMEMBER));
        call.arg(fresh).arg(texts(devices))
    }

    /// A call with the keys of these devices and of their users.
    fn of_devices(&self, script: &'static Script, devices: &[Device]) -> Call {
        let users = devices.iter().map(|device| self.keys.devices(&device.user));
        let keys: Vec<_> = std::iter::once(self.keys.online()).chain(users).collect();
        script.call(&keys.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn texts(devices: &[Device]) -> Vec<&str> {
    devices.iter().map(|device| device.text.as_str()).collect()
}

/// The users who came online, from an answer that begins with the time.
fn arrivals(devices: &[Device], answer: Value) -> Result<Vec<Change>, RedisError> {
    let answer: Vec<i64> = parse(answer)?;
    let Some((now, indexes)) = answer.split_first() else { return Err(RedisError::unexpected("no time")) };
    let device = |index: &i64| devices.get(usize::try_from(*index).ok()?);
    let change = |device: &Device| Change { user: device.user.clone(), online: true, last_seen: *now };
    Ok(indexes.iter().filter_map(device).map(change).collect())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
