//! Private servers and our services, started for one run and gone with it.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::{Kafka, Mongo, Program, Redis, free_port};

use crate::usage::Watched;

/// How long a service may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// The database of the services.
pub const DATABASE: &str = "chat";

/// The whole system on this machine, as it is deployed: two Redis, Kafka, MongoDB, one gateway, one worker.
#[derive(Debug)]
pub struct Stack {
    gateway: Program,
    worker: Program,
    kafka: Kafka,
    mongo: Mongo,
    cache: Redis,
    queue: Redis,
    port: u16,
}

impl Stack {
    /// Starts all of it and waits until it is ready.
    ///
    /// # Errors
    /// A part can't be started; the end of its log is part of the error.
    pub async fn start(secret: &str) -> Result<Self> {
        let (cache, queue, mongo, kafka) =
            tokio::try_join!(Redis::cache(), Redis::queue(), Mongo::start(), Kafka::start())?;
        let (port, gateway_ops, worker_ops) = (free_port()?, address()?, address()?);
        let shared = [
            ("PROFILE", "production".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
            ("KAFKA_BROKERS", kafka.brokers()),
            // The production profile makes topics for three brokers.
            ("KAFKA_REPLICATION_FACTOR", "1".to_owned()),
            ("REDIS_URL", cache.url()),
            ("REDIS_QUEUE_URL", queue.url()),
            ("MONGO_URL", mongo.url()),
            ("MONGO_DB", DATABASE.to_owned()),
        ];
        let with = |own: &[(&str, &str)]| {
            let own = own.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            shared.iter().map(|(name, value)| (name.to_string(), value.clone())).chain(own).collect::<Vec<_>>()
        };
        let worker =
            Program::start("holdfast-worker", with(&[("FLUSH_INTERVAL_MS", "1000"), ("OPS_ADDR", &worker_ops)]))?;
        let gateway = Program::start(
            "holdfast-gateway",
            with(&[
                ("BIND", "127.0.0.1"),
                ("PORT", &port.to_string()),
                ("OPS_ADDR", &gateway_ops),
                ("JWT_SECRET", secret),
                // All load comes from one address, and from users who write more than people do.
                ("MESSAGE_LIMIT", "0"),
                ("SOCKET_EVENTS_PER_SECOND", "0"),
                ("SOCKET_BYTES_PER_SECOND", "0"),
                ("MAX_SOCKETS_PER_ADDRESS", "0"),
                ("HANDSHAKES_PER_SECOND_PER_ADDRESS", "0"),
            ]),
        )?;
        worker.wait_ready(&worker_ops, READY).await?;
        gateway.wait_ready(&gateway_ops, READY).await?;
        Ok(Self { gateway, worker, kafka, mongo, cache, queue, port })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where MongoDB is.
    pub fn mongo_url(&self) -> String {
        self.mongo.url()
    }

    /// All processes.
    pub fn processes(&self) -> Vec<Watched> {
        [
            ("gateway", self.gateway.pid()),
            ("worker", self.worker.pid()),
            ("kafka", self.kafka.pid()),
            ("mongod", self.mongo.pid()),
            ("redis-cache", self.cache.pid()),
            ("redis-queue", self.queue.pid()),
        ]
        .map(|(name, pid)| Watched { name: name.to_owned(), pid })
        .into()
    }

    /// The ends of the services' logs, for a run that went wrong.
    pub fn logs(&self) -> String {
        format!("gateway:\n{}\nworker:\n{}", self.gateway.log_tail(20), self.worker.log_tail(20))
    }
}

/// The bare echo server.
#[derive(Debug)]
pub struct Peer {
    program: Program,
    port: u16,
}

impl Peer {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start() -> Result<Self> {
        let port = free_port()?;
        let program = Program::start("holdfast-bench-peer", [("PORT", port.to_string())])?;
        let accepts = || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        program.ready_within(READY, accepts).await.context("the echo server")?;
        Ok(Self { program, port })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process, to be stopped or frozen.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its process, to be watched.
    pub fn process(&self) -> Watched {
        Watched { name: "echo".to_owned(), pid: self.program.pid() }
    }
}

fn address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}
