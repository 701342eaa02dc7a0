//! The write path: from a stamped message to its answer.
//!
//! Takes a stamped message from [`crate::ingress`], in the order of arrival; gives its sender an [`Answer`], and everybody else the message.
//!
//! Two tasks, one behind the other, do what must keep that order: rate limit, permit, recent list and fan-out; then local delivery
//! and handing over to Kafka's client. They take whatever has arrived as one batch, so that under load a batch costs the cache one
//! round trip. Where the store has to be asked whether a send is permitted, it waits beside the batches, and with it whatever follows
//! to the same chat; who is refused has used up their limit all the same, or they could have it asked without end. A send that has
//! waited too long behind batches for which the cache was slow goes on without the cache ([`pace`]). Waiting for durability happens in a
//! task per send, which nobody's disconnect ends.

pub(crate) mod pace;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::event::Position as StreamPosition;
use holdfast_cache::recent::{Added, Attempt};
use holdfast_message::json::Position;
use holdfast_message::{ChatId, Message, UserId};
use holdfast_redis::RedisError;
use holdfast_service::trace::TraceParent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::admit::{Act, Admission, Standing};
use crate::config::DeliveryMode;
use crate::deliver::Sockets;
use crate::error::{Code, Refusal};
use crate::groups::acts::Acts;
use crate::inbox::arrivals::Arrivals;
use crate::inbox::tell::Counters;
use crate::limit::places::{Place, Places};
use crate::metrics::{Metrics, Outcome};
use crate::pipeline::pace::Pace;
use crate::publish::{Durability, NotDurable, Publish};
use crate::relist::Relist;

/// The most sends that one round trip to the cache carries: what its server does well within the budget, on a busy machine too.
const MAX_BATCH: usize = 64;

/// Of the sends that may be in progress, no sender has more than one in so many: who waits for the store, say, leaves room for others.
const SENDERS: usize = 10;

/// Users to whom a message is emitted before the sockets' writers get a turn.
const EMITS_AT_ONCE: usize = 64;

/// A positive answer: the message is durable.
#[derive(Debug)]
pub struct Accepted {
    /// As it is stored: of a repeat, with the first copy's time.
    pub message: Arc<Message>,
    /// Its place in the live stream, if known.
    pub position: Option<StreamPosition>,
    /// What made it durable.
    pub durability: Durability,
    /// Whether an earlier send had it shown already.
    pub duplicate: bool,
}

/// How a send ends for its sender.
pub type Answer = Result<Accepted, Refusal>;

/// One send on its way.
struct Send {
    message: Arc<Message>,
    trace: TraceParent,
    attempt: Attempt,
    received: Instant,
    /// Since when it waits for the cache: since it was received, or since the store said whether it is permitted.
    waits_since: Instant,
    answer: oneshot::Sender<Answer>,
    /// Held until the answer: what bounds the memory of all sends in progress, and this sender's share of it.
    slot: (OwnedSemaphorePermit, Place<UserId>),
}

/// What became of a message in the recent list.
enum Shown {
    /// It is new there and everybody was told.
    Listed(StreamPosition),
    /// It was there already.
    Repeat { epoch: Arc<str>, seq: Option<u64> },
    /// The cache did not answer: others may or may not have been told, and will be.
    Unlisted,
    /// Not yet: it is shown once it is durable. Whether it is a repeat is known already: by then the worker may have listed it.
    Later { repeat: bool },
}

/// Where sends enter.
#[derive(Clone)]
pub struct Pipeline {
    entrance: mpsc::Sender<Send>,
    slots: Arc<Semaphore>,
    senders: Arc<Places<UserId>>,
    stages: Arc<Stages>,
}

/// What the path is made of.
pub struct Stages {
    /// Permissions and limits.
    pub admission: Admission,
    /// The recent list.
    pub recent: RecentList,
    /// In front of the recent list.
    pub cache_breaker: Breaker,
    /// What the cache has for a batch.
    pub cache_budget: Duration,
    /// How long a send may take until the cache is done with it, if making it durable takes its longest.
    pub cache_deadline: Duration,
    /// Before or after durability.
    pub mode: DeliveryMode,
    /// This gateway's sockets.
    pub sockets: Sockets,
    /// Kafka, else the failed queue.
    pub publish: Publish,
    /// Repeats for the recent list in the background.
    pub relist: Relist,
    /// What users see of their chats hears of what is newly listed.
    pub arrivals: Arrivals,
    /// And the sockets here, of how much is unread.
    pub counters: Counters,
    /// In which groups users act.
    pub acts: Acts,
    /// Counters.
    pub metrics: Metrics,
}

impl Pipeline {
    /// Starts the path; it ends when the last clone is dropped.
    pub fn start(stages: Stages, max_in_flight: usize) -> Self {
        let (entrance, sends) = mpsc::channel(max_in_flight);
        let stages = Arc::new(stages);
        tokio::spawn(run(stages.clone(), sends));
        let senders = Arc::new(Places::new((max_in_flight / SENDERS).max(1)));
        Self { entrance, slots: Arc::new(Semaphore::new(max_in_flight)), senders, stages }
    }

    /// Takes a stamped message. The order of these calls is the order in which receivers here see the messages.
    ///
    /// The refusal of a full gateway comes at once; everything else comes through the receiver.
    pub fn submit(&self, message: Message, trace: TraceParent) -> Result<oneshot::Receiver<Answer>, Refusal> {
        let full = || Refusal::unavailable("too many sends in progress");
        let of_sender = self.senders.take(&message.sender);
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

    /// Whether the path still works: it ends only by a fault.
    pub fn is_running(&self) -> bool {
        !self.entrance.is_closed()
    }

    /// Waits until the path works no more.
    pub async fn ended(&self) {
        self.entrance.closed().await;
    }

    /// Waits until no send is in progress. No new ones may be submitted meanwhile.
    pub async fn drained(&self, max_in_flight: usize) {
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
            // An answer that is there decides for those who waited for it, and for nobody who comes later.
            biased;
            Some(answer) = waiting.asked.join_next() => {
                let mut permitted = Vec::new();
                let mut next = Some(answer);
                while let Some(answer) = next {
                    // A fault ends this task, which is seen.
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
                // The other half has ended by a fault; so does this one, which is seen.
                return;
            }
        }
    }
}

/// Sends whose chats the store is being asked about. They hold up nobody but later sends to the same chat, and are bounded as all
/// sends in progress are.
struct Waiting {
    admission: Admission,
    chats: HashMap<ChatId, Vec<Send>>,
    asked: JoinSet<Answered>,
}

/// What the store said of a chat.
struct Answered {
    chat: ChatId,
    standing: Standing,
    at: Instant,
}

impl Waiting {
    fn new(admission: Admission) -> Self {
        Self { admission, chats: HashMap::new(), asked: JoinSet::new() }
    }

    /// Those on which there is a verdict now, in order; the others wait.
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
                    let standing = admission.standing(&chat).await;
                    Answered { chat, standing, at: Instant::now() }
                });
            }
        }
        permitted
    }

    /// Those that waited for this answer.
    fn answered(&mut self, answer: &Answered) -> Vec<(Send, Result<(), Refusal>)> {
        let sends = self.chats.remove(&answer.chat).unwrap_or_default();
        let verdict = |send: Send| {
            let verdict = self.admission.verdict(&answer.standing, &send.message.sender, &answer.chat);
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

impl Stages {
    /// Limits: every send counts once, whatever becomes of it; in a batch that is late, by this process alone.
    async fn within_limits(&self, batch: Vec<Send>, pace: &Pace) -> Vec<Send> {
        let users: Vec<_> = batch.iter().map(|send| &send.message.sender).collect();
        // The list is still to be asked.
        let limits = match pace.is_late(batch.iter().map(|send| send.waits_since), Instant::now(), 2) {
            true => self.admission.limit_here(&users),
            false => self.admission.limit(&users).await,
        };
        let mut within = Vec::with_capacity(batch.len());
        for (send, limit) in batch.into_iter().zip(limits) {
            match limit {
                Ok(()) => within.push(send),
                Err(refusal) => self.answer(send, Err(refusal), Outcome::Rejected),
            }
        }
        within
    }

    /// Verdicts: answers what must not go on, before anybody sees it.
    ///
    /// A resend keeps its original timestamp, whether or not the cache knows it. If its sender may no longer send, the resend of a
    /// durable message ends here: it is answered as durable, and is not listed, announced, counted or published.
    fn admit(&self, batch: impl Iterator<Item = (Send, Result<(), Refusal>)>) -> Vec<Send> {
        let mut admitted = Vec::new();
        for (mut send, verdict) in batch {
            let durable = self.publish.durable(&send.message);
            if let Some(durable) = durable {
                Arc::make_mut(&mut send.message).timestamp = durable.timestamp;
            }
            match (verdict, durable) {
                (Ok(()), _) => admitted.push(send),
                (Err(_), Some(durable)) => self.answer_as_durable(send, durable.by),
                (Err(refusal), None) => self.answer(send, Err(refusal), Outcome::Rejected),
            }
        }
        admitted
    }

    /// The answer to a resend that this gateway need not handle any further; its position is not known here.
    fn answer_as_durable(&self, send: Send, durability: Durability) {
        let accepted = Accepted { message: send.message.clone(), position: None, durability, duplicate: true };
        self.answer(send, Ok(accepted), Outcome::Duplicate);
    }

    /// Recent list and fan-out to other gateways, in one call of the cache.
    async fn place(&self, batch: Vec<Send>, pace: &mut Pace) -> Vec<(Send, Shown)> {
        let added = self.list(&batch, pace).await;
        let place = |(mut send, added): (Send, Option<Added>)| {
            let shown = match added {
                Some(Added::New(position) | Added::Own(position)) => Shown::Listed(position),
                Some(Added::Repeat { timestamp, epoch, seq }) => {
                    Arc::make_mut(&mut send.message).timestamp = timestamp;
                    Shown::Repeat { epoch, seq }
                }
                None => Shown::Unlisted,
            };
            (send, shown)
        };
        batch.into_iter().zip(added).map(place).collect()
    }

    /// Asks the recent list to take a batch; `None` where it did not answer or was not asked.
    async fn list(&self, batch: &[Send], pace: &mut Pace) -> Vec<Option<Added>> {
        let adds: Vec<_> = batch.iter().map(|send| (&*send.message, send.attempt)).collect();
        let ask = async {
            let added = self.recent.add_batch(&adds, self.cache_budget).await;
            if let Some(error) = added.iter().find_map(|added| added.as_ref().err()) {
                let messages = batch.len();
                tracing::warn!(%error, messages, "the recent list did not take messages; delivering without it");
            }
            added
        };
        self.ask_in_time(batch, pace, 1, ask).await
    }

    /// In durable-first mode nothing is shown yet, but a repeat must keep its first time.
    async fn recognise(&self, batch: Vec<Send>, pace: &mut Pace) -> Vec<(Send, Shown)> {
        let original = |send: &Send| {
            let (recent, message, budget) = (self.recent.clone(), send.message.clone(), self.cache_budget);
            async move { recent.original_timestamp(&message.chat, message.id, budget).await }
        };
        // Once it is durable, the list is still to be asked to take it.
        let originals = self.ask_in_time(&batch, pace, 2, join_all(batch.iter().map(original))).await;
        let recognised = |(mut send, original): (Send, Option<Option<i64>>)| {
            let original = original.flatten();
            if let Some(original) = original {
                Arc::make_mut(&mut send.message).timestamp = original;
            }
            (send, Shown::Later { repeat: original.is_some() })
        };
        batch.into_iter().zip(originals).map(recognised).collect()
    }

    /// Asks the cache about a batch, unless the breaker is open or the batch is too late for so many calls. That it is late counts as
    /// a failure: the cache is too slow for everybody.
    async fn ask_in_time<T>(
        &self,
        batch: &[Send],
        pace: &mut Pace,
        calls: u32,
        ask: impl Future<Output = Vec<Result<T, RedisError>>>,
    ) -> Vec<Option<T>> {
        let nothing = || batch.iter().map(|_| None).collect();
        if batch.is_empty() {
            return Vec::new();
        }
        let begun = Instant::now();
        let Ok(permit) = self.cache_breaker.acquire(begun) else { return nothing() };
        if pace.is_late(batch.iter().map(|send| send.waits_since), begun, calls) {
            permit.failure(begun);
            tracing::warn!(messages = batch.len(), "the cache is too slow for all sends; going on without it");
            return nothing();
        }
        let answers = ask.await;
        let now = Instant::now();
        pace.answered_within(now - begun);
        if answers.iter().any(|answer| matches!(answer, Err(error) if error.is_unavailable())) {
            permit.failure(now);
        } else {
            permit.success();
        }
        answers.into_iter().map(Result::ok).collect()
    }

    /// The sockets of this gateway. Answers for how many users.
    fn deliver(&self, send: &Send, shown: &Shown) -> usize {
        let position = match shown {
            Shown::Listed(position) => {
                self.arrivals.arrived(&send.message, position);
                Position::At { epoch: &position.epoch, seq: position.seq }
            }
            Shown::Unlisted => Position::Unknown,
            Shown::Repeat { .. } | Shown::Later { .. } => return 0,
        };
        let audience = self.sockets.audience(&send.message.chat);
        self.sockets.message(&audience, &send.message, position);
        self.counters.given(&audience, &send.message);
        self.metrics.delivery.observe(send.received.elapsed().as_secs_f64());
        audience.len()
    }

    /// Hands the message to Kafka's client now, in order, and waits for durability elsewhere.
    fn make_durable(self: Arc<Self>, send: Send, shown: Shown) {
        // A repeat is marked too: should its first attempt be taken back, the worker lists it anew.
        let uncached = !matches!(shown, Shown::Listed(_));
        let repeat = matches!(shown, Shown::Repeat { .. });
        let pending = self.publish.begin(&send.message, send.trace, uncached, repeat);
        tokio::spawn(async move {
            match pending.durable().await {
                Ok(durability) => self.accept(send, shown, durability).await,
                Err(cause) => self.refuse(send, shown, cause).await,
            }
        });
    }

    /// The message is durable: whoever could not be told yet will be, and the sender gets the answer.
    async fn accept(&self, mut send: Send, shown: Shown, durability: Durability) {
        // What was no repeat when it came may have been listed by the worker since.
        let may_be_repeat = !matches!(shown, Shown::Later { repeat: false });
        let shown = match shown {
            Shown::Later { .. } => match self.place(vec![send], &mut Pace::unhurried(self.cache_budget)).await.pop() {
                Some((placed, shown)) => {
                    send = placed;
                    self.deliver(&send, &shown);
                    shown
                }
                None => return,
            },
            shown => shown,
        };
        let (position, duplicate) = match shown {
            Shown::Listed(position) => {
                self.arrivals.durable(&send.message, &position);
                (Some(position), false)
            }
            Shown::Repeat { epoch, seq } => {
                // The attempt that has listed it may fail, and must not take it back.
                self.relist.keep(send.message.clone());
                (seq.map(|seq| StreamPosition { epoch, seq }), may_be_repeat)
            }
            Shown::Unlisted | Shown::Later { .. } => {
                self.metrics.recent_skipped.inc();
                self.relist.add(send.message.clone());
                (None, false)
            }
        };
        let outcome = match durability {
            _ if duplicate => Outcome::Duplicate,
            Durability::Kafka => Outcome::Kafka,
            Durability::FailedQueue => Outcome::FailedQueue,
        };
        self.acts.note(&send.message.sender, &send.message.chat);
        let accepted = Accepted { message: send.message.clone(), position, durability, duplicate };
        self.answer(send, Ok(accepted), outcome);
    }

    /// Nothing durable took it: takes back what this attempt has shown, and says so.
    async fn refuse(&self, send: Send, shown: Shown, cause: NotDurable) {
        if let Some(durable) = self.publish.durable(&send.message) {
            // A repeat of it, under way at the same time, became durable.
            return self.answer_as_durable(send, durable.by);
        }
        tracing::warn!(
            message_id = %send.message.id, chat_id = %send.message.chat, trace_id = send.trace.trace_id(), %cause,
            "a message could not be made durable; refused"
        );
        let refusal = match cause {
            NotDurable::TooLarge => Refusal::new(Code::TooLarge, "the message is too large to be stored"),
            NotDurable::Unavailable(_) => Refusal::unavailable("the message could not be made durable; send it again"),
        };
        if matches!(shown, Shown::Listed(_) | Shown::Unlisted) {
            let message = &send.message;
            let audience = self.sockets.audience(&message.chat);
            self.sockets.failed(&audience, message.id, message.temp_id.as_deref(), &message.chat);
            self.relist.take_back(message.clone(), send.attempt);
        }
        self.answer(send, Err(refusal), Outcome::Refused);
    }

    fn answer(&self, send: Send, answer: Answer, outcome: Outcome) {
        self.metrics.ended(outcome);
        self.metrics.ack.observe(send.received.elapsed().as_secs_f64());
        self.metrics.in_flight.dec();
        // The sender may be gone; the message goes on all the same.
        let _ = send.answer.send(answer);
        drop(send.slot);
    }
}
