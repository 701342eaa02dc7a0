//! The whole system on servers of its own, with a line that can be cut in front of each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_bench::usage::{self, Watched};
use holdfast_kafka::{Admin, KafkaSettings};
use holdfast_testkit::{Kafka, KafkaOptions, Mongo, MongoSet, Proxy, Redis, RedisOptions, Role};

use super::disk::SmallDisk;
use super::lines::Lines;
use crate::ledger::{Circumstances, Kill, now_ms};
use crate::{Backends, Service, Stack, StackOptions};

/// How long a service has to answer a request to its operators' port.
pub(super) const ASK: Duration = Duration::from_secs(30);
/// How long a service has to end after SIGTERM.
pub const GRACE: Duration = Duration::from_secs(30);

/// How many gateways there are.
pub const GATEWAYS: usize = 2;

/// The options of a case's system.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// The number of workers; there are [`GATEWAYS`] gateways.
    pub workers: usize,
    /// Settings of all services.
    pub settings: Vec<(&'static str, String)>,
    /// More of the failed queue's command line.
    pub queue_args: Vec<String>,
    /// Whether the failed queue's server has its settings in a file, which it may rewrite.
    pub queue_settings_in_a_file: bool,
    /// Whether Kafka has an authorizer.
    pub kafka_authorizer: bool,
    /// Whether the failed queue keeps its file on a disk that is soon full.
    pub small_queue_disk: bool,
    /// A replica set of three members, asked without proxies.
    pub mongo_set: bool,
    /// The load.
    pub load: Pace,
}

/// The parameters of the load.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Pairs of friends.
    pub pairs: usize,
    /// Groups of three to six of them.
    pub groups: usize,
    /// Whether everybody is everybody's friend.
    pub mesh: bool,
    /// Messages a second, of all users together.
    pub rate: f64,
    /// How long they are, in bytes.
    pub length: Range<usize>,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            settings: [
                ("RECENT_VERIFY_SECS", "2"),
                ("CACHE_CB_RECOVERY_TIMEOUT", "2000"),
                ("KAFKA_CB_RECOVERY_TIMEOUT", "1000"),
                ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
                // As shipped.
                ("MESSAGE_LIMIT", "100"),
                ("EVENT_LIMIT", "300"),
                ("WINDOW_SECONDS", "10"),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
            queue_args: Vec::new(),
            queue_settings_in_a_file: false,
            kafka_authorizer: false,
            small_queue_disk: false,
            mongo_set: false,
            load: Pace { pairs: 6, groups: 3, mesh: false, rate: 80.0, length: 1..300 },
        }
    }
}

impl RigOptions {
    /// Sets one setting of all services.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.to_owned()));
    }

    /// How the failed queue's server is started.
    fn queue(&self, disk: Option<&SmallDisk>) -> RedisOptions {
        RedisOptions {
            role: Role::Queue,
            args: self.queue_args.clone(),
            settings_in_a_file: self.queue_settings_in_a_file,
            dir: disk.map(|disk| disk.path().to_owned()),
            ..RedisOptions::default()
        }
    }

    /// For more load than users may make.
    pub fn unlimited(&mut self) {
        self.set("MESSAGE_LIMIT", "0");
        self.set("EVENT_LIMIT", "0");
    }
}

/// MongoDB, in either of two forms.
pub enum Store {
    /// A set of one member.
    One(Mongo),
    /// A set of three.
    Set(MongoSet),
}

/// The services, their servers and the lines between them.
pub struct Rig {
    /// The services. First, as they go before their servers.
    pub stack: Stack,
    /// The lines.
    pub lines: Lines,
    /// Kafka.
    pub kafka: Kafka,
    /// MongoDB.
    pub mongo: Store,
    /// The cache.
    pub cache: Redis,
    /// The failed queue.
    pub queue: Redis,
    // Dropped after the server that writes to it.
    _queue_disk: Option<SmallDisk>,
    mongo_url: String,
    pub(super) admin: Admin,
    circumstances: Mutex<Circumstances>,
    peak_memory: Mutex<BTreeMap<String, u64>>,
}

impl Rig {
    /// Starts it, and waits until every service is ready.
    ///
    /// # Errors
    /// A part of it can't be started.
    pub async fn start(options: RigOptions) -> Result<Self> {
        let disk = options.small_queue_disk.then(SmallDisk::new).transpose()?;
        let queue = options.queue(disk.as_ref());
        let kafka = KafkaOptions::default();
        let kafka = if options.kafka_authorizer { kafka.with_authorizer() } else { kafka };
        let mongo = async {
            Ok::<_, anyhow::Error>(match options.mongo_set {
                false => Store::One(Mongo::start().await?),
                true => Store::Set(MongoSet::start().await?),
            })
        };
        let ((kafka, [kafka_workers, one, other]), mongo, cache, queue) =
            tokio::try_join!(Kafka::start_with_behind::<3>(kafka), mongo, Redis::cache(), Redis::start(queue))?;
        let mongo_port = match &mongo {
            Store::One(mongo) => mongo.port(),
            // These lines are unused then.
            Store::Set(set) => set.members()[0].port(),
        };
        let mut lines = Lines {
            kafka: vec![one, other],
            kafka_workers,
            mongo_gateways: Proxy::start(mongo_port).await?,
            mongo_workers: Proxy::start(mongo_port).await?,
            cache_workers: Proxy::start(cache.port()).await?,
            cache: Vec::new(),
            queue: Vec::new(),
            clients: Vec::new(),
        };
        let mongo_url = match &mongo {
            Store::One(mongo) => mongo.url(),
            Store::Set(set) => set.url(),
        };
        let backends =
            Backends { redis: cache.url(), redis_queue: queue.url(), mongo: mongo_url.clone(), kafka: kafka.brokers() };
        let settings = options.settings.clone();
        let mut stack = Stack::start(&backends, StackOptions { gateways: 0, workers: 0, settings }).await?;
        for number in 0..GATEWAYS {
            lines.cache.push(Proxy::start(cache.port()).await?);
            lines.queue.push(Proxy::start(queue.port()).await?);
            let mut own = vec![
                ("KAFKA_BROKERS", format!("127.0.0.1:{}", lines.kafka[number].port())),
                ("REDIS_URL", cache.url_at(lines.cache[number].port())),
                ("REDIS_QUEUE_URL", queue.url_at(lines.queue[number].port())),
            ];
            if let Store::One(mongo) = &mongo {
                own.push(("MONGO_URL", mongo.url_at(lines.mongo_gateways.port())));
            }
            stack.add_gateway(&own)?;
            let (_, port) = stack.gateways[number].url.rsplit_once(':').context("a gateway without a port")?;
            lines.clients.push(Proxy::start(port.parse()?).await?);
        }
        let kafka_settings = KafkaSettings {
            brokers: kafka.brokers(),
            topic: stack.topic.clone(),
            dlq_topic: stack.dlq_topic.clone(),
            ..KafkaSettings::default()
        };
        let admin = Admin::new(&kafka_settings, ASK)?;
        let mut rig = Self {
            stack,
            lines,
            kafka,
            mongo,
            cache,
            queue,
            _queue_disk: disk,
            mongo_url,
            admin,
            circumstances: Mutex::default(),
            peak_memory: Mutex::default(),
        };
        for _ in 0..options.workers {
            rig.add_worker(&[]).await?;
        }
        rig.stack.ready().await?;
        Ok(rig)
    }

    /// Starts one more worker, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become so.
    pub async fn add_worker(&mut self, own: &[(&'static str, String)]) -> Result<()> {
        let mut settings = vec![
            ("KAFKA_BROKERS", format!("127.0.0.1:{}", self.lines.kafka_workers.port())),
            ("REDIS_URL", self.cache.url_at(self.lines.cache_workers.port())),
        ];
        if let Store::One(mongo) = &self.mongo {
            settings.push(("MONGO_URL", mongo.url_at(self.lines.mongo_workers.port())));
        }
        settings.extend_from_slice(own);
        self.stack.add_worker(&settings)?;
        let worker = self.stack.workers.last().context("no worker")?;
        worker.ready().await
    }

    /// Where clients connect: each gateway's line.
    pub fn client_urls(&self) -> Vec<String> {
        self.lines.clients.iter().map(|line| format!("http://127.0.0.1:{}", line.port())).collect()
    }

    /// Where MongoDB is, past every line.
    pub fn mongo_url(&self) -> &str {
        &self.mongo_url
    }

    /// The circumstances that excuse some faults.
    pub fn circumstances(&self) -> Circumstances {
        self.circumstances.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records circumstances that excuse some faults.
    pub fn note(&self, change: impl FnOnce(&mut Circumstances)) {
        change(&mut self.circumstances.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Kills a gateway.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill_gateway(&self, number: usize) -> Result<()> {
        self.watch_memory();
        let gateway = self.client_urls().swap_remove(number);
        self.note(|circumstances| circumstances.kills.push(Kill { gateway, at_ms: now_ms() }));
        self.stack.gateways[number].program.kill9().await
    }

    /// Kills a worker.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill_worker(&self, number: usize) -> Result<()> {
        self.watch_memory();
        self.stack.workers[number].program.kill9().await
    }

    /// Ends a service as its supervisor does, which must be orderly.
    ///
    /// # Errors
    /// It does not end in time, or not with 0.
    pub async fn terminate(&self, service: &Service) -> Result<()> {
        self.watch_memory();
        let code = service.program.term_and_wait(GRACE).await?;
        ensure!(code == 0, "{} ended with {code}:\n{}", service.program.name(), service.program.log_tail(20));
        Ok(())
    }

    /// Starts a service again, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become so.
    pub async fn start_again(&self, service: &Service) -> Result<()> {
        service.program.start_again()?;
        service.ready().await
    }

    /// Heals everything: lines, frozen processes, ended processes.
    ///
    /// # Errors
    /// Something can't be started again.
    pub async fn heal(&self) -> Result<()> {
        let Lines { kafka_workers, mongo_gateways, mongo_workers, cache_workers, .. } = &self.lines;
        let shared = [kafka_workers, mongo_gateways, mongo_workers, cache_workers];
        let own = [&self.lines.kafka, &self.lines.cache, &self.lines.queue, &self.lines.clients].into_iter().flatten();
        for line in shared.into_iter().chain(own) {
            line.heal().await?;
        }
        for server in [&*self.kafka, &*self.cache, &*self.queue] {
            server.thaw()?;
        }
        if !self.kafka.is_running() {
            self.kafka.start_again().await?;
        }
        if !self.cache.is_running() {
            self.cache.start_again().await?;
        }
        if !self.queue.is_running() {
            self.queue.start_again().await?;
        }
        if let Store::One(mongo) = &self.mongo {
            mongo.thaw()?;
            if !mongo.is_running() {
                mongo.start_again().await?;
            }
        }
        for service in self.stack.gateways.iter().chain(&self.stack.workers) {
            service.program.thaw()?;
            if !service.program.is_running() {
                service.program.start_again()?;
            }
        }
        self.stack.ready().await
    }

    /// Takes note of what our processes hold by now.
    pub fn watch_memory(&self) {
        let services = [("gateway", &self.stack.gateways), ("worker", &self.stack.workers)];
        let watched: Vec<_> = services
            .iter()
            .flat_map(|(kind, services)| services.iter().enumerate().map(move |(number, one)| (kind, number, one)))
            .map(|(kind, number, service)| Watched { name: format!("{kind} {number}"), pid: service.program.pid() })
            .collect();
        let mut peaks = self.peak_memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, peak) in usage::peak_memory(&watched) {
            let known = peaks.entry(name).or_default();
            *known = peak.max(*known);
        }
    }

    /// The most memory that each of our processes was seen to hold, in bytes.
    pub fn peak_memory(&self) -> BTreeMap<String, u64> {
        self.peak_memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ends of the services' logs, for what went wrong.
    pub fn logs(&self) -> String {
        let services = self.stack.gateways.iter().chain(&self.stack.workers);
        services.map(|service| format!("\n== {}\n{}", service.program.name(), service.program.log_tail(12))).collect()
    }
}
