//! The settings of the failed queue.

use std::time::Duration;

/// What to do if the server does not allow its settings to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Refuse messages.
    #[default]
    Checked,
    /// Trust the operator for settings that can't be read; settings that can be read are still checked.
    Assumed,
}

/// Settings of the failed queue.
#[derive(Debug, Clone, Copy)]
pub struct FailedQueueSettings {
    /// The time for one push as a whole.
    pub timeout: Duration,
    /// What to do if the server does not allow its settings to be read.
    pub durability: Durability,
    /// The least number of replicas that must have an entry, or it is refused. Further replicas that are connected must have it, too.
    pub min_replicas: u32,
}

impl Default for FailedQueueSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), durability: Durability::Checked, min_replicas: 0 }
    }
}
