//! Only the servers, on free ports and in a temporary folder: what `scripts/test` starts once for all test binaries.

use anyhow::Result;
use holdfast_testkit::{Kafka, Mongo, Redis};
use tokio::sync::oneshot;

use crate::signals::Signals;

/// Starts them, prints `export` lines and `ready`, and returns when asked to stop.
pub(crate) async fn run() -> Result<()> {
    let mut signals = Signals::new()?;
    let end_of_input = end_of_input();
    let serve = async {
        let (cache, queue, mongo, kafka) =
            tokio::try_join!(Redis::cache(), Redis::queue(), Mongo::start(), Kafka::start())?;
        println!("export HOLDFAST_TEST_REDIS={}", cache.url());
        println!("export HOLDFAST_TEST_REDIS_QUEUE={}", queue.url());
        println!("export HOLDFAST_TEST_MONGO='{}'", mongo.url());
        println!("export HOLDFAST_TEST_KAFKA={}", kafka.brokers());
        println!("ready");
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            for child in [&*cache, &*queue, &*mongo, &*kafka] {
                if let Some(status) = child.exit_status() {
                    anyhow::bail!("{} ended ({status}); the end of its log:\n{}", child.name(), child.log_tail(30));
                }
            }
        }
    };
    // Servers are killed when they leave this scope: their data is not needed.
    tokio::select! {
        done = serve => done,
        _ = end_of_input => Ok(()),
        () = signals.next() => Ok(()),
    }
}

/// Resolves when the standard input ends. The thread that reads it is left behind.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // An unreadable input has ended, too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        sender.send(())
    });
    receiver
}
