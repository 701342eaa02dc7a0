//! Starting everything in order, watching it, stopping it in the reverse order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_testkit::{
    Child, Kafka, KafkaOptions, Mongo, MongoOptions, Program, ProgramOptions, Redis, RedisOptions, Role, free_port,
    is_free,
};
use tokio::time::Instant;

use crate::Options;
use crate::env_file;
use crate::environment::{self, Addresses, given};
use crate::lock::DataFolder;
use crate::signals::Signals;
use crate::text::{self, Ports};

/// Ports that stay the same from run to run, unless somebody else has them.
const REDIS_CACHE: u16 = 17379;
const REDIS_QUEUE: u16 = 17380;
const MONGO: u16 = 17017;
const KAFKA: u16 = 17092;
/// The first gateway's and the first worker's; each further one's is ten higher.
const GATEWAY_OPS: u16 = 9464;
const WORKER_OPS: u16 = 9465;

const READY: Duration = Duration::from_secs(60);
/// Longer than the services' own grace.
const STOP: Duration = Duration::from_secs(40);

/// What runs. Servers that the environment names are not ours, hence none.
#[derive(Default)]
struct Stack {
    redis_cache: Option<Redis>,
    redis_queue: Option<Redis>,
    mongo: Option<Mongo>,
    kafka: Option<Kafka>,
    workers: Vec<Program>,
    gateways: Vec<Program>,
}

/// Runs everything until it is asked to stop or a part of it ends.
pub(crate) async fn run(options: Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let ports: Vec<u16> = (0..options.gateways).map(|number| options.port.saturating_add(number)).collect();
    let data = DataFolder::take(&options.data, options.fresh)?;
    if let Some(port) = ports.iter().find(|port| !is_free(**port)) {
        bail!("port {port} is in use; choose another with --port");
    }
    let mut stack = Stack::default();
    let ended = tokio::select! {
        ended = stack.start_and_watch(&options, &ports, &data) => ended,
        () = signals.next() => Ok(()),
    };
    if let Err(error) = &ended {
        eprintln!("\n{error:#}");
    }
    println!("\nStopping; Ctrl-C again kills.");
    tokio::select! {
        () = stack.stop() => {}
        () = signals.next() => bail!("killed before everything had stopped"),
    }
    ended.map_err(|_| anyhow!("stopped because of the error above"))
}

impl Stack {
    /// Returns only with an error.
    async fn start_and_watch(&mut self, options: &Options, ports: &[u16], data: &DataFolder) -> Result<()> {
        let addresses = self.start_servers(data.path()).await?;
        let secret = given("JWT_SECRET").map_or_else(|| data.secret(), Ok)?;
        let common = environment::common(&addresses, &secret, given);
        let logs = data.path().join("logs");
        let begun = Instant::now();

        let mut gateways = Vec::new();
        let mut workers = Vec::new();
        for number in 1..=options.workers {
            let operators = preferred(WORKER_OPS + 10 * (number - 1))?;
            let ports = Ports { clients: None, operators };
            self.workers.push(start_service("worker", number, &common, ports, &logs)?);
            workers.push(ports);
        }
        for (number, port) in (1..).zip(ports) {
            let operators = preferred(GATEWAY_OPS + 10 * (number - 1))?;
            let ports = Ports { clients: Some(*port), operators };
            self.gateways.push(start_service("gateway", number, &common, ports, &logs)?);
            gateways.push(ports);
        }
        for (program, ports) in self.workers.iter().zip(&workers).chain(self.gateways.iter().zip(&gateways)) {
            program.wait_ready(&format!("127.0.0.1:{}", ports.operators), READY).await?;
            println!("{} is ready after {:.1} s", program.name(), begun.elapsed().as_secs_f32());
        }

        let environment = env_file::write(data.path(), &common)?;
        text::print(&gateways, &workers, &addresses, &secret, data.path(), &environment);
        self.watch().await
    }

    async fn start_servers(&mut self, data: &Path) -> Result<Addresses> {
        println!("Starting Redis, MongoDB and Kafka");
        let redis = |role, name: &'static str, port| async move {
            let options = RedisOptions {
                role,
                dir: Some(fresh_log(data, name)?),
                port: Some(preferred(port)?),
                ..RedisOptions::default()
            };
            Redis::start(options).await
        };
        let mongo = async {
            let options = MongoOptions {
                dir: Some(fresh_log(data, "mongo")?),
                port: Some(preferred(MONGO)?),
                ..MongoOptions::default()
            };
            Mongo::start_with(options).await
        };
        let kafka = async {
            let options = KafkaOptions {
                dir: Some(fresh_log(data, "kafka")?),
                port: Some(preferred(KAFKA)?),
                ..KafkaOptions::default()
            };
            Kafka::start_with(options).await
        };
        (self.redis_cache, self.redis_queue, self.mongo, self.kafka) = tokio::try_join!(
            unless_given("REDIS_URL", redis(Role::Cache, "redis-cache", REDIS_CACHE)),
            unless_given("REDIS_QUEUE_URL", redis(Role::Queue, "redis-queue", REDIS_QUEUE)),
            unless_given("MONGO_URL", mongo),
            unless_given("KAFKA_BROKERS", kafka),
        )?;
        let address = |ours: Option<String>, variable| ours.or_else(|| given(variable)).unwrap_or_default();
        Ok(Addresses {
            redis_cache: address(self.redis_cache.as_ref().map(Redis::url), "REDIS_URL"),
            redis_queue: address(self.redis_queue.as_ref().map(Redis::url), "REDIS_QUEUE_URL"),
            mongo: address(self.mongo.as_ref().map(Mongo::url), "MONGO_URL"),
            kafka: address(self.kafka.as_ref().map(Kafka::brokers), "KAFKA_BROKERS"),
        })
    }

    /// Waits until something ends that should not.
    async fn watch(&self) -> Result<()> {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for child in self.in_stopping_order() {
                if let Some(status) = child.exit_status() {
                    let log = child.log_path().display();
                    bail!("{} ended ({status}); the end of {log}:\n{}", child.name(), child.log_tail(30));
                }
            }
        }
    }

    /// Gateways first, so that what they took reaches the workers; the servers when nobody needs them any more.
    fn in_stopping_order(&self) -> impl Iterator<Item = &Child> {
        let programs = self.gateways.iter().chain(&self.workers).map(|program| &**program);
        let log_and_store = self.kafka.as_deref().into_iter().chain(self.mongo.as_deref());
        programs.chain(log_and_store).chain(self.redis_queue.as_deref()).chain(self.redis_cache.as_deref())
    }

    /// Stops everything that runs, with a line each.
    async fn stop(&self) {
        for child in self.in_stopping_order().filter(|child| child.is_running()) {
            let begun = Instant::now();
            match child.term_and_wait(STOP).await {
                Ok(0) => println!("{} stopped after {:.1} s", child.name(), begun.elapsed().as_secs_f32()),
                // Java ends with 128 + 15 on SIGTERM, after an orderly shutdown.
                Ok(143) => println!("{} stopped after {:.1} s", child.name(), begun.elapsed().as_secs_f32()),
                Ok(code) => println!("{} stopped with code {code}; see {}", child.name(), child.log_path().display()),
                Err(error) => println!("{error:#}\n{} is killed", child.name()),
            }
        }
    }
}

fn start_service(kind: &str, number: u16, common: &[(String, String)], ports: Ports, logs: &Path) -> Result<Program> {
    let name = format!("{kind}-{number}");
    remove_log(&logs.join(format!("{name}.log")))?;
    let options = ProgramOptions {
        name: Some(name),
        environment: environment::own(common, ports.clients, ports.operators),
        inherit_environment: true,
        dir: Some(logs.to_owned()),
        ..ProgramOptions::default()
    };
    Program::start_with(&format!("holdfast-{kind}"), options)
}

async fn unless_given<T: std::ops::Deref<Target = Child>>(
    variable: &str,
    start: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    if let Some(address) = given(variable) {
        println!("{variable} is set; using {}", text::without_password(&address));
        return Ok(None);
    }
    let begun = Instant::now();
    let server = start.await?;
    println!("{} is ready after {:.1} s", server.name(), begun.elapsed().as_secs_f32());
    Ok(Some(server))
}

fn preferred(port: u16) -> Result<u16> {
    if is_free(port) { Ok(port) } else { free_port() }
}

/// A server's folder, without the last run's log.
fn fresh_log(data: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folder = data.join(name);
    remove_log(&folder.join("log"))?;
    Ok(folder)
}

fn remove_log(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
