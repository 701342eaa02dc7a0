use std::time::Duration;

use holdfast_bench::load::Load;
use holdfast_bench::peer::Peer;
use tokio::time::sleep;

const SECRET: &str = "secret";

#[tokio::test]
async fn both_loops_count_every_answer() {
    let peer = Peer::start().await.unwrap();
    let load = Load::connect(&peer.url(), SECRET, 4, 100).await.unwrap();
    let closed = load.closed(2, Duration::from_millis(300)).await.unwrap();
    assert!(closed.messages > 50 && closed.errors.is_empty(), "{closed:?}");
    assert!(
        closed.answer.p50 > 0.0 && closed.answer.p50 <= closed.answer.p99 && closed.answer.p99 <= closed.answer.max
    );
    let open = load.open(200.0, Duration::from_millis(500)).await.unwrap();
    assert_eq!(open.messages, 100);
    // The echo server has no ids, and delivers to both.
    assert!(load.acknowledged().is_empty());
    assert_eq!((open.undelivered, open.redelivered), (0, 0));
    assert!(open.delivery.max > 0.0 && open.delivery.max < 5000.0, "{open:?}");
}

#[tokio::test]
async fn the_open_loop_charges_a_stall_for_all_that_it_held_up() {
    let peer = Peer::start().await.unwrap();
    let load = Load::connect(&peer.url(), SECRET, 2, 100).await.unwrap();
    let stall = async {
        sleep(Duration::from_millis(300)).await;
        peer.program().freeze().unwrap();
        sleep(Duration::from_millis(600)).await;
        peer.program().thaw().unwrap();
    };
    let (phase, ()) = tokio::join!(load.open(100.0, Duration::from_secs(1)), stall);
    let phase = phase.unwrap();
    assert_eq!(phase.messages, 100);
    // 60 of 100 sends fell into the stall, so half of all waited.
    assert!(phase.answer.max > 500.0 && phase.answer.p50 > 50.0, "{phase:?}");
}

#[tokio::test]
async fn a_connection_that_ends_is_counted_as_an_error() {
    let peer = Peer::start().await.unwrap();
    let load = Load::connect(&peer.url(), SECRET, 2, 100).await.unwrap();
    let kill = async {
        sleep(Duration::from_millis(100)).await;
        peer.program().kill9().await.unwrap();
    };
    let (phase, ()) = tokio::join!(load.closed(1, Duration::from_secs(5)), kill);
    let phase = phase.unwrap();
    assert_eq!(phase.errors.get("DISCONNECTED"), Some(&2), "{phase:?}");
    assert!(phase.seconds < 5.0);
}
