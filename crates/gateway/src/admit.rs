//! Permissions and limits, before anybody sees a message.
//!
//! Takes a batch of stamped messages from the pipeline; gives each a verdict.

use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, Message, UserId};

use crate::error::{Code, Refusal};
use crate::limit::UserLimit;
use crate::metrics::{Limited, Metrics};

/// Checks what may be sent and read.
#[derive(Clone)]
pub struct Admission {
    limit: Option<Arc<UserLimit>>,
    metrics: Metrics,
}

impl Admission {
    /// Without `limit`, users may send as much as they like.
    pub fn new(limit: Option<UserLimit>, metrics: Metrics) -> Self {
        Self { limit: limit.map(Arc::new), metrics }
    }

    /// Whether a user may see and write in a chat. Groups have no members yet, so they admit nobody.
    pub fn permit(&self, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match chat.members() {
            Members::Direct(first, second) if first == *user || second == *user => Ok(()),
            Members::Direct(..) => Err(Refusal::new(Code::Forbidden, "not a member of this chat")),
            Members::Group => Err(Refusal::new(Code::NotFound, "no such chat")),
        }
    }

    /// A verdict for each message, in order.
    pub async fn check(&self, messages: impl Iterator<Item = &Message> + Clone) -> Vec<Result<(), Refusal>> {
        let mut verdicts: Vec<_> =
            messages.clone().map(|message| self.permit(&message.sender, &message.chat)).collect();
        let Some(limit) = &self.limit else { return verdicts };
        // Only what is permitted counts against a limit.
        let (places, users): (Vec<_>, Vec<_>) = messages
            .enumerate()
            .filter(|(index, _)| verdicts[*index].is_ok())
            .map(|(index, message)| (index, &message.sender))
            .unzip();
        for (place, decision) in places.into_iter().zip(limit.decide(Kind::Message, &users).await) {
            if let Decision::Limited { retry_after } = decision {
                self.metrics.limited(Limited::Messages);
                verdicts[place] = Err(Refusal::rate_limited(retry_after));
            }
        }
        verdicts
    }
}
