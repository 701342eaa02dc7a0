//! The names of an aside cache's keys and channels.

/// How a deployment names what an aside cache stores and publishes.
pub trait Names: Clone + Send + Sync + 'static {
    /// What identifies a cached value.
    type Value;

    /// The key of a value.
    fn value(&self, value: &Self::Value) -> String;

    /// The key of the lease on the value with this key. It must be in the cluster slot of that key.
    fn lease(&self, value: &str) -> String;

    /// The channel on which invalidations are published.
    fn invalidations(&self) -> String;

    /// The channel of a process's own beacon. `process` is a random word.
    fn beacon(&self, process: &str) -> String;
}
