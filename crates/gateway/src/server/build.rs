//! The parts of the gateway, each made from the other servers' clients and from parts made before it.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use holdfast_cache::channels::ChannelSettings;
use holdfast_cache::inbox::InboxLife;
use holdfast_cache::presence::{Online, PresenceSettings};
use holdfast_cache::rate_limit::{Limit, RateLimiter};
use holdfast_cache::recent::RecentSettings;
use holdfast_cache::{Announcer, ChannelEvent, Channels, Inboxes, Origin, RecentList};
use holdfast_failed_queue::FailedQueue;
use holdfast_keys::Keys;
use holdfast_redis::aside::Backend;
use holdfast_redis::{Client, ClientSettings, LockSettings, Locks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::Servers;
use crate::access::activity::GroupActivity;
use crate::access::authorize::Admission;
use crate::access::membership::Membership;
use crate::access::relationships::Relations;
use crate::auth::Verifier;
use crate::config::Config;
use crate::deliver::ephemeral::{EphemeralEvents, EphemeralPublisher};
use crate::deliver::rooms::Rooms;
use crate::deliver::sockets::Sockets;
use crate::gateway::Gateway;
use crate::groups::Groups;
use crate::guarded_store::GuardedStore;
use crate::health::{Breakers, GatewayHealth};
use crate::inbox::receipts::Receipts;
use crate::inbox::unread::UnreadNotifier;
use crate::inbox::updates::{self, InboxUpdates};
use crate::inbox::{Inbox, Parts};
use crate::limits::Limits;
use crate::limits::user::UserLimit;
use crate::metrics::Metrics;
use crate::presence::audience::PresenceAudience;
use crate::presence::notifier::PresenceNotifier;
use crate::presence::typing::Typing;
use crate::presence::writer::PresenceWriter;
use crate::presence::{self, Presence};
use crate::profiles::Profiles;
use crate::read::history::{History, Sources};
use crate::read::lookup::Lookup;
use crate::read::resume::Resume;
use crate::send::pipeline::Pipeline;
use crate::send::publish::Publish;
use crate::send::recent_retry::RecentRetryQueue;
use crate::send::stages::Stages;
use crate::send::timestamps::TimestampAllocator;

/// The gateway as requests see it, and what is to be spawned.
pub(super) struct Built {
    pub(super) gateway: Arc<Gateway>,
    pub(super) health: Arc<GatewayHealth>,
    pub(super) pipeline: Pipeline,
    pub(super) recent_retry: RecentRetryQueue,
    pub(super) background: Background,
}

/// The parts that run in the background.
pub(super) struct Background {
    pub(super) origin: Origin,
    pub(super) heard: mpsc::Receiver<ChannelEvent>,
    pub(super) lists: ListsByOrigin,
    pub(super) failed: FailedQueue,
    pub(super) stored: GuardedStore,
    pub(super) membership: Membership,
    pub(super) inboxes: Inboxes,
    pub(super) locks: Locks,
    pub(super) ephemeral_publisher: EphemeralPublisher,
    pub(super) presence_writer: PresenceWriter,
    pub(super) presence_notifier: PresenceNotifier,
    pub(super) updates: InboxUpdates,
    pub(super) inbox_updater: updates::InboxUpdater,
    pub(super) receipts: Receipts,
    pub(super) unread_notifier: UnreadNotifier,
}

/// The recent list under two origins.
#[derive(Clone)]
pub(super) struct ListsByOrigin {
    /// The gateway's: its sockets are served directly, so they skip what is announced under it.
    pub(super) own: RecentList,
    /// Another: what is announced under it reaches this gateway's sockets too, which were not served directly.
    pub(super) healing: RecentList,
}

/// What decides who may do what, and what reads the store for it.
struct AccessParts {
    client: Client,
    aside: Backend<Keys>,
    stored: GuardedStore,
    membership: Membership,
    relations: Relations,
    activity: GroupActivity,
    limits: Arc<Limits>,
    admission: Admission,
}

/// What reaches clients.
struct DeliveryParts {
    origin: Origin,
    sockets: Sockets,
    channels: Channels,
    heard: mpsc::Receiver<ChannelEvent>,
    rooms: Rooms,
    ephemeral: EphemeralEvents,
    ephemeral_publisher: EphemeralPublisher,
    presence: Presence,
    presence_writer: PresenceWriter,
    presence_notifier: PresenceNotifier,
}

/// What clients read.
struct ReadParts {
    lists: ListsByOrigin,
    failed: FailedQueue,
    history: History,
    inboxes: Inboxes,
    receipts: Receipts,
    inbox: Inbox,
}

/// The write path, and what it leaves to be done later.
struct WriteParts {
    updates: InboxUpdates,
    inbox_updater: updates::InboxUpdater,
    unread_notifier: UnreadNotifier,
    recent_retry: RecentRetryQueue,
    pipeline: Pipeline,
}

/// Makes all parts.
pub(super) fn build(
    config: &Config,
    servers: &Servers,
    metrics: &Metrics,
    draining: &CancellationToken,
) -> Result<Built> {
    let (own, layout) = (&config.own, &config.cache);
    let Servers { keys, cache_breaker, .. } = servers;
    let access = access(config, servers, metrics);
    let delivery = delivery(config, servers, metrics, &access);
    let read = read(config, servers, metrics, &access, &delivery);
    let write = write(config, servers, metrics, &access, &delivery, &read);
    let AccessParts { client, aside, stored, membership, relations, activity, limits, admission } = access;
    let DeliveryParts { sockets, rooms, ephemeral, presence, .. } = delivery;
    let ReadParts { lists, failed, history, inboxes, receipts, inbox } = read;

    let WriteParts { updates, inbox_updater, unread_notifier, recent_retry, pipeline } = write;
    let groups = Groups::new(
        stored.clone(),
        (membership.clone(), relations.clone()),
        limits.clone(),
        (rooms.clone(), updates.clone(), inbox.clone()),
        activity,
    );
    let typing_cache = (client.clone(), keys.clone());
    let gateway = Gateway {
        tokens: Verifier::new(own).map_err(|error| anyhow!(error))?,
        timestamps: TimestampAllocator::default(),
        limits,
        pipeline: pipeline.clone(),
        lookup: Lookup::new(&aside, stored.clone(), history.clone(), admission.clone(), own.message_cache_ttl.0),
        history,
        profiles: Profiles::new(&aside, stored.clone(), layout.cache_profile_ttl.0),
        inbox,
        resume: Resume { recent: lists.own.clone(), breaker: cache_breaker.clone(), admission: admission.clone() },
        groups,
        relations,
        sockets,
        rooms,
        presence,
        typing: Typing::new(ephemeral, admission.clone(), typing_cache, layout.cache_typing_ttl.0),
        admission,
        channels: delivery.channels,
        metrics: metrics.clone(),
        send_deadline: own.send_deadline.0,
        history_default_limit: own.history_default_limit,
        draining: draining.clone(),
    };
    let background = Background {
        origin: delivery.origin,
        heard: delivery.heard,
        lists,
        failed,
        stored,
        membership,
        inboxes,
        locks: Locks::new(client, lock_settings(config), &servers.cache_metrics),
        ephemeral_publisher: delivery.ephemeral_publisher,
        presence_writer: delivery.presence_writer,
        presence_notifier: delivery.presence_notifier,
        updates,
        inbox_updater,
        receipts,
        unread_notifier,
    };
    let health = Arc::new(health(config, servers, metrics, draining, &pipeline));
    Ok(Built { gateway: Arc::new(gateway), health, pipeline, recent_retry, background })
}

fn access(config: &Config, servers: &Servers, metrics: &Metrics) -> AccessParts {
    let own = &config.own;
    let stored = GuardedStore::new(servers.store.clone(), servers.mongo_breaker.clone());
    let client = Client::new(servers.cache.clone(), servers.cache_breaker.clone(), client_settings(config));
    let aside = Backend::start(client.clone(), servers.keys.clone(), config.cache.cache_stale_marker_ttl.0);
    let membership = Membership::new(&aside, stored.clone());
    let relations = Relations::new(&aside, stored.clone(), own.permissions, metrics.clone());
    let activity = GroupActivity::new(stored.clone());
    let limits = Limits::new(own, user_limit(config, servers, own.event_limit), metrics.clone());
    let message_limit = user_limit(config, servers, own.message_limit);
    let admission = Admission::new(membership.clone(), relations.clone(), message_limit, metrics.clone());
    AccessParts { client, aside, stored, membership, relations, activity, limits, admission }
}

fn delivery(config: &Config, servers: &Servers, metrics: &Metrics, access: &AccessParts) -> DeliveryParts {
    let Servers { keys, cache, cache_breaker, .. } = servers;
    let AccessParts { stored, membership, relations, .. } = access;
    let origin = Origin::random();
    let sockets = Sockets::new(metrics.clone());
    let (channels, heard) =
        Channels::start(cache.clone(), keys.clone(), &format!("{:016x}", origin.0), ChannelSettings::default());
    let rooms = Rooms::new(sockets.clone(), channels.clone(), membership.clone(), metrics.clone());
    let announcer = Announcer::new(cache.clone(), keys.clone(), origin);
    let (ephemeral, ephemeral_publisher) = EphemeralEvents::new(sockets.clone(), announcer, metrics.clone());
    let audience =
        PresenceAudience { stored: stored.clone(), membership: membership.clone(), relations: relations.clone() };
    let (presence, presence_writer, presence_notifier) = Presence::new(
        online(config, servers),
        (cache_breaker.clone(), config.own.redis_budget.0),
        origin,
        sockets.clone(),
        (audience, ephemeral.clone()),
        metrics.clone(),
    );
    DeliveryParts {
        origin,
        sockets,
        channels,
        heard,
        rooms,
        ephemeral,
        ephemeral_publisher,
        presence,
        presence_writer,
        presence_notifier,
    }
}

fn read(
    config: &Config,
    servers: &Servers,
    metrics: &Metrics,
    access: &AccessParts,
    delivery: &DeliveryParts,
) -> ReadParts {
    let (own, layout) = (&config.own, &config.cache);
    let Servers { keys, cache, cache_breaker, .. } = servers;
    let settings = RecentSettings {
        max: layout.recent_max_messages,
        window: layout.resend_window_messages,
        ttl: layout.recent_ttl.0,
        ..RecentSettings::default()
    };
    let recent = |origin| RecentList::new(cache.clone(), keys.clone(), settings, origin);
    let lists = ListsByOrigin { own: recent(delivery.origin), healing: recent(Origin::random()) };
    let failed = FailedQueue::new(servers.queue.clone(), keys.clone(), own.failed_queue());
    let history = History::new(Sources {
        recent: lists.healing.clone(),
        cache_breaker: cache_breaker.clone(),
        failed: failed.clone(),
        store: access.stored.clone(),
        verify_after: own.recent_verify.0,
        recent_max: settings.max,
        repairs: Sources::repair_slots(),
        metrics: metrics.clone(),
    });
    let life = InboxLife { unread: own.unread_ttl.0, list: own.conversations_ttl.0 };
    let inboxes = Inboxes::new(cache.clone(), keys.clone(), life);
    let receipts = Receipts::new(delivery.ephemeral.clone(), metrics.clone());
    let inbox = Inbox::new(Parts {
        cached: inboxes.clone(),
        recent: lists.own.clone(),
        cache_breaker: cache_breaker.clone(),
        store: access.stored.clone(),
        history: history.clone(),
        membership: access.membership.clone(),
        relations: access.relations.clone(),
        presence: delivery.presence.clone(),
        ephemeral: delivery.ephemeral.clone(),
        receipts: receipts.clone(),
        activity: access.activity.clone(),
        metrics: metrics.clone(),
    });
    ReadParts { lists, failed, history, inboxes, receipts, inbox }
}

fn write(
    config: &Config,
    servers: &Servers,
    metrics: &Metrics,
    access: &AccessParts,
    delivery: &DeliveryParts,
    read: &ReadParts,
) -> WriteParts {
    let (publisher, kafka_breaker) = (servers.publisher.clone(), servers.kafka_breaker.clone());
    let (updates, inbox_updater) = InboxUpdates::new(metrics.clone());
    let unread_notifier = UnreadNotifier::new(delivery.sockets.clone());
    let recent_retry = RecentRetryQueue::new(metrics.clone());
    let stages = Stages {
        admission: access.admission.clone(),
        recent: read.lists.own.clone(),
        cache_breaker: servers.cache_breaker.clone(),
        cache_budget: config.own.redis_budget.0,
        cache_deadline: config.cache_deadline(),
        mode: config.own.delivery_mode,
        sockets: delivery.sockets.clone(),
        publish: Publish::new(publisher, kafka_breaker, read.failed.clone(), metrics.clone()),
        recent_retry: recent_retry.clone(),
        updates: updates.clone(),
        unread_notifier: unread_notifier.clone(),
        activity: access.activity.clone(),
        metrics: metrics.clone(),
    };
    let pipeline = Pipeline::start(stages, config.own.max_sends_in_flight);
    WriteParts { updates, inbox_updater, unread_notifier, recent_retry, pipeline }
}

fn health(
    config: &Config,
    servers: &Servers,
    metrics: &Metrics,
    draining: &CancellationToken,
    pipeline: &Pipeline,
) -> GatewayHealth {
    let breakers = Breakers {
        kafka: servers.kafka_breaker.clone(),
        mongodb: servers.mongo_breaker.clone(),
        cache: servers.cache_breaker.clone(),
    };
    let queue_required = config.own.failed_queue_required;
    GatewayHealth::new(pipeline.clone(), breakers, metrics.clone(), queue_required, draining.clone())
}

fn client_settings(config: &Config) -> ClientSettings {
    ClientSettings {
        budget: config.own.redis_budget.0,
        batch_size: config.cache.cache_batch_size,
        max_latency: config.cache.cache_max_latency.0,
    }
}

fn lock_settings(config: &Config) -> LockSettings {
    LockSettings {
        ttl: config.cache.cache_lock_default_ttl.0,
        retry_delay: config.cache.cache_lock_retry_delay.0,
        max_retries: config.cache.cache_lock_max_retries,
    }
}

fn online(config: &Config, servers: &Servers) -> Online {
    // A sweep removes what has expired up to a second later, and its audience is notified within the setting's time all the same.
    let life = config.cache.cache_presence_ttl.0 - 2 * presence::SWEEP;
    Online::new(servers.cache.clone(), servers.keys.clone(), PresenceSettings { life, grace: presence::GRACE })
}

fn user_limit(config: &Config, servers: &Servers, events: u32) -> Option<UserLimit> {
    let limit = Limit { events, window: config.own.window.0 };
    let shared = RateLimiter::new(servers.cache.clone(), servers.keys.clone(), limit)
        .living(config.cache.cache_rate_limit_ttl.0);
    UserLimit::new(limit, shared, &servers.cache_breaker, config.own.redis_budget.0)
}
