use std::time::{Duration, Instant};

use holdfast_redis::{Connection, RedisError, RedisMetrics};
use holdfast_testkit::{Proxy, Role, free_port, until_with};

use crate::support::{BUDGET, connect, raw, server};

#[tokio::test]
async fn a_server_that_is_away_is_found_when_it_comes() {
    let port = free_port().unwrap();
    let connection = connect(&format!("redis://127.0.0.1:{port}/"));
    let error = connection.ping(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, RedisError::Unavailable { maybe_applied: false, .. }), "{error:?}");
    assert!(!connection.is_connected());
    let options = holdfast_testkit::RedisOptions { port: Some(port), ..Default::default() };
    let _server = holdfast_testkit::Redis::start(options).await.unwrap();
    connection.ping(BUDGET).await.unwrap();
    assert!(connection.is_connected());
}

#[tokio::test]
async fn an_idle_connection_that_ends_is_replaced_before_anybody_asks() {
    let server = server(Role::Cache, &[]).await;
    let connection = connect(&server.url());
    connection.ping(BUDGET).await.unwrap();
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    let mut raw = raw(&server.url()).await;
    until_with("it is connected again", &mut raw, async |raw| {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(raw).await.unwrap();
        clients.lines().count() == 2
    })
    .await;
    connection.ping(BUDGET).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_vanished_without_a_word_is_given_up() {
    let server = server(Role::Cache, &[]).await;
    let proxy = Proxy::start(server.port()).await.unwrap();
    let connection = connect(&server.url_at(proxy.port()));
    connection.ping(BUDGET).await.unwrap();
    proxy.blackhole();
    let started = Instant::now();
    while connection.is_connected() {
        connection.ping(Duration::from_millis(50)).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(120));
    }
    assert!(started.elapsed() > Duration::from_secs(1), "a hiccup is no reason");
    proxy.heal().await.unwrap();
    connection.ping(BUDGET).await.unwrap();
}

#[tokio::test]
async fn a_hiccup_costs_no_connection() {
    let server = server(Role::Cache, &[]).await;
    let connection = connect(&server.url());
    connection.ping(BUDGET).await.unwrap();
    server.freeze().unwrap();
    connection.ping(Duration::from_millis(20)).await.unwrap_err();
    server.thaw().unwrap();
    connection.ping(BUDGET).await.unwrap();
    let mut raw = raw(&server.url()).await;
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw).await.unwrap();
    assert_eq!(clients.lines().count(), 2, "{clients}");
}

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_does_not() {
    let server = server(Role::Cache, &[]).await;
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "chat", "on", ">s3cret", "~*", "&*", "+@all"])
        .query_async(&mut raw)
        .await
        .unwrap();
    let url = |password: &str| format!("redis://chat:{password}@127.0.0.1:{}/", server.port());
    connect(&url("s3cret")).ping(BUDGET).await.unwrap();
    connect(&url("wrong")).ping(Duration::from_millis(300)).await.unwrap_err();
}

#[test]
fn an_address_that_is_none_is_said_so_without_its_password() {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    for url in ["http://user:s3cret@host/", "redis://user:s3cret@host:99999/", "nonsense"] {
        let error = Connection::open("test", url, metrics.clone()).err().unwrap();
        assert!(matches!(error, RedisError::Address(_)));
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    assert!(Connection::open("test", "rediss://host/", metrics).is_ok());
}
