//! Steady load from devices that keep to the protocol, and that write down what they do and see.
//!
//! Users are friends two by two, or everybody of everybody, and some belong to groups. Each has two devices on different gateways. One of
//! them sends to one chat or another: at a steady rate, whatever becomes of earlier sends. A send that was refused as retryable or whose
//! outcome is unknown is repeated with the same `tempId`, after as long as the gateway asks to wait, until it is accepted, unless its
//! sender gives it up; now and then an accepted one is repeated too. All devices reconnect, resume, refetch ([`Device`]).

mod attempt;
mod company;
mod content;
mod device;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use holdfast_testkit::token;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use attempt::{Begun, begin};
use company::{Company, Target};
use content::content;
pub use device::Device;

use crate::ledger::{Attempt, History, Order, Outcome, Seen, Sent};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(6);
/// One in this many refused sends is given up by its sender.
const ABANDONED: u32 = 10;
/// One in this many accepted sends is repeated nevertheless.
const REPEATED: u32 = 40;

/// The parameters of a load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The gateways' addresses.
    pub gateways: Vec<String>,
    /// The secret that tokens are signed with.
    pub secret: String,
    /// How many pairs of friends.
    pub pairs: usize,
    /// How many groups of three to six of them.
    pub groups: usize,
    /// Whether everybody is everybody's friend.
    pub mesh: bool,
    /// Messages a second, of all users together.
    pub rate: f64,
    /// How long most messages are, in characters; of fifty one has 4,000.
    pub length: Range<usize>,
    /// The seed of random choices.
    pub seed: u64,
}

/// A chat that is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The chat's id.
    pub id: String,
    /// One of its members, to read it as.
    pub member: String,
}

/// A running load.
pub struct Load {
    devices: Vec<Device>,
    chats: Vec<Chat>,
    shared: Arc<Shared>,
}

struct Shared {
    order: Order,
    sent: Mutex<Vec<Sent>>,
    /// The first positive answer of each message.
    accepted: Mutex<Vec<Attempt>>,
    rate: Mutex<f64>,
    /// Cancelled: no new message is sent.
    stop: CancellationToken,
    /// Cancelled: no send is repeated any more.
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
        let company = Company::gather(options, &mut rng).await?;
        let mut devices = Vec::new();
        for (user, targets) in company.users.iter().zip(&company.targets) {
            let token = token(user, &options.secret, Duration::from_secs(24 * 3600));
            let chats: BTreeSet<_> = targets.iter().map(|target| target.chat(user)).collect::<Result<_>>()?;
            for name in ["one", "other"] {
                // Both senders of a pair, and both devices of a user, are on different gateways where there are two.
                let first = (devices.len() + devices.len() / 2) % options.gateways.len();
                let seen =
                    Seen { user: user.clone(), device: name.to_owned(), chats: chats.clone(), ..Seen::default() };
                devices.push(Device::start(seen, &token, options.gateways.clone(), first, rng.fork()).await?);
            }
            let device = devices[devices.len() - 2].clone();
            let (user, targets) = (user.clone(), targets.clone());
            let who = Sender { device, user, targets, length: options.length.clone() };
            shared.sends.spawn(send_on(Arc::clone(&shared), who, rng.fork()));
        }
        let mut chats = BTreeMap::new();
        for (user, targets) in company.users.iter().zip(&company.targets) {
            for target in targets {
                chats.entry(target.chat(user)?).or_insert_with(|| user.clone());
            }
        }
        let chats = chats.into_iter().map(|(id, member)| Chat { id, member }).collect();
        Ok(Self { devices, chats, shared })
    }

    /// The devices, two by two of one user.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Multiplies the rate by this factor from now on.
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

    /// Sends again the first messages of a user that were accepted, as they were, and returns the answers.
    ///
    /// # Errors
    /// The user has no connection.
    pub async fn resend(&self, user: &str, count: usize) -> Result<Vec<Outcome>> {
        let device = self.devices.iter().find(|device| device.user() == user).context("no such user")?;
        let mut early: Vec<_> = {
            let mut sent = self.sent();
            let early = |sent: &Sent| sent.sender == user && sent.accepted().is_some();
            let mut taken: Vec<_> = sent.extract_if(.., |sent| early(sent)).collect();
            taken.sort_by_key(|sent| sent.accepted());
            let more = taken.split_off(count.min(taken.len()));
            sent.extend(more);
            taken
        };
        let mut outcomes = Vec::new();
        for sent in &mut early {
            let connection = device.connected().await.context("no connection")?;
            let (attempt, _) = begin(&self.shared.order, &connection, sent).await.end(&self.shared.order).await;
            outcomes.push(attempt.outcome.clone());
            sent.attempts.push(attempt);
        }
        self.sent().extend(early);
        Ok(outcomes)
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

    /// The chats that are written to.
    pub fn chats(&self) -> Vec<Chat> {
        self.chats.clone()
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
    targets: Vec<Target>,
    length: Range<usize>,
}

/// Sends one user's messages at the current rate, on the device's present connection.
async fn send_on(shared: Arc<Shared>, who: Sender, mut rng: Rng) {
    let Sender { device, user, targets, length } = who;
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
        let (receiver, group) = match &targets[rng.usize(..targets.len())] {
            Target::Friend(friend) => (friend.clone(), None),
            Target::Group(group) => (String::new(), Some(group.clone())),
        };
        let sent = Sent {
            temp_id: format!("{number}-{:016x}", rng.u64(..)),
            sender: user.clone(),
            receiver,
            group,
            content: content(&mut rng, length),
            attempts: Vec::new(),
        };
        // Enqueued here, in order; awaited in another task.
        let first = begin(&shared.order, &connection, &sent).await;
        shared.sends.spawn(finish(Arc::clone(&shared), device.clone(), sent, first, rng.fork()));
    }
}

/// Repeats a send until it is accepted, refused for good or given up.
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
