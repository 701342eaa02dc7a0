//! The runtime of a service.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime with this many threads for tasks; 0: as many as the cores that the process may use, so that a container with a limit of one core
/// gets one thread. Threads that share a core wake each other for nothing.
pub fn build(threads: usize) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_decides_how_many_threads_there_are_and_the_cores_if_it_does_not() {
        let threads = |setting| build(setting).unwrap().metrics().num_workers();
        assert_eq!(threads(3), 3);
        assert_eq!(threads(0), std::thread::available_parallelism().unwrap().get());
    }
}
