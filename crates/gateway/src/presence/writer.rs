//! Writes this gateway's connections to the cache, in order, and removes those that have expired.
//!
//! See `docs/decisions/presence-storage.md`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::Origin;
use holdfast_cache::presence::{Change, Device, Expired, Online, Step};
use holdfast_message::UserId;
use holdfast_redis::RedisError;
use socketioxide::socket::Sid;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{BUDGET, CAPACITY, SWEEP};
use crate::deliver::sockets::Sockets;
use crate::metrics::{Dropped, Metrics};

/// Batches of one sweep.
const SWEEPS: usize = 10;
/// Devices of one round trip.
const BATCH: usize = 100;

/// Writes this gateway's devices to the cache, and removes expired ones.
pub(crate) struct PresenceWriter {
    pub(super) online: Online,
    pub(super) sockets: Sockets,
    pub(super) origin: Origin,
    pub(super) steps: mpsc::Receiver<Step>,
    pub(super) renew: Arc<Notify>,
    /// Users who may have come or gone by a call that was not answered.
    pub(super) unsure: HashSet<UserId>,
    pub(super) changes: mpsc::Sender<UserId>,
    pub(super) metrics: Metrics,
}

impl PresenceWriter {
    /// Renews the devices, which live for `life` after a heartbeat, until the token is cancelled; then writes what is left in the queue.
    pub(crate) async fn run(mut self, life: Duration, stop: CancellationToken) {
        let mut beats = interval(life / 3);
        let mut sweeps = interval(SWEEP);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Not applied yet: the cache is away.
        let mut steps = Vec::with_capacity(BATCH);
        let mut unwritten = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = beats.tick() => unwritten = !self.beat().await,
                () = self.renew.notified() => unwritten = !self.beat().await,
                _ = sweeps.tick() => {
                    self.apply(&mut steps).await;
                    if unwritten {
                        unwritten = !self.beat().await;
                    }
                    // A device that still waits in the queue is not known yet.
                    let all_written = steps.is_empty() && self.steps.is_empty() && !unwritten;
                    let connected = if all_written { self.sockets.any() } else { None };
                    if !self.sweep(connected).await {
                        tracing::info!("the cache has lost who is online; writing the devices of this gateway again");
                        unwritten = !self.beat().await;
                    }
                }
                _ = self.steps.recv_many(&mut steps, BATCH), if steps.is_empty() => self.apply(&mut steps).await,
            }
        }
        while let Ok(step) = self.steps.try_recv() {
            steps.push(step);
            if steps.len() >= BATCH {
                self.apply(&mut steps).await;
                if !steps.is_empty() {
                    return;
                }
            }
        }
        self.apply(&mut steps).await;
    }

    /// Applies steps. Keeps them if the cache is away.
    async fn apply(&mut self, steps: &mut Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        match self.online.apply(steps, BUDGET).await {
            Ok(came) => {
                self.metrics.presence_waiting.sub(steps.len() as i64);
                steps.clear();
                self.changed(came);
            }
            Err(error) => {
                let joined = |step: &Step| match step {
                    Step::Joined(device) => Some(device.user.clone()),
                    Step::Left(_) => None,
                };
                self.unanswered(&error, steps.iter().filter_map(joined));
            }
        }
    }

    /// Renews every device here; false if the cache did not take all of them.
    async fn beat(&mut self) -> bool {
        let devices = self.sockets.all().into_iter().map(|(user, socket)| Device::new(user, self.origin, &socket));
        let devices: Vec<_> = devices.collect();
        for batch in devices.chunks(BATCH) {
            match self.online.refresh(batch, BUDGET).await {
                Ok(came) => self.changed(came),
                Err(error) => {
                    self.unanswered(&error, batch.iter().map(|device| device.user.clone()));
                    return false;
                }
            }
        }
        true
    }

    /// False if the cache has lost a device that is connected here.
    async fn sweep(&mut self, connected: Option<(UserId, Sid)>) -> bool {
        let connected = connected.map(|(user, socket)| Device::new(user, self.origin, &socket));
        let mut complete = true;
        for _ in 0..SWEEPS {
            let Expired { devices, known } = match self.online.expired(BATCH, connected.as_ref(), BUDGET).await {
                Ok(expired) => expired,
                Err(error) => {
                    self.unanswered(&error, std::iter::empty());
                    break;
                }
            };
            // The cache answers again.
            for user in std::mem::take(&mut self.unsure) {
                self.notify_of(user);
            }
            complete &= known;
            if devices.is_empty() {
                break;
            }
            match self.online.sweep(&devices, BUDGET).await {
                Ok(gone) => self.changed(gone),
                Err(error) => {
                    self.unanswered(&error, devices.into_iter().map(|device| device.user));
                    break;
                }
            }
        }
        complete
    }

    /// A call that was not answered may have been applied, and a repeat would not report its changes again: remembers the users.
    fn unanswered(&mut self, error: &RedisError, users: impl Iterator<Item = UserId>) {
        tracing::debug!(%error, "presence can't be written yet");
        if !error.maybe_applied() {
            return;
        }
        for user in users {
            if self.unsure.len() < CAPACITY {
                self.unsure.insert(user);
            } else {
                self.metrics.presence_dropped(Dropped::Full);
            }
        }
    }

    fn changed(&self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.notify_of(change.user));
    }

    fn notify_of(&self, user: UserId) {
        match self.changes.try_send(user) {
            Ok(()) => self.metrics.presence_waiting.inc(),
            Err(_) => self.metrics.presence_dropped(Dropped::Full),
        }
    }
}
