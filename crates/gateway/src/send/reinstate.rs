//! Shows messages again that were refused here and are durable all the same.
//!
//! Takes from [`crate::send::recent_retry`] what could not be retracted, and gives it to this gateway's sockets, which had got `messageFailed`. Such a message
//! was repeated on another gateway while this one was cut off: nobody announces it again, for the list has it already, and no client's offset is below it.
//!
//! A message that the list knows to be durable is shown at once. One that was trimmed meanwhile, or is another attempt's, may be stored or not: MongoDB is
//! read a few times, while the message may be on its way there. The number of such reads is bounded; beyond it, clients find the message in history.
//!
//! See `docs/decisions/retraction.md`.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::event::Position as StreamPosition;
use holdfast_message::json::Position;
use holdfast_message::{Message, MessageId};
use tokio::sync::Semaphore;

use crate::deliver::sockets::Sockets;
use crate::guarded_store::GuardedStore;

/// Pauses before each read of MongoDB.
const ASKED_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(25)];
/// Batches that may be read at once.
const MAX_ASKED: usize = 64;

/// Shows messages again. Cheap to clone.
#[derive(Clone)]
pub struct Reinstater {
    sockets: Sockets,
    stored: GuardedStore,
    asked: Arc<Semaphore>,
}

impl Reinstater {
    /// Gives messages to these sockets, by what this store has.
    pub fn new(sockets: Sockets, stored: GuardedStore) -> Self {
        Self { sockets, stored, asked: Arc::new(Semaphore::new(MAX_ASKED)) }
    }

    /// A durable message: shows it again, with the timestamp of the listed copy.
    pub(crate) fn listed(&self, message: &Message, position: Option<&StreamPosition>, timestamp: i64) {
        let position = match position {
            Some(position) => Position::At { epoch: &position.epoch, seq: position.seq },
            None => Position::Unknown,
        };
        self.show(&Message { timestamp, ..message.clone() }, position);
    }

    /// Messages that may be durable: shows those that the store has.
    pub(crate) fn if_stored(&self, mut ids: Vec<MessageId>) {
        let Ok(permit) = self.asked.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            for pause in ASKED_AFTER {
                tokio::time::sleep(pause).await;
                let Ok(found) = this.stored.call(async |store| store.get(&ids).await).await else { continue };
                ids.retain(|id| !found.contains_key(id));
                found.values().for_each(|message| this.show(message, Position::Unknown));
                if ids.is_empty() {
                    break;
                }
            }
            drop(permit);
        });
    }

    fn show(&self, message: &Message, position: Position<'_>) {
        tracing::info!(message_id = %message.id, chat_id = %message.chat, "a message that was refused here is durable; shown again");
        self.sockets.message(&self.sockets.audience(&message.chat), message, position);
    }
}
