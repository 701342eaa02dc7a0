//! The failed queue's way back to Kafka: [`retry`] replays it, as many chats at once as Kafka takes ([`dispatch`]), step by step ([`replay`]);
//! [`index_repair`] keeps its index whole.

mod dispatch;
pub mod index_repair;
pub mod replay;
pub(crate) mod retry;
