//! The lines that can be cut.

use anyhow::Result;
use holdfast_testkit::Proxy;

/// The lines between services and servers, and between clients and gateways.
pub struct Lines {
    /// Each gateway to Kafka.
    pub kafka: Vec<Proxy>,
    /// All workers to Kafka.
    pub kafka_workers: Proxy,
    /// All gateways to MongoDB.
    pub mongo_gateways: Proxy,
    /// All workers to MongoDB.
    pub mongo_workers: Proxy,
    /// All workers to the cache.
    pub cache_workers: Proxy,
    /// Each gateway to the cache.
    pub cache: Vec<Proxy>,
    /// Each gateway to the failed queue.
    pub queue: Vec<Proxy>,
    /// Clients to each gateway.
    pub clients: Vec<Proxy>,
}

impl Lines {
    /// Cuts every gateway from Kafka.
    pub async fn cut_kafka(&self) {
        for line in &self.kafka {
            line.cut().await;
        }
    }

    /// Mends every gateway's line to Kafka.
    ///
    /// # Errors
    /// A port was taken by somebody else meanwhile.
    pub async fn heal_kafka(&self) -> Result<()> {
        for line in &self.kafka {
            line.heal().await?;
        }
        Ok(())
    }
}
