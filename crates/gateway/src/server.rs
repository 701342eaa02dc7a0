//! From settings to a running gateway, and its end.

mod app;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use holdfast_breaker::{Breaker, BreakerMetrics};
use holdfast_cache::channels::ChannelSettings;
use holdfast_cache::groups::GroupChanges;
use holdfast_cache::inbox::InboxLife;
use holdfast_cache::presence::{Online, PresenceSettings};
use holdfast_cache::rate_limit::{Limit, RateLimiter};
use holdfast_cache::recent::RecentSettings;
use holdfast_cache::{Announcer, Channels, Inboxes, Origin, RecentList};
use holdfast_failed_queue::FailedQueue;
use holdfast_kafka::{Admin, AdminError, KafkaSettings, Publisher, TopicsReport};
use holdfast_keys::Keys;
use holdfast_message::UserId;
use holdfast_redis::aside::Backend;
use holdfast_redis::{Client, ClientSettings, Connection, LockSettings, Locks, RedisMetrics};
use holdfast_service::{ops, serve};
use holdfast_store::{Store, StoreSettings};
use socketioxide::socket::Sid;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::Admission;
use crate::auth::Verifier;
use crate::config::Config;
use crate::deliver::Sockets;
use crate::groups::Groups;
use crate::groups::acts::Acts;
use crate::health::{Breakers, GatewayHealth, Probed};
use crate::history::{History, Sources};
use crate::inbox::arrivals::{Arrivals, Told};
use crate::inbox::receipts::Receipts;
use crate::inbox::tell::Counters;
use crate::inbox::{Inbox, Parts};
use crate::kept::Kept;
use crate::limit::{Limits, UserLimit};
use crate::live::Live;
use crate::lookup::Lookup;
use crate::members::Membership;
use crate::metrics::Metrics;
use crate::outgoing::Outgoing;
use crate::pipeline::{Pipeline, Stages};
use crate::presence::{Company, Presence};
use crate::profiles::Profiles;
use crate::publish::Publish;
use crate::relations::Relations;
use crate::relist::{Lists, Relist};
use crate::resume::Resume;
use crate::retry::Retry;
use crate::rooms::Rooms;
use crate::sessions::{SessionLimits, Sessions};
use crate::stamps::Stamps;
use crate::stored::Stored;
use crate::typing::Typing;
use crate::{Gateway, presence, remote};

/// How long Kafka's administration may take for one request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last answers have to leave before connections are closed.
const ANSWERS_OUT: Duration = Duration::from_millis(200);
/// Between attempts to create what is missing in the other servers.
const PREPARE_AGAIN: Duration = Duration::from_secs(2);

/// Runs a gateway until the token is cancelled, then drains it.
///
/// The other servers may be away: the gateway starts without them and waits.
pub async fn run(config: Config, clients: TcpListener, operators: TcpListener, stop: CancellationToken) -> Result<()> {
    let (own, layout) = (&config.own, &config.cache);
    let registry = ops::registry("gateway").context("metrics")?;
    let metrics = Metrics::register(&registry).context("metrics")?;
    let cache_metrics = RedisMetrics::register_with(&registry, layout.cache_metrics_enabled).context("metrics")?;
    let breaker_metrics = BreakerMetrics::register(&registry).context("metrics")?;

    // The other servers.
    let keys = Keys::new(
        &layout.cache_key_prefix,
        &layout.cache_key_version,
        &layout.cache_key_separator,
        layout.cache_max_key_length,
    )
    .context("CACHE_KEY_*")?;
    let servers = &config.servers;
    let cache = Connection::open_at("cache", &servers.redis_url(), servers.redis_cluster(), cache_metrics.clone())
        .context("REDIS_URL, REDIS_CLUSTER_NODES")?;
    let (url, cluster) = (own.queue_url(servers), own.queue_cluster(servers));
    let queue = Connection::open_at("queue", &url, cluster, cache_metrics.clone())
        .context("REDIS_QUEUE_URL, REDIS_QUEUE_CLUSTER_NODES")?;
    let unreadable = metrics.unreadable.clone();
    let store = Store::new(StoreSettings {
        on_unreadable: Some(Arc::new(move || unreadable.inc())),
        ..StoreSettings::new(config.servers.mongo_url.reveal(), &config.servers.mongo_db)
    })
    .await
    .context("MONGO_URL")?;
    let kafka = config.kafka();
    let publisher = Publisher::new(&kafka).context("KAFKA_*")?;
    let cache_breaker = Breaker::new("redis", config.cache_breaker(), Some(&breaker_metrics));
    let kafka_breaker = Breaker::new("kafka", config.kafka_breaker(), Some(&breaker_metrics));
    let mongo_breaker = Breaker::new("mongodb", config.mongo_breaker(), Some(&breaker_metrics));

    // The parts of the journey.
    let origin = Origin::random();
    let sizes = RecentSettings {
        max: layout.recent_max_messages,
        window: layout.resend_window_messages,
        ttl: layout.recent_ttl.0,
    };
    let recent = RecentList::new(cache.clone(), keys.clone(), sizes, origin);
    // What this one announces comes back to this gateway's own sockets, which were not told directly.
    let healed = RecentList::new(cache.clone(), keys.clone(), sizes, Origin::random());
    let failed = FailedQueue::new(queue, keys.clone(), own.failed_queue());
    let user_limit = |events| {
        let limit = Limit { events, window: own.window.0 };
        let shared = RateLimiter::new(cache.clone(), keys.clone(), limit).living(layout.cache_rate_limit_ttl.0);
        UserLimit::new(limit, shared, &cache_breaker, own.redis_budget.0)
    };
    let stored = Stored::new(store.clone(), mongo_breaker.clone());
    let settings = ClientSettings {
        budget: own.redis_budget.0,
        batch_size: layout.cache_batch_size,
        max_latency: layout.cache_max_latency.0,
    };
    let client = Client::new(cache.clone(), cache_breaker.clone(), settings);
    let lock_settings = LockSettings {
        ttl: layout.cache_lock_default_ttl.0,
        retry_delay: layout.cache_lock_retry_delay.0,
        max_retries: layout.cache_lock_max_retries,
    };
    let locks = Locks::new(client.clone(), lock_settings, &cache_metrics);
    let aside = Backend::start(client, keys.clone(), layout.cache_stale_marker_ttl.0);
    let profiles = Profiles::new(&aside, stored.clone(), layout.cache_profile_ttl.0);
    let membership = Membership::new(&aside, stored.clone());
    let relations = Relations::new(&aside, stored.clone(), own.permissions, metrics.clone());
    let limits = Limits::new(own, user_limit(own.event_limit), metrics.clone());
    let admission =
        Admission::new(membership.clone(), relations.clone(), user_limit(own.message_limit), metrics.clone());
    let sockets = Sockets::new(metrics.clone());
    let announcer = Announcer::new(cache.clone(), keys.clone(), origin);
    let (live, outbox) = Live::new(sockets.clone(), announcer, metrics.clone());
    let online = Online::new(
        cache.clone(),
        keys.clone(),
        // What has expired is swept up to a second later, and is still to be told within the setting's time.
        PresenceSettings { life: layout.cache_presence_ttl.0 - 2 * presence::SWEEP, grace: presence::GRACE },
    );
    let (presence, keeper, teller) = Presence::new(
        online,
        (cache_breaker.clone(), own.redis_budget.0),
        origin,
        sockets.clone(),
        (
            Company { stored: stored.clone(), membership: membership.clone(), relations: relations.clone() },
            live.clone(),
        ),
        metrics.clone(),
    );
    let operations = ClientSettings {
        budget: own.redis_budget.0,
        batch_size: layout.cache_batch_size,
        max_latency: layout.cache_max_latency.0,
    };
    let client = Client::new(cache.clone(), cache_breaker.clone(), operations);
    let typing = Typing::new(live.clone(), admission.clone(), (client, keys.clone()), layout.cache_typing_ttl.0);
    let relist = Relist::new(metrics.clone());
    let (channels, heard) =
        Channels::start(cache.clone(), keys.clone(), &format!("{:016x}", origin.0), ChannelSettings::default());
    let rooms = Rooms::new(sockets.clone(), channels.clone(), membership.clone(), metrics.clone());
    let (arrivals, told_of) = Arrivals::new(metrics.clone());
    let counters = Counters::new(sockets.clone());
    let acts = Acts::new(stored.clone());
    let group_changes = GroupChanges::new(cache.clone(), keys.clone(), origin);
    let pipeline = Pipeline::start(
        Stages {
            admission: admission.clone(),
            recent: recent.clone(),
            cache_breaker: cache_breaker.clone(),
            cache_budget: own.redis_budget.0,
            cache_deadline: config.cache_deadline(),
            mode: own.delivery_mode,
            sockets: sockets.clone(),
            publish: Publish::new(publisher.clone(), kafka_breaker.clone(), failed.clone(), metrics.clone()),
            relist: relist.clone(),
            arrivals: arrivals.clone(),
            counters: counters.clone(),
            acts: acts.clone(),
            metrics: metrics.clone(),
        },
        own.max_sends_in_flight,
    );
    let history = History::new(Sources {
        recent: healed.clone(),
        cache_breaker: cache_breaker.clone(),
        failed: failed.clone(),
        store: stored.clone(),
        verify_after: own.recent_verify.0,
        recent_max: sizes.max,
        failed_empty_at: std::sync::Mutex::default(),
        repairs: Sources::repair_slots(),
        metrics: metrics.clone(),
    });
    let lookup = Lookup::new(&aside, stored.clone(), history.clone(), admission.clone(), own.message_cache_ttl.0);
    let life = InboxLife { unread: own.unread_ttl.0, list: own.conversations_ttl.0 };
    let inboxes = Inboxes::new(cache.clone(), keys.clone(), life);
    let receipts = Receipts::new(live.clone(), metrics.clone());
    let inbox = Inbox::new(Parts {
        cached: inboxes.clone(),
        recent: recent.clone(),
        cache_breaker: cache_breaker.clone(),
        store: stored.clone(),
        history: history.clone(),
        membership: membership.clone(),
        relations: relations.clone(),
        presence: presence.clone(),
        live: live.clone(),
        receipts: receipts.clone(),
        acts: acts.clone(),
        metrics: metrics.clone(),
    });
    let (who, told) = ((membership.clone(), relations.clone()), (rooms.clone(), arrivals.clone(), inbox.clone()));
    let groups = Groups::new(stored.clone(), who, limits.clone(), told, acts);
    let told =
        Told { cached: inboxes, breaker: cache_breaker.clone(), membership: membership.clone(), store: store.clone() };
    let resume = Resume { recent: recent.clone(), breaker: cache_breaker.clone(), admission: admission.clone() };
    let draining = CancellationToken::new();
    let gateway = Arc::new(Gateway {
        tokens: Verifier::new(own).map_err(|error| anyhow!(error))?,
        stamps: Stamps::default(),
        admission,
        limits,
        pipeline: pipeline.clone(),
        history,
        lookup,
        profiles: profiles.clone(),
        inbox: inbox.clone(),
        resume,
        membership,
        groups,
        relations,
        sockets: sockets.clone(),
        rooms: rooms.clone(),
        live,
        presence: presence.clone(),
        typing: typing.clone(),
        channels,
        metrics: metrics.clone(),
        send_deadline: own.send_deadline.0,
        history_default_limit: own.history_default_limit,
        draining: draining.clone(),
    });
    let health = Arc::new(GatewayHealth::new(
        pipeline.clone(),
        Breakers { kafka: kafka_breaker, mongodb: mongo_breaker, cache: cache_breaker.clone() },
        metrics.clone(),
        own.failed_queue_required,
        draining.clone(),
    ));

    // Everything that runs beside the requests, until the end.
    let beside = Beside::default();
    let ended = beside.ended.clone();
    beside.run("pipeline", {
        let (pipeline, ended) = (pipeline.clone(), ended.clone());
        async move { ended.run_until_cancelled(pipeline.ended()).await }
    });
    beside.run(
        "remote",
        ended.clone().run_until_cancelled_owned(remote::run(
            heard,
            origin,
            sockets.clone(),
            rooms.clone(),
            counters.clone(),
            presence,
        )),
    );
    beside.run("rooms", rooms.run(group_changes, ended.clone()));
    beside.run("sockets", sockets.clone().look_after(ended.clone()));
    beside.run("live", outbox.run(cache_breaker.clone(), own.redis_budget.0, ended.clone()));
    beside.run("arrivals", told_of.run(told, ended.clone()));
    beside.run("receipts", receipts.run(ended.clone()));
    beside.run("counters", counters.run(inbox, ended.clone()));
    beside.run("presence", keeper.run(layout.cache_presence_ttl.0, ended.clone()));
    beside.run("presence events", teller.run(ended.clone()));
    beside.run("typing", typing.run(ended.clone()));
    let kept = Kept::new(sockets.clone(), stored);
    let lists = Lists { take_back: recent, add: healed, kept, arrivals, sockets: sockets.clone() };
    let relisting = relist.clone().run(lists, cache.clone(), cache_breaker.clone(), own.redis_budget.0, ended.clone());
    beside.run("relist", relisting);
    beside.run("producer", {
        let (publisher, rebuilds) = (publisher.clone(), metrics.producer_rebuilds.clone());
        ended.clone().run_until_cancelled_owned(async move { publisher.keep_alive(|| rebuilds.inc()).await })
    });
    beside.run("retry", Retry::new(failed.clone(), publisher.clone(), own.replay_rate, metrics).run(ended.clone()));
    if layout.cache_warmup_enabled {
        beside.tasks.spawn(ended.clone().run_until_cancelled_owned(profiles.warm_up(store.clone(), locks)));
    }
    beside.tasks.spawn(prepare(kafka, publisher.clone(), store.clone(), ended.clone()));
    beside.run("health", {
        let (health, ended) = (health.clone(), ended.clone());
        let probed = Probed { publisher: publisher.clone(), store, cache, queue: failed };
        async move { health.probe(probed, ended).await }
    });
    let operated = (config.connections.operators(), gateway.metrics.operators.clone());
    beside.run("operators", ops::serve(operators, registry, health, operated, ended.clone()));
    let outgoing =
        Outgoing::new(own.socket_buffer_bytes, own.outgoing_bytes_max, gateway.metrics.outgoing_bytes.clone());
    let limits = SessionLimits {
        ping_interval: own.ping_interval.0,
        ping_timeout: own.ping_timeout.0,
        connect: own.connect_timeout.0,
        overflow: own.socket_overflow.0,
    };
    let sessions = Sessions::new(outgoing, limits, gateway.metrics.clone());
    let release = Box::new({
        let gateway = gateway.clone();
        move |user: &UserId, socket: Sid| gateway.release(user, socket)
    });
    let (client_metrics, accepted) = (gateway.metrics.clients.clone(), config.clients());
    let (io, app) = app::app(gateway, sessions.clone(), &config);
    sessions.served_by(app.clone());
    beside.run("sessions", sessions.supervise(release, ended.clone()));
    let closed = CancellationToken::new();
    let serving = tokio::spawn({
        let closed = closed.clone();
        serve::serve(clients, app, accepted, client_metrics, closed)
    });

    // Without a part a gateway would miss something for good: another process starts whole.
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        () = beside.broken.cancelled() => Some("a part of the gateway ended unexpectedly"),
    };

    // The end: refuse new sends, answer those in progress, let the connections go, leave nothing in Kafka's client.
    let grace = config.servers.shutdown_grace.0;
    let told_until = tokio::time::Instant::now() + grace * 5 / 8;
    draining.cancel();
    let drain = async {
        pipeline.drained(own.max_sends_in_flight).await;
        // The answers are given; now they have to reach the wire.
        tokio::time::sleep(ANSWERS_OUT).await;
        closed.cancel();
        io.close().await;
        let _ = serving.await;
    };
    if tokio::time::timeout(grace / 2, drain).await.is_err() {
        tracing::warn!("connections were still open when their time was up");
    }
    // Above all what has to be taken back: should the cache return in time, it does not stay listed.
    let _ = tokio::time::timeout_at(told_until, relist.emptied()).await;
    relist.give_up();
    ended.cancel();
    beside.tasks.close();
    if tokio::time::timeout(grace / 4, beside.tasks.wait()).await.is_err() {
        tracing::warn!("background work was still going on when its time was up");
    }
    let unreported = publisher.flush(grace / 16).await;
    if unreported > 0 {
        tracing::warn!(unreported, "kafka's client still held records, none of which was acknowledged to a sender");
    }
    match failure {
        Some(reason) => Err(anyhow!(reason)),
        None => Ok(()),
    }
}

/// What runs beside the requests.
#[derive(Default)]
struct Beside {
    tasks: TaskTracker,
    /// Cancelled at the end.
    ended: CancellationToken,
    /// Cancelled when something ended before that.
    broken: CancellationToken,
}

impl Beside {
    /// Runs something that must not end before the end, not by a panic either.
    fn run<T: Send + 'static>(&self, name: &'static str, work: impl Future<Output = T> + Send + 'static) {
        let (ended, broken) = (self.ended.clone(), self.broken.clone());
        self.tasks.spawn(async move {
            // A task of its own, so that its panic is seen.
            let _ = tokio::spawn(work).await;
            if !ended.is_cancelled() {
                tracing::error!(name, "a part of the gateway ended unexpectedly");
                broken.cancel();
            }
        });
    }
}

/// Creates the topics, or waits for somebody who may, and reports them as soon as the main one can be described: an unread
/// `max.message.bytes` would leave too large records to be refused by the broker, one delivery timeout after the other.
async fn described(admin: &Admin) -> TopicsReport {
    let mut refused = false;
    loop {
        let report = match admin.ensure_topics().await {
            Err(error @ AdminError::Refused { .. }) => {
                if !refused {
                    tracing::warn!(%error, "topics can't be created; they must be there already");
                    refused = true;
                }
                admin.check_topics().await
            }
            report => report,
        };
        match report {
            Ok(report) if report.main.partitions > 0 => return report,
            Ok(_) => {}
            Err(error) => tracing::info!(%error, "waiting for kafka"),
        }
        tokio::time::sleep(PREPARE_AGAIN).await;
    }
}

/// Creates what is missing in the other servers, as soon as they are there.
async fn prepare(kafka: KafkaSettings, publisher: Publisher, store: Store, stop: CancellationToken) {
    let topics = async {
        let admin = match Admin::new(&kafka, ADMIN_TIMEOUT) {
            Ok(admin) => admin,
            Err(error) => return tracing::error!(%error, "topics can't be looked after"),
        };
        let report = described(&admin).await;
        report.warnings.iter().for_each(|warning| tracing::warn!(warning, "topic settings"));
        if let Some(bytes) = report.main.max_message_bytes {
            publisher.limit_records(bytes);
        }
    };
    let indexes = async {
        while let Err(error) = store.ensure_indexes().await {
            tracing::info!(%error, "waiting for mongodb");
            tokio::time::sleep(PREPARE_AGAIN).await;
        }
    };
    stop.run_until_cancelled(async { tokio::join!(topics, indexes) }).await;
}
