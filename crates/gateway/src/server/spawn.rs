//! Spawns the background tasks and the listeners.

use std::sync::Arc;

use holdfast_cache::groups::GroupChanges;
use holdfast_service::{ops, serve};
use prometheus::Registry;
use socketioxide::SocketIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::app;
use super::build::{Background, Built};
use super::connect::{Servers, prepare};
use super::supervisor::Supervisor;
use crate::config::Config;
use crate::deliver::outgoing::Outgoing;
use crate::deliver::sessions::{SessionLimits, Sessions};
use crate::failed_queue::retry::Retry;
use crate::gateway::Gateway;
use crate::health::Probed;
use crate::inbox::updates::UpdaterParts;
use crate::remote;
use crate::send::recent_retry::RecentLists;
use crate::send::reinstate::Reinstater;
use crate::socketio;

/// The clients' listener.
pub(super) struct Serving {
    io: SocketIo,
    closed: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Serving {
    /// Stops accepting, closes every connection, and waits until they are closed.
    pub(super) async fn close(self) {
        self.closed.cancel();
        self.io.close().await;
        let _ = self.task.await;
    }
}

/// Spawns everything, and serves clients and operators.
pub(super) fn spawn(
    config: &Config,
    servers: Servers,
    built: Built,
    supervisor: &Supervisor,
    registry: Registry,
    (clients, operators): (TcpListener, TcpListener),
) -> Serving {
    let own = &config.own;
    let Built { gateway, health, pipeline, recent_retry, background } = built;
    let Servers { keys, cache, cache_breaker, queue: _, store, kafka, publisher, .. } = servers;
    let Background { origin, heard, lists, failed, stored, membership, inboxes, locks, .. } = background;
    let Background {
        ephemeral_publisher,
        presence_writer,
        presence_notifier,
        updates,
        inbox_updater,
        receipts,
        unread_notifier,
        ..
    } = background;
    let (metrics, sockets, rooms) = (gateway.metrics.clone(), gateway.sockets.clone(), gateway.rooms.clone());

    supervisor.run("pipeline", {
        let ended = supervisor.ended();
        async move { ended.run_until_cancelled(pipeline.ended()).await }
    });
    supervisor.run("remote", {
        let presence = gateway.presence.clone();
        let remote = remote::run(heard, origin, sockets.clone(), rooms.clone(), unread_notifier.clone(), presence);
        supervisor.ended().run_until_cancelled_owned(remote)
    });
    supervisor.run("rooms", rooms.run(GroupChanges::new(cache.clone(), keys, origin), supervisor.ended()));
    supervisor.run("sockets", sockets.clone().maintain(supervisor.ended()));
    supervisor.run(
        "ephemeral events",
        ephemeral_publisher.run(cache_breaker.clone(), own.redis_budget.0, supervisor.ended()),
    );
    let parts = UpdaterParts { cached: inboxes, breaker: cache_breaker.clone(), membership, store: store.clone() };
    supervisor.run("inbox updates", inbox_updater.run(parts, supervisor.ended()));
    supervisor.run("receipts", receipts.run(supervisor.ended()));
    supervisor.run("unread notifier", unread_notifier.run(gateway.inbox.clone(), supervisor.ended()));
    supervisor.run("presence", presence_writer.run(config.cache.cache_presence_ttl.0, supervisor.ended()));
    supervisor.run("presence events", presence_notifier.run(supervisor.ended()));
    supervisor.run("typing", gateway.typing.clone().run(supervisor.ended()));
    let reinstater = Reinstater::new(sockets.clone(), stored);
    let lists = RecentLists { retract: lists.own, add: lists.healing, reinstater, updates, sockets };
    supervisor.run("recent retry", recent_retry.run(lists, cache.clone(), cache_breaker, supervisor.ended()));
    supervisor.run("producer", {
        let (publisher, rebuilds) = (publisher.clone(), metrics.producer_rebuilds.clone());
        let keep_alive = async move { publisher.keep_alive(|| rebuilds.inc()).await };
        supervisor.ended().run_until_cancelled_owned(keep_alive)
    });
    let retry = Retry::new(failed.clone(), publisher.clone(), own.replay_rate, metrics.clone());
    supervisor.run("retry", retry.run(supervisor.ended()));
    if config.cache.cache_warmup_enabled {
        supervisor.run_once(gateway.profiles.clone().warm_up(store.clone(), locks));
    }
    supervisor.run_once(prepare(kafka, publisher.clone(), store.clone(), supervisor.ended()));
    supervisor.run("health", {
        let (health, ended) = (health.clone(), supervisor.ended());
        let probed = Probed { publisher, store, cache, queue: failed };
        async move { health.probe(probed, ended).await }
    });
    let operated = (config.connections.operators(), metrics.operators.clone());
    supervisor.run("operators", ops::serve(operators, registry, health, operated, supervisor.ended()));

    serve_clients(config, gateway, supervisor, clients)
}

/// Serves clients, and ends the sessions that are to be ended.
fn serve_clients(config: &Config, gateway: Arc<Gateway>, supervisor: &Supervisor, clients: TcpListener) -> Serving {
    let (own, metrics) = (&config.own, gateway.metrics.clone());
    let outgoing = Outgoing::new(own.socket_buffer_bytes, own.outgoing_bytes_max, metrics.outgoing_bytes.clone());
    let limits = SessionLimits {
        ping_interval: own.ping_interval.0,
        ping_timeout: own.ping_timeout.0,
        connect: own.connect_timeout.0,
        overflow: own.socket_overflow.0,
    };
    let sessions = Sessions::new(outgoing, limits, metrics.clone());
    let release = Box::new({
        let gateway = gateway.clone();
        move |user: &_, socket| socketio::release(&gateway, user, socket)
    });
    let (io, app) = app::app(gateway, sessions.clone(), config);
    sessions.served_by(app.clone());
    supervisor.run("sessions", sessions.supervise(release, supervisor.ended()));
    let closed = CancellationToken::new();
    let task = tokio::spawn(serve::serve(clients, app, config.clients(), metrics.clients.clone(), closed.clone()));
    Serving { io, closed, task }
}
