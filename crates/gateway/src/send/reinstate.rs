//! Refused here, and durable all the same.
//!
//! Takes from [`crate::send::recent_retry`] what could not be taken back; tells this gateway's sockets, which had been told that it failed, that
//! it did not. Such a message was repeated on another gateway while this one was cut off: nobody announces it anew, for the list has
//! it already, and no offset of a client is below it.
//!
//! What the list knows to be durable is told at once. What was trimmed meanwhile, or is another attempt's, may be stored or may not:
//! MongoDB is asked a few times, while the message may be on its way there. The number of such questions is bounded; beyond it, history
//! tells.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::event::Position as StreamPosition;
use holdfast_message::json::Position;
use holdfast_message::{Message, MessageId};
use tokio::sync::Semaphore;

use crate::deliver::sockets::Sockets;
use crate::guarded_store::Stored;

/// When MongoDB is asked, counted from the answer before.
const ASKED_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(25)];
/// Batches that may be asked after at once.
const MAX_ASKED: usize = 64;

/// Corrects what was said to have failed. Cheap to clone.
#[derive(Clone)]
pub struct Kept {
    sockets: Sockets,
    stored: Stored,
    asked: Arc<Semaphore>,
}

impl Kept {
    /// Tells these sockets, by what this store has.
    pub fn new(sockets: Sockets, stored: Stored) -> Self {
        Self { sockets, stored, asked: Arc::new(Semaphore::new(MAX_ASKED)) }
    }

    /// It is durable: it is shown again, as of the time of the listed copy.
    pub(crate) fn listed(&self, message: &Message, position: Option<&StreamPosition>, timestamp: i64) {
        let position = match position {
            Some(position) => Position::At { epoch: &position.epoch, seq: position.seq },
            None => Position::Unknown,
        };
        self.show(&Message { timestamp, ..message.clone() }, position);
    }

    /// Nobody knows, unless the store does.
    pub(crate) fn perhaps(&self, mut ids: Vec<MessageId>) {
        let Ok(permit) = self.asked.clone().try_acquire_owned() else { return };
        let this = self.clone();
        tokio::spawn(async move {
            for pause in ASKED_AFTER {
                tokio::time::sleep(pause).await;
                let Ok(found) = this.stored.ask(async |store| store.get(&ids).await).await else { continue };
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
