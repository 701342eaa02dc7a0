use axum::routing::{get, post};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::settings::Source;

/// Far beyond any of the limits here.
const AT_LAST: Duration = Duration::from_secs(40);

const SHORT: ConnectionLimits = ConnectionLimits {
    max: 100,
    header: Duration::from_millis(500),
    body: Duration::from_millis(500),
    idle: Duration::from_secs(1),
    write: Duration::from_millis(500),
};

struct Served {
    address: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    async fn start(router: Router, limits: ConnectionLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, registry, stop) = (listener.local_addr().unwrap(), Registry::new(), CancellationToken::new());
        let [metrics] = ConnectionMetrics::register(&registry, ["test"]).unwrap();
        tokio::spawn(serve(listener, router, limits, metrics, stop.clone()));
        Self { address, registry, stop }
    }

    async fn connect(&self, first: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        stream
    }

    fn closed(&self, reason: Reason) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == CONNECTIONS_CLOSED).unwrap();
        let of = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|l| l.value() == reason.as_str());
        family.get_metric().iter().find(of).unwrap().get_counter().get_value()
    }

    fn open(&self) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == CONNECTIONS).unwrap();
        family.get_metric()[0].get_gauge().get_value()
    }
}

/// What a connection says until it is ended; `None` if it is not.
async fn to_the_end(stream: &mut TcpStream) -> Option<String> {
    let mut said = Vec::new();
    timeout(AT_LAST, stream.read_to_end(&mut said)).await.is_ok().then(|| String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn what_is_sent_by_halves_is_ended_each_for_its_reason() {
    let router = Router::new().route("/", get(async || "hello").post(async |body: String| body));
    let served = Served::start(router, SHORT).await;
    let mut silent = served.connect("").await;
    let mut half = served.connect("GET / HTTP/1.1\r\nho").await;
    let mut idle = served.connect("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut body = served.connect("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert_eq!(to_the_end(&mut silent).await.as_deref(), Some(""));
    assert_eq!(to_the_end(&mut half).await.as_deref(), Some(""));
    assert!(to_the_end(&mut idle).await.unwrap().ends_with("hello"));
    assert!(to_the_end(&mut body).await.unwrap().starts_with("HTTP/1.1 4"));
    assert_eq!([Reason::Header, Reason::Body, Reason::Idle].map(|reason| served.closed(reason)), [2.0, 1.0, 1.0]);
    assert_eq!(served.open(), 0.0);
}

#[tokio::test]
async fn a_request_may_take_longer_than_a_head_or_an_idle_connection() {
    let slow = async || {
        tokio::time::sleep(SHORT.idle * 2).await;
        "at last"
    };
    let served = Served::start(Router::new().route("/", get(slow)), SHORT).await;
    let mut stream = served.connect("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(to_the_end(&mut stream).await.unwrap().ends_with("at last"));
}

#[tokio::test]
async fn a_response_that_nobody_reads_is_ended() {
    let router = Router::new().route("/", get(async || "x".repeat(64 << 20)));
    let served = Served::start(router, SHORT).await;
    let _unread = served.connect("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let deadline = tokio::time::Instant::now() + AT_LAST;
    while served.closed(Reason::Stalled) == 0.0 || served.open() > 0.0 {
        assert!(tokio::time::Instant::now() < deadline, "it is held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_closed_from_outside_ends_whatever_it_does() {
    let router = Router::new().route(
        "/",
        post(async |request: axum::extract::Request| {
            let connection = request.extensions().get::<Arc<Connection>>().unwrap().clone();
            connection.close(Reason::Overflow);
            std::future::pending::<()>().await;
        }),
    );
    let served = Served::start(router, SHORT).await;
    let mut stream = served.connect("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(to_the_end(&mut stream).await.as_deref(), Some(""));
    assert_eq!(served.closed(Reason::Overflow), 1.0);
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_answers_the_others() {
    let (asked, answer) = (CancellationToken::new(), CancellationToken::new());
    let (reached, waits) = (asked.clone(), answer.clone());
    let handler = async move || {
        reached.cancel();
        waits.cancelled().await;
        "answered"
    };
    let limits = ConnectionLimits { idle: AT_LAST * 10, ..SHORT };
    let router = Router::new().route("/", get(handler)).route("/idle", get(async || "hello"));
    let served = Served::start(router, limits).await;
    let mut idle = served.connect("GET /idle HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut busy = served.connect("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    asked.cancelled().await;
    served.stop.cancel();
    assert!(to_the_end(&mut idle).await.unwrap().ends_with("hello"));
    answer.cancel();
    assert!(to_the_end(&mut busy).await.unwrap().ends_with("answered"));
}

#[test]
fn limits_of_nothing_are_refused() {
    let mut source = Source::new([("WRITE_TIMEOUT_MS".into(), "0".into()), ("OPS_MAX_CONNECTIONS".into(), "0".into())]);
    let settings = ConnectionSettings::read(&mut source).unwrap();
    settings.check(&mut source);
    let errors = source.finish(Some(settings)).unwrap_err().0;
    assert_eq!(errors, ["WRITE_TIMEOUT_MS must be above 0", "OPS_MAX_CONNECTIONS must be above 0"]);
}
