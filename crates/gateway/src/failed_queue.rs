//! The failed queue's way back to Kafka: [`retry`] replays it, as many chats at once as Kafka takes ([`dispatch`]), step by step
//! ([`replay`](holdfast_failed_queue::replay)); [`IndexRepair`](holdfast_failed_queue::IndexRepair) keeps its index whole.

mod dispatch;
pub(crate) mod retry;
