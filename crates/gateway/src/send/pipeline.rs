//! The write path: from a stamped message to its answer.
//!
//! Takes stamped messages from [`crate::socketio`] and [`crate::rest`], in the order of arrival; gives each sender an [`Answer`], and everybody else the message.
//!
//! Two tasks, one behind the other, run the stages that must keep that order: rate limit, permission, recent list and fan-out; then local delivery
//! and handing over to Kafka's client. They take whatever has arrived as one batch, so that under load a batch costs the cache one
//! round trip. A send whose permission needs the store waits beside the batches, and with it whatever follows to the same chat. Refused sends
//! still count against the sender's limit, or they could make the gateway read the store without end. A batch that has waited too long behind
//! others for which the cache was slow goes on without the cache ([`super::pace`]). Waiting for durability happens in a task per send, which no
//! disconnect ends.
//!
//! See `docs/decisions/slow-store.md`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use holdfast_cache::recent::Attempt;
use holdfast_message::{ChatId, Message, UserId};
use holdfast_service::trace::TraceParent;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::outcome::Answer;
use super::pace::Pace;
use super::stages::{Send, Shown, Stages};
use crate::access::authorize::{AccessFacts, Act, Admission};
use crate::config::DeliveryMode;
use crate::limits::slots::ConcurrencyLimit;
use crate::refusal::Refusal;

/// The most sends of one round trip to the cache: its server does them well within the budget, on a busy machine too.
const MAX_BATCH: usize = 64;

/// No sender has more than one in `SENDERS` of the sends that may be in progress, so that one who waits for the store leaves room for others.
const SENDERS: usize = 10;

/// Users to whom messages are emitted before the sockets' writers get a turn.
const EMITS_AT_ONCE: usize = 64;

/// Where sends enter.
#[derive(Clone)]
pub(crate) struct Pipeline {
    entrance: mpsc::Sender<Send>,
    slots: Arc<Semaphore>,
    senders: Arc<ConcurrencyLimit<UserId>>,
    stages: Arc<Stages>,
}

impl Pipeline {
    /// Starts the path; it ends when the last clone is dropped.
    pub(crate) fn start(stages: Stages, max_in_flight: usize) -> Self {
        let (entrance, sends) = mpsc::channel(max_in_flight);
        let stages = Arc::new(stages);
        tokio::spawn(run(stages.clone(), sends));
        let senders = Arc::new(ConcurrencyLimit::new((max_in_flight / SENDERS).max(1)));
        Self { entrance, slots: Arc::new(Semaphore::new(max_in_flight)), senders, stages }
    }

    /// Takes a stamped message. The order of these calls is the order in which receivers here see the messages.
    ///
    /// The refusal of a full gateway comes at once; everything else comes through the receiver.
    pub(crate) fn submit(&self, message: Message, trace: TraceParent) -> Result<oneshot::Receiver<Answer>, Refusal> {
        let full = || Refusal::unavailable("too many sends in progress");
        let of_sender = self.senders.acquire(&message.sender);
        let of_sender = of_sender.ok_or_else(|| Refusal::unavailable("too many of your sends in progress"))?;
        let slot = (self.slots.clone().try_acquire_owned().map_err(|_| full())?, of_sender);
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        let send = Send {
            message: Arc::new(message),
            trace,
            attempt: Attempt::random(),
            received: now,
            waits_since: now,
            answer,
            slot,
        };
        self.entrance.try_send(send).map_err(|_| full())?;
        self.stages.metrics.in_flight.inc();
        Ok(answered)
    }

    /// Whether the path still works. It ends only by a fault.
    pub(crate) fn is_running(&self) -> bool {
        !self.entrance.is_closed()
    }

    /// Waits until the path has ended.
    pub(crate) async fn ended(&self) {
        self.entrance.closed().await;
    }

    /// Waits until no send is in progress. No new ones may be submitted meanwhile.
    pub(crate) async fn drained(&self, max_in_flight: usize) {
        let _ = self.slots.acquire_many(u32::try_from(max_in_flight).unwrap_or(u32::MAX)).await;
    }
}

/// The journey of each batch up to its place in the stream. While it is delivered, the next one is with the cache already.
async fn run(stages: Arc<Stages>, mut sends: mpsc::Receiver<Send>) {
    let (placed, next) = mpsc::channel(1);
    tokio::spawn(run_placed(stages.clone(), next));
    let mut waiting = Waiting::new(stages.admission.clone());
    let mut pace = Pace::new(stages.cache_deadline, stages.cache_budget);
    let (mut arrived, mut open) = (Vec::new(), true);
    loop {
        let permitted = tokio::select! {
            // An answer decides for the sends that waited for it, and for none that come later.
            biased;
            Some(answer) = waiting.asked.join_next() => {
                let mut permitted = Vec::new();
                let mut next = Some(answer);
                while let Some(answer) = next {
                    // A fault ends this task, and with it the gateway.
                    let Ok(answer) = answer else { return };
                    permitted.extend(waiting.answered(&answer));
                    next = waiting.asked.try_join_next();
                }
                permitted
            }
            count = sends.recv_many(&mut arrived, MAX_BATCH), if open => {
                open = count > 0;
                waiting.sort(stages.within_limits(std::mem::take(&mut arrived), &pace).await)
            }
            else => return,
        };
        let mut permitted = permitted.into_iter().peekable();
        while permitted.peek().is_some() {
            let admitted = stages.admit(permitted.by_ref().take(MAX_BATCH));
            let shown = match stages.mode {
                DeliveryMode::RealtimeFirst => stages.place(admitted, &mut pace).await,
                DeliveryMode::DurableFirst => stages.recognise(admitted, &mut pace).await,
            };
            if placed.send(shown).await.is_err() {
                // The other half has ended by a fault; so does this one, and with it the gateway.
                return;
            }
        }
    }
}

/// Sends that wait for the store to say who may write in their chats. They delay only later sends to the same chat, and are bounded as all
/// sends in progress are.
struct Waiting {
    admission: Admission,
    chats: HashMap<ChatId, Vec<Send>>,
    asked: JoinSet<Answered>,
}

/// What the store said of a chat.
struct Answered {
    chat: ChatId,
    facts: AccessFacts,
    at: Instant,
}

impl Waiting {
    fn new(admission: Admission) -> Self {
        Self { admission, chats: HashMap::new(), asked: JoinSet::new() }
    }

    /// Returns those on which there is a verdict now, in order; the others wait.
    fn sort(&mut self, sends: Vec<Send>) -> Vec<(Send, Result<(), Refusal>)> {
        let mut permitted = Vec::new();
        for send in sends {
            let (sender, chat) = (&send.message.sender, &send.message.chat);
            if let Some(before) = self.chats.get_mut(chat) {
                before.push(send);
            } else if let Some(verdict) = self.admission.known(sender, chat, Act::Send) {
                permitted.push((send, verdict));
            } else {
                let (admission, chat) = (self.admission.clone(), chat.clone());
                self.chats.insert(chat.clone(), vec![send]);
                self.asked.spawn(async move {
                    let facts = admission.facts(&chat).await;
                    Answered { chat, facts, at: Instant::now() }
                });
            }
        }
        permitted
    }

    /// Returns those that waited for this answer.
    fn answered(&mut self, answer: &Answered) -> Vec<(Send, Result<(), Refusal>)> {
        let sends = self.chats.remove(&answer.chat).unwrap_or_default();
        let verdict = |send: Send| {
            let verdict = self.admission.verdict(&answer.facts, &send.message.sender, &answer.chat);
            (Send { waits_since: answer.at, ..send }, verdict)
        };
        sends.into_iter().map(verdict).collect()
    }
}

/// The rest of its journey, up to where order no longer matters.
async fn run_placed(stages: Arc<Stages>, mut batches: mpsc::Receiver<Vec<(Send, Shown)>>) {
    while let Some(batch) = batches.recv().await {
        let mut emits = 0;
        for (send, shown) in batch {
            emits += stages.deliver(&send, &shown).max(1);
            stages.clone().make_durable(send, shown);
            if emits >= EMITS_AT_ONCE {
                // Sockets' writers need a turn, or a large batch for one user would fill their buffers.
                emits = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}
