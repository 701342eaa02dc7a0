//! Steady load from devices that keep to the protocol, and that write down what they do and see.
//!
//! Users are friends two by two, and each has two devices on different gateways. One of them sends: at a steady rate, whatever
//! becomes of earlier sends. A send that was refused as retryable or whose outcome is unknown is repeated with the same `tempId` until
//! it is accepted, unless its sender gives it up; now and then an accepted one is repeated too. All devices reconnect, resume, refetch ([`Device`]).

mod device;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use fastrand::Rng;
use holdfast_testkit::{token, unique};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use device::Connection;
pub use device::Device;

use crate::ledger::{Attempt, History, Order, Outcome, Sent, now_ms};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(6);
/// Of so many refused sends one is given up by its sender.
const ABANDONED: u32 = 10;
/// Of so many accepted sends one is repeated nevertheless.
const REPEATED: u32 = 40;

/// What load to make.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The gateways' addresses.
    pub gateways: Vec<String>,
    /// What their tokens are signed with.
    pub secret: String,
    /// How many pairs of friends.
    pub pairs: usize,
    /// Messages a second, of all users together.
    pub rate: f64,
    /// How long most messages are, in bytes; of fifty one has 4,000.
    pub length: Range<usize>,
    /// What random choices are made from.
    pub seed: u64,
}

/// A running load.
pub struct Load {
    devices: Vec<Device>,
    shared: Arc<Shared>,
}

struct Shared {
    order: Order,
    sent: Mutex<Vec<Sent>>,
    /// First positive answers.
    accepted: Mutex<Vec<Attempt>>,
    rate: Mutex<f64>,
    /// No new sends.
    stop: CancellationToken,
    /// No more repeats.
    give_up: CancellationToken,
    sends: TaskTracker,
}

impl Shared {
    fn accepted(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Connects all devices, and begins.
    ///
    /// # Errors
    /// A device can't connect.
    pub async fn start(options: &LoadOptions) -> Result<Self> {
        let shared = Arc::new(Shared {
            order: Order::default(),
            sent: Mutex::default(),
            accepted: Mutex::default(),
            rate: Mutex::new(options.rate / (2 * options.pairs) as f64),
            stop: CancellationToken::new(),
            give_up: CancellationToken::new(),
            sends: TaskTracker::new(),
        });
        let mut rng = Rng::with_seed(options.seed);
        let run = unique("load");
        let mut devices = Vec::new();
        for pair in 0..options.pairs {
            let users = ["a", "b"].map(|name| format!("{run}-{pair}{name}"));
            for (user, friend) in [(0, 1), (1, 0)] {
                let (user, friend) = (&users[user], &users[friend]);
                let token = token(user, &options.secret, Duration::from_secs(24 * 3600));
                for name in ["one", "other"] {
                    // Both senders of a pair, and both devices of a user, are on different gateways where there are two.
                    let first = (devices.len() + devices.len() / 2) % options.gateways.len();
                    let gateways = options.gateways.clone();
                    devices.push(Device::start(user, friend, name, &token, gateways, first, rng.fork()).await?);
                }
                let sender = devices[devices.len() - 2].clone();
                let (user, friend) = (user.clone(), friend.clone());
                let who = Sender { device: sender, user, friend, length: options.length.clone() };
                shared.sends.spawn(send_on(Arc::clone(&shared), who, rng.fork()));
            }
        }
        Ok(Self { devices, shared })
    }

    /// The devices, two by two of one user.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Sends so many times as much from now on.
    pub fn speed(&self, factor: f64) {
        *self.shared.rate.lock().unwrap_or_else(PoisonError::into_inner) *= factor;
    }

    /// The first positive answers since then (epoch milliseconds).
    pub fn accepted_since(&self, ms: i64) -> Vec<Attempt> {
        self.shared.accepted().iter().filter(|attempt| attempt.ended_ms >= ms).cloned().collect()
    }

    /// How many messages have had their first positive answer by now, by this way to durability.
    pub fn accepted(&self, way: &str) -> usize {
        let by_way =
            |attempt: &&Attempt| matches!(&attempt.outcome, Outcome::Accepted { durability, .. } if durability == way);
        self.shared.accepted().iter().filter(by_way).count()
    }

    /// How many messages have had their first positive answer by now.
    pub fn accepted_in_all(&self) -> usize {
        self.shared.accepted().len()
    }

    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the sending, and waits until each send has been accepted or refused for good; those that are not by `limit` are given up.
    pub async fn finish(&self, limit: Duration) {
        self.shared.stop.cancel();
        self.shared.sends.close();
        if timeout(limit, self.shared.sends.wait()).await.is_err() {
            self.shared.give_up.cancel();
            self.shared.sends.wait().await;
        }
    }

    /// The chats that were written to.
    pub fn chats(&self) -> Vec<String> {
        let mut chats: Vec<_> = self.devices.iter().map(|device| device.chat().to_owned()).collect();
        chats.sort_unstable();
        chats.dedup();
        chats
    }

    /// Lets every device catch up, by the protocol alone, and returns what was done and seen.
    ///
    /// # Errors
    /// A device does not catch up within `limit`.
    pub async fn settle(self, limit: Duration) -> Result<History> {
        let until = Instant::now() + limit;
        for device in &self.devices {
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, device.settle()).await.is_err() {
                bail!("device {} did not catch up within {limit:?}", device.label());
            }
        }
        let sent = std::mem::take(&mut *self.sent());
        Ok(History { sent, seen: self.devices.iter().map(Device::stop).collect() })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.give_up.cancel();
        for device in &self.devices {
            device.stop();
        }
    }
}

struct Sender {
    device: Device,
    user: String,
    friend: String,
    length: Range<usize>,
}

/// One user: a message at each tick, on whatever connection there is.
async fn send_on(shared: Arc<Shared>, who: Sender, mut rng: Rng) {
    let Sender { device, user, friend, length } = who;
    let mut due = Instant::now();
    for number in 0_u64.. {
        let rate = *shared.rate.lock().unwrap_or_else(PoisonError::into_inner);
        due = due.max(Instant::now() - Duration::from_secs(1)) + Duration::from_secs_f64((0.5 + rng.f64()) / rate);
        tokio::select! {
            () = sleep_until(due) => {}
            () = shared.stop.cancelled() => return,
        }
        let Some(connection) = device.connection() else { continue };
        let length = if rng.u8(..50) == 0 { 4000 } else { rng.usize(length.clone()) };
        let sent = Sent {
            temp_id: format!("{number}-{:016x}", rng.u64(..)),
            sender: user.clone(),
            receiver: friend.clone(),
            content: std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect(),
            attempts: Vec::new(),
        };
        // Handed over here, in order; awaited elsewhere.
        let first = begin(&shared.order, &connection, &sent).await;
        shared.sends.spawn(finish(Arc::clone(&shared), device.clone(), sent, first, rng.fork()));
    }
}

/// An attempt that is on its way.
struct Begun {
    attempt: Attempt,
    answer: Option<tokio::sync::oneshot::Receiver<String>>,
}

async fn begin(order: &Order, connection: &Connection, sent: &Sent) -> Begun {
    let json = json!({ "tempId": sent.temp_id, "friendId": sent.receiver, "content": sent.content }).to_string();
    let attempt = Attempt {
        gateway: connection.gateway.clone(),
        connection: connection.number,
        began: order.next(),
        began_ms: now_ms(),
        ended: 0,
        ended_ms: 0,
        outcome: Outcome::Disconnected,
    };
    // A client whose packets don't leave waits here, too.
    let answer = timeout(PATIENCE, connection.client.begin("sendMessage", &json)).await;
    Begun { attempt, answer: answer.ok().and_then(Result::ok) }
}

impl Begun {
    /// Waits for its end. Also returns how long the server asks to wait.
    async fn end(mut self, order: &Order) -> (Attempt, Option<Duration>) {
        let mut wait = None;
        if let Some(answer) = self.answer {
            self.attempt.outcome = match timeout(PATIENCE, answer).await {
                Err(_) => Outcome::TimedOut,
                Ok(Err(_)) => Outcome::Disconnected,
                Ok(Ok(answer)) => {
                    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                    wait = answer[0]["error"]["retryAfterMs"].as_u64().map(Duration::from_millis);
                    outcome(&answer[0])
                }
            };
        }
        self.attempt.ended = order.next();
        self.attempt.ended_ms = now_ms();
        (self.attempt, wait)
    }
}

fn outcome(answer: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["ok"] == true {
        let message = &answer["message"];
        Outcome::Accepted {
            message_id: text(&message["messageId"]),
            timestamp: message["timestamp"].as_i64().unwrap_or_default(),
            durability: text(&answer["durability"]),
            duplicate: answer["duplicate"] == true,
        }
    } else {
        let error = &answer["error"];
        Outcome::Refused { code: text(&error["code"]), retryable: error["retryable"] == true }
    }
}

/// Sees a send through.
async fn finish(shared: Arc<Shared>, device: Device, mut sent: Sent, first: Begun, mut rng: Rng) {
    let mut begun = first;
    let mut pause = Duration::from_millis(300);
    loop {
        let (attempt, wait) = begun.end(&shared.order).await;
        if attempt.is_accepted() && sent.accepted().is_none() {
            shared.accepted().push(attempt.clone());
        }
        let again = !matches!(attempt.outcome, Outcome::Accepted { .. } | Outcome::Refused { retryable: false, .. });
        let refused = matches!(attempt.outcome, Outcome::Refused { .. });
        sent.attempts.push(attempt);
        if refused && sent.attempts.len() == 1 && rng.u32(..ABANDONED) == 0 {
            break;
        }
        let late_repeat = !again && sent.accepted().is_some() && sent.attempts.len() == 1 && rng.u32(..REPEATED) == 0;
        if !again && !late_repeat {
            break;
        }
        pause = (pause * 2).min(Duration::from_secs(2));
        let pause = wait.unwrap_or(pause.mul_f64(0.5 + rng.f64()));
        let next = async {
            sleep(pause).await;
            device.connected().await
        };
        let Some(Some(connection)) = shared.give_up.run_until_cancelled(next).await else { break };
        begun = begin(&shared.order, &connection, &sent).await;
    }
    shared.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
}
