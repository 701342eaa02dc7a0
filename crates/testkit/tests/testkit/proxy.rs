//! The line cutter does to a line what its methods say.

use std::io::ErrorKind;
use std::time::Duration;

use holdfast_testkit::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(150);

/// A server that answers every chunk with itself, and tells what it got.
async fn echo() -> (u16, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let _ = sender.send(buffer[..length].to_vec());
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, receiver)
}

async fn start() -> (Proxy, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (port, received) = echo().await;
    (Proxy::start(port).await.unwrap(), received)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    timeout(SOON, stream.read_exact(&mut buffer)).await.expect("an answer in time").unwrap();
    buffer
}

/// Whether the connection has been ended by the other side.
async fn has_ended(stream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, stream.read(&mut [0; 16])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_plain_line_moves_everything_and_passes_the_end_on() {
    let (proxy, _received) = start().await;
    let (mut reader, mut writer) = connect(&proxy).await.into_split();
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    timeout(SOON, reader.read_to_end(&mut got)).await.expect("the end is passed on").unwrap();
    assert!(got == expected);
}

#[tokio::test]
async fn a_cut_line_ends_connections_and_refuses_new_ones_until_healed() {
    let (proxy, _received) = start().await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"a").await.unwrap();
    read(&mut stream, 1).await;
    proxy.cut().await;
    assert!(has_ended(&mut stream).await);
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.heal().await.unwrap();
    let mut stream = connect(&proxy).await;
    stream.write_all(b"b").await.unwrap();
    assert_eq!(read(&mut stream, 1).await, b"b");
}

#[tokio::test]
async fn a_blackhole_accepts_and_delivers_only_once_healed() {
    let (proxy, mut received) = start().await;
    let mut old = connect(&proxy).await;
    old.write_all(b"1").await.unwrap();
    read(&mut old, 1).await;
    assert_eq!(received.recv().await.unwrap(), b"1");
    proxy.blackhole();
    let mut new = connect(&proxy).await;
    old.write_all(b"2").await.unwrap();
    new.write_all(b"3").await.unwrap();
    assert!(timeout(SILENCE, received.recv()).await.is_err());
    proxy.heal().await.unwrap();
    assert_eq!(read(&mut old, 1).await, b"2");
    assert_eq!(read(&mut new, 1).await, b"3");
}

#[tokio::test]
async fn a_reset_ends_connections_and_accepts_new_ones() {
    let (proxy, _received) = start().await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"a").await.unwrap();
    read(&mut stream, 1).await;
    proxy.reset();
    let error = timeout(SOON, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"b").await.unwrap();
    assert_eq!(read(&mut stream, 1).await, b"b");
}

#[tokio::test]
async fn dropped_answers_reach_nobody_although_the_server_got_the_request() {
    let (proxy, mut received) = start().await;
    let mut stream = connect(&proxy).await;
    proxy.drop_answers();
    stream.write_all(b"done?").await.unwrap();
    assert_eq!(received.recv().await.unwrap(), b"done?");
    assert!(timeout(SILENCE, stream.read(&mut [0; 16])).await.is_err());
    proxy.heal().await.unwrap();
    assert!(has_ended(&mut stream).await, "a stream that lost bytes does not go on");
    let mut stream = connect(&proxy).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut stream, 1).await, b"x");
}

#[tokio::test]
async fn latency_delays_every_answer_and_does_not_add_up() {
    let (proxy, _received) = start().await;
    let mut stream = connect(&proxy).await;
    proxy.latency(Duration::from_millis(200));
    let start = Instant::now();
    for _ in 0..5 {
        stream.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    read(&mut stream, 5).await;
    let took = start.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_millis(600)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_sender_is_held_back_when_nobody_reads() {
    let (proxy, _received) = start().await;
    proxy.blackhole();
    let mut stream = connect(&proxy).await;
    let chunk = vec![0; 1 << 20];
    let flood = async {
        for _ in 0..64 {
            stream.write_all(&chunk).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_millis(500), flood).await.is_err(), "64 MiB were swallowed");
}
