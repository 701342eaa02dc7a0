//! The gateway's settings, read once at start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_breaker::BreakerSettings;
use holdfast_failed_queue::{Durability, FailedQueueSettings};
use holdfast_kafka::KafkaSettings;
use holdfast_kafka::publisher::REPORT_GRACE;
use holdfast_service::serve::{ConnectionLimits, ConnectionSettings};
use holdfast_service::servers::{CacheSettings, ServerSettings};
use holdfast_service::settings::{
    CONFIG_FILE, Effective, List, Millis, PROFILE, Profile, RedisUrl, Seconds, Secret, Setting, SettingsError, Source,
    Value,
};
use ipnet::IpNet;

mod origins;

pub use origins::Origins;

/// The time that a request waits for a newer permission from the store when an old one, or none, will do.
pub(crate) const STALE_WAIT: Duration = Duration::from_millis(50);

/// When a message is shown to its receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Before Kafka has it.
    RealtimeFirst,
    /// Only once it is durable.
    DurableFirst,
}

/// Who may write to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// Everybody to everybody who is not blocked.
    Open,
    /// Friends to friends.
    Friends,
}

/// How the failed queue's durability is known.
#[derive(Debug, Clone, Copy)]
pub struct QueueDurability(pub Durability);

impl Value for QueueDurability {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "checked" => Ok(Self(Durability::Checked)),
            "assumed" => Ok(Self(Durability::Assumed)),
            _ => Err("must be checked or assumed".into()),
        }
    }
}

/// Networks, as addresses with the length of their prefix.
#[derive(Debug, Clone, Default)]
pub struct Networks(pub Vec<IpNet>);

impl Value for Networks {
    fn parse(text: &str) -> Result<Self, String> {
        let network = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let networks: Option<Vec<IpNet>> = parts.map(network).collect();
        networks.map(Self).ok_or_else(|| "must be networks separated by commas, as 10.0.0.0/8,fd00::/8".into())
    }
}

impl Value for DeliveryMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "realtime-first" => Ok(Self::RealtimeFirst),
            "durable-first" => Ok(Self::DurableFirst),
            _ => Err("must be realtime-first or durable-first".into()),
        }
    }
}

impl Value for Permissions {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "friends" => Ok(Self::Friends),
            _ => Err("must be open or friends".into()),
        }
    }
}

holdfast_service::settings! {
    /// What a gateway alone needs.
    pub struct GatewaySettings {
        /// The port for clients.
        port: u16 = "PORT", "3000";
        /// The address for clients.
        bind: IpAddr = "BIND", "0.0.0.0";
        /// The operators' address: metrics and health.
        ops_addr: SocketAddr = "OPS_ADDR", "127.0.0.1:9464";
        /// The shared secret of HS256 tokens, 32 bytes or more.
        jwt_secret: Option<Secret> = "JWT_SECRET", "";
        /// The PEM file of the public key of RS256 or ES256 tokens.
        jwt_public_key_file: Option<PathBuf> = "JWT_PUBLIC_KEY_FILE", "";
        /// The audience that tokens must name.
        jwt_audience: Option<String> = "JWT_AUDIENCE", "";
        /// The issuer that tokens must name.
        jwt_issuer: Option<String> = "JWT_ISSUER", "";
        /// Origins of browsers that may call and connect, as `https://chat.example`, separated by commas; `*` for every one, without
        /// credentials. Pages of the gateway's own host may connect in any case.
        cors_origins: Origins = "CORS_ORIGINS", "", development "*";
        /// The failed queue's Redis. Unset: the cache's, which must then not evict and must keep an append-only file.
        redis_queue_url: Option<RedisUrl> = "REDIS_QUEUE_URL", "";
        /// The failed queue's Redis is a cluster of its own, found by these nodes, `host:port` separated by commas. User, password and TLS are
        /// those of `REDIS_QUEUE_URL`, or else of `REDIS_URL`. Unset: one server at `REDIS_QUEUE_URL`, or whatever the cache is.
        redis_queue_cluster_nodes: List = "REDIS_QUEUE_CLUSTER_NODES", "";
        /// `checked`: the failed queue's persistence and eviction are read from its server; `assumed`: for servers that do not show them.
        failed_queue_durability: QueueDurability = "FAILED_QUEUE_DURABILITY", "checked";
        /// Replicas of the failed queue's Redis that must have a message before it counts as queued; with fewer it is refused. 0: those that are
        /// connected at the moment, which may be none.
        failed_queue_min_replicas: u32 = "FAILED_QUEUE_MIN_REPLICAS", "0";
        /// `true`: a gateway does not become ready while its failed queue's server has settings by which the queue refuses messages (it evicts,
        /// has no append-only file, never syncs it, or does not show them). `false`: it is ready as soon as Kafka answers, and sends are refused at
        /// the next outage of Kafka.
        failed_queue_required: bool = "FAILED_QUEUE_REQUIRED", "true", development "false";
        /// `true`: the gateway serves the chat in the browser at `/`. Outside the development profile a user signs in with a token.
        web_ui: bool = "WEB_UI", "false", development "true";
        /// `realtime-first`: receivers see a message before Kafka has it; `durable-first`: after.
        delivery_mode: DeliveryMode = "DELIVERY_MODE", "realtime-first";
        /// Who may write to whom unless one blocks the other: `open`, everybody to everybody; `friends`, friends to friends.
        permissions: Permissions = "PERMISSIONS", "open";
        /// Milliseconds within which every client event is answered.
        send_deadline: Millis = "SEND_DEADLINE_MS", "4000";
        /// Milliseconds that Kafka has at most to acknowledge a message before it goes to the failed queue; much less where it is plainly away.
        kafka_delivery_timeout: Millis = "KAFKA_DELIVERY_TIMEOUT_MS", "2500";
        /// Milliseconds for which a message waits in the gateway for others that go to Kafka in the same request. An answer takes so much
        /// longer, delivery does not; Kafka takes less CPU for each message.
        kafka_linger: Millis = "KAFKA_LINGER_MS", "5";
        /// Milliseconds that the failed queue has to take a message before it is refused.
        failed_queue_timeout: Millis = "FAILED_QUEUE_TIMEOUT_MS", "1000";
        /// Milliseconds that the cache has to take a step of a send.
        redis_budget: Millis = "REDIS_BUDGET_MS", "50";
        /// Sends in progress at once, of one sender a tenth at most; the next one is refused as `UNAVAILABLE`.
        max_sends_in_flight: usize = "MAX_SENDS_IN_FLIGHT", "10000";
        /// Messages that a user may send in a window; 0 for no limit.
        message_limit: u32 = "MESSAGE_LIMIT", "0";
        /// Other events of one name, and other REST requests, that a user may make in a window, and members that they may add to groups; 0
        /// for no limit.
        event_limit: u32 = "EVENT_LIMIT", "0";
        /// The window of `MESSAGE_LIMIT` and `EVENT_LIMIT`, in seconds.
        window: Seconds = "WINDOW_SECONDS", "10";
        /// Events a second that one connection may send, twice as many after a silence; 0 for no limit.
        socket_events_per_second: u32 = "SOCKET_EVENTS_PER_SECOND", "1000";
        /// Bytes of events a second that one connection may send, twice as many after a silence; 0 for no limit.
        socket_bytes_per_second: u32 = "SOCKET_BYTES_PER_SECOND", "10000000";
        /// Connections that a user may have at once on one gateway; 0 for no limit.
        max_sockets_per_user: usize = "MAX_SOCKETS_PER_USER", "0";
        /// Connections from one address (of IPv6: from one /64) at once on one gateway; 0 for no limit.
        max_sockets_per_address: usize = "MAX_SOCKETS_PER_ADDRESS", "0";
        /// Connections at once on one gateway, of whatever use; one more is closed before it is read.
        max_connections: usize = "MAX_CONNECTIONS", "20000";
        /// Milliseconds between two heartbeats of a Socket.IO connection.
        ping_interval: Millis = "PING_INTERVAL_MS", "25000";
        /// Milliseconds that a client has to answer a heartbeat. One that says nothing for `PING_INTERVAL_MS` and this is disconnected.
        ping_timeout: Millis = "PING_TIMEOUT_MS", "20000";
        /// Milliseconds that a Socket.IO connection may last without a valid token.
        connect_timeout: Millis = "CONNECT_TIMEOUT_MS", "45000";
        /// Bytes that may wait for one Socket.IO connection, and one response beyond them. What finds no room is dropped: an event
        /// leads to a `resync`, a request to a refusal.
        socket_buffer_bytes: usize = "SOCKET_BUFFER_BYTES", "1048576";
        /// Milliseconds after which a Socket.IO connection that has no room all that time is closed.
        socket_overflow: Millis = "SOCKET_OVERFLOW_MS", "10000";
        /// Bytes that may wait for all connections of one gateway together. When three quarters are taken, those that have the most wait
        /// for them are closed.
        outgoing_bytes_max: usize = "OUTGOING_BYTES_MAX", "67108864";
        /// Handshakes a second from one address (of IPv6: from one /64) on one gateway; 0 for no limit.
        handshakes_per_second_per_address: u32 = "HANDSHAKES_PER_SECOND_PER_ADDRESS", "0";
        /// Networks of proxies whose `X-Forwarded-For` is believed, as `10.0.0.0/8,fd00::/8`.
        trusted_proxies: Networks = "TRUSTED_PROXIES", "";
        /// Seconds after which a recent list is compared with the store before it answers alone again.
        recent_verify: Seconds = "RECENT_VERIFY_SECS", "30";
        /// Messages of a history page without `limit`.
        history_default_limit: usize = "HISTORY_DEFAULT_LIMIT", "20";
        /// Messages a second that the retry service replays at most, so that live traffic comes first.
        replay_rate: u32 = "FAILED_QUEUE_REPLAY_RATE", "1000";
        /// Seconds that a message that was looked up by its id is cached; 0: not at all.
        message_cache_ttl: Seconds = "MESSAGE_CACHE_TTL_SECS", "5";
        /// Seconds that a user's unread counts are cached.
        unread_ttl: Seconds = "CACHE_UNREAD_TTL", "60";
        /// Seconds that a user's list of conversations is cached.
        conversations_ttl: Seconds = "CACHE_CONVLIST_TTL", "120";
        /// Failures within the monitoring period that open a breaker.
        cb_failure_threshold: usize = "CACHE_CB_FAILURE_THRESHOLD", "5";
        /// Milliseconds that the cache's breaker stays open before it lets calls probe.
        cb_recovery_timeout: Millis = "CACHE_CB_RECOVERY_TIMEOUT", "60000";
        /// Milliseconds within which failures are counted.
        cb_monitoring_period: Millis = "CACHE_CB_MONITORING_PERIOD", "300000";
        /// Calls that a half-open breaker lets through, all of which must succeed.
        cb_half_open_max_calls: usize = "CACHE_CB_HALF_OPEN_MAX_CALLS", "3";
        /// Milliseconds that Kafka's breaker stays open before it lets messages probe.
        kafka_cb_recovery_timeout: Millis = "KAFKA_CB_RECOVERY_TIMEOUT", "5000";
        /// Milliseconds that MongoDB's breaker stays open before it lets requests probe.
        mongo_cb_recovery_timeout: Millis = "MONGO_CB_RECOVERY_TIMEOUT", "5000";
    }
}

/// All settings of a gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it is run for.
    pub profile: Profile,
    /// The other servers.
    pub servers: ServerSettings,
    /// The cache's layout.
    pub cache: CacheSettings,
    /// What connections may take.
    pub connections: ConnectionSettings,
    /// The gateway's own settings.
    pub own: GatewaySettings,
}

impl GatewaySettings {
    /// The failed queue's address.
    pub fn queue_url(&self, servers: &ServerSettings) -> String {
        self.redis_queue_url.as_ref().map_or_else(|| servers.redis_url(), |url| url.reveal().to_owned())
    }

    /// When the failed queue takes a message.
    pub fn failed_queue(&self) -> FailedQueueSettings {
        FailedQueueSettings {
            timeout: self.failed_queue_timeout.0,
            durability: self.failed_queue_durability.0,
            min_replicas: self.failed_queue_min_replicas,
        }
    }

    /// The failed queue's cluster, if it is one: nodes to find it by.
    pub fn queue_cluster<'a>(&'a self, servers: &'a ServerSettings) -> Option<&'a [String]> {
        match (&*self.redis_queue_cluster_nodes.0, &self.redis_queue_url) {
            (nodes @ [_, ..], _) => Some(nodes),
            ([], Some(_)) => None,
            ([], None) => servers.redis_cluster(),
        }
    }
}

impl Config {
    /// Every setting of the gateway, as documented.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        [&PROFILE, &CONFIG_FILE]
            .into_iter()
            .chain(GatewaySettings::SETTINGS)
            .chain(CacheSettings::SETTINGS)
            .chain(ConnectionSettings::SETTINGS)
            .chain(ServerSettings::SETTINGS)
    }

    /// Reads the settings and checks the relations between them.
    pub fn read(mut source: Source) -> Result<Effective<Self>, SettingsError> {
        let profile = source.profile();
        let servers = ServerSettings::read(&mut source);
        let cache = CacheSettings::read(&mut source);
        let connections = ConnectionSettings::read(&mut source);
        let own = GatewaySettings::read(&mut source);
        if let Some(servers) = &servers {
            check_servers(servers, &mut source);
        }
        if let Some(cache) = &cache {
            cache.check(&mut source);
        }
        if let Some(connections) = &connections {
            connections.check(&mut source);
        }
        if let Some(own) = &own {
            check(own, &mut source);
        }
        let all = servers.zip(cache).zip(connections).zip(own);
        source.finish(all.map(|(((servers, cache), connections), own)| Self {
            profile,
            servers,
            cache,
            connections,
            own,
        }))
    }

    /// What the clients' connections may take.
    pub fn clients(&self) -> ConnectionLimits {
        self.connections.limits(self.own.max_connections)
    }

    /// What the producer is built from.
    pub fn kafka(&self) -> KafkaSettings {
        let (delivery_timeout, linger) = (self.own.kafka_delivery_timeout.0, self.own.kafka_linger.0);
        KafkaSettings { delivery_timeout, linger, ..KafkaSettings::of(&self.servers, "holdfast-gateway") }
    }

    /// The cache's breaker.
    pub fn cache_breaker(&self) -> BreakerSettings {
        BreakerSettings {
            failure_threshold: self.own.cb_failure_threshold,
            recovery_timeout: self.own.cb_recovery_timeout.0,
            monitoring_period: self.own.cb_monitoring_period.0,
            half_open_max_calls: self.own.cb_half_open_max_calls,
        }
    }

    /// How long a send may take until the cache is done with it, if making it durable takes its longest.
    pub fn cache_deadline(&self) -> Duration {
        self.own.send_deadline.0.saturating_sub(STALE_WAIT + durable_within(&self.own))
    }

    /// Kafka's breaker.
    pub fn kafka_breaker(&self) -> BreakerSettings {
        BreakerSettings { recovery_timeout: self.own.kafka_cb_recovery_timeout.0, ..self.cache_breaker() }
    }

    /// MongoDB's breaker.
    pub fn mongo_breaker(&self) -> BreakerSettings {
        BreakerSettings { recovery_timeout: self.own.mongo_cb_recovery_timeout.0, ..self.cache_breaker() }
    }
}

/// What only the servers' own clients can say of their settings.
pub fn check_servers(servers: &ServerSettings, source: &mut Source) {
    servers.check(source);
    KafkaSettings::check(servers, source);
    if let Err(rule) = holdfast_store::check_url(servers.mongo_url.reveal()) {
        source.refuse("MONGO_URL", &rule);
    }
}

/// The longest that making a message durable takes: Kafka does not take it, and the failed queue does at the last moment.
fn durable_within(own: &GatewaySettings) -> Duration {
    own.kafka_delivery_timeout.0 + REPORT_GRACE + own.failed_queue_timeout.0
}

/// The ladder of deadlines, and what else must hold between settings.
fn check(own: &GatewaySettings, source: &mut Source) {
    // A send asks the cache twice, for the limit and for the list, and waits for one batch before its own; and for the store, where
    // it can do without. Behind more batches of a slow cache it goes on without the cache.
    let steps = own.redis_budget.0 * 3 + STALE_WAIT + durable_within(own);
    source.require(
        own.send_deadline.0 >= steps,
        format!(
            "SEND_DEADLINE_MS must be at least {}: KAFKA_DELIVERY_TIMEOUT_MS and {} ms for its report, FAILED_QUEUE_TIMEOUT_MS, three times REDIS_BUDGET_MS, and {} ms for permissions",
            steps.as_millis(),
            REPORT_GRACE.as_millis(),
            STALE_WAIT.as_millis(),
        ),
    );
    source.require(
        own.jwt_secret.is_some() != own.jwt_public_key_file.is_some(),
        "one of JWT_SECRET and JWT_PUBLIC_KEY_FILE must be set",
    );
    source.require(
        own.jwt_secret.as_ref().is_none_or(|secret| secret.reveal().len() >= 32),
        "JWT_SECRET must have 32 bytes or more",
    );
    if own.redis_queue_cluster_nodes.0.iter().any(|node| node.contains('@')) {
        source.refuse("REDIS_QUEUE_CLUSTER_NODES", "must not hold a user or a password");
    }
    source.require((1..=100).contains(&own.history_default_limit), "HISTORY_DEFAULT_LIMIT must be from 1 to 100");
    for (name, value) in [
        ("PING_INTERVAL_MS", own.ping_interval),
        ("PING_TIMEOUT_MS", own.ping_timeout),
        ("CONNECT_TIMEOUT_MS", own.connect_timeout),
        ("SOCKET_OVERFLOW_MS", own.socket_overflow),
    ] {
        source.require(!value.0.is_zero(), format!("{name} must be above 0"));
    }
    source.require(own.max_connections > 0, "MAX_CONNECTIONS must be above 0");
    source.require(own.socket_buffer_bytes >= 65_536, "SOCKET_BUFFER_BYTES must be at least 65536");
    source.require(
        own.outgoing_bytes_max / 4 >= own.socket_buffer_bytes,
        "OUTGOING_BYTES_MAX must be at least four times SOCKET_BUFFER_BYTES",
    );
    source.require(
        own.kafka_linger.0 <= own.kafka_delivery_timeout.0 / 2,
        "KAFKA_LINGER_MS must be at most half of KAFKA_DELIVERY_TIMEOUT_MS",
    );
    source.require(own.max_sends_in_flight > 0, "MAX_SENDS_IN_FLIGHT must be above 0");
    source.require(
        (own.message_limit, own.event_limit) == (0, 0) || own.window.0 > Duration::ZERO,
        "WINDOW_SECONDS must be above 0",
    );
    source.require(
        own.unread_ttl.0 > Duration::ZERO && own.conversations_ttl.0 > Duration::ZERO,
        "CACHE_UNREAD_TTL and CACHE_CONVLIST_TTL must be above 0",
    );
    source.require(own.replay_rate > 0, "FAILED_QUEUE_REPLAY_RATE must be above 0");
}

#[cfg(test)]
mod tests;
