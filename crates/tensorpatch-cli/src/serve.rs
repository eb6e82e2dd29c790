//! The metrics of a follower over HTTP: `/metrics` in the text format of Prometheus, `/healthz`, and
//! `/readyz` with what the version held must be.
//!
//! It answers one kind of request and understands no more: whoever asks can send what they like.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tensorpatch::store::{Cause, FollowCounts, FollowMetrics, Stream, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::exit::Refusal;
use crate::prometheus::{Metrics, now};

/// The most bytes of a request that are read.
const MAX_REQUEST: usize = 8 << 10;
/// How long a request may take, answer included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once; of more, the one that has waited longest gets no answer. Whoever asks something has
/// its answer at once, so it is those that say nothing who go.
const AT_ONCE: usize = 64;
/// A follower whose store has failed for longer is not healthy.
const UNHEALTHY_AFTER_SECONDS: f64 = 60.0;

/// Reads an address: `HOST:PORT`, or a port of the loopback interface.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse().ok();
    let address = port.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    address
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "expected a port, or ADDRESS:PORT with an IP address".into())
}

/// Listens on `address`.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => {
                "another program listens there: name another port, or 0 for one that is free"
            }
            ErrorKind::PermissionDenied => "name a port from 1024 on: those below are for administrators",
            _ => "name a port, or ADDRESS:PORT with an address of this machine",
        };
        Refusal::failure(format!("cannot listen on {address} for --metrics: {error}"), advice).into()
    })
}

/// What is asked about: a follower, and the requests of its stream.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) stream: Stream,
    pub(crate) metrics: FollowMetrics,
}

/// Answers requests for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, watched: Watched) {
    let mut answering = VecDeque::new();
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Such as when there are too many open files: others close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let watched = watched.clone();
        let answer = tokio::spawn(async move {
            // Whoever is too slow or gone gets nothing.
            let _ = tokio::time::timeout(PATIENCE, answer(connection, &watched)).await;
        });
        answering.push_back(answer.abort_handle());
        if answering.len() > AT_ONCE {
            answering.retain(|answer| !answer.is_finished());
        }
        if answering.len() > AT_ONCE
            && let Some(oldest) = answering.pop_front()
        {
            oldest.abort();
        }
    }
}

async fn answer(mut connection: TcpStream, watched: &Watched) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut block = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        match connection.read(&mut block).await? {
            0 => break,
            read => request.extend_from_slice(block.get(..read).unwrap_or_default()),
        }
    }
    let response = response(&request, watched, now());
    connection.write_all(response.as_bytes()).await?;
    connection.shutdown().await
}

/// The answer to a request, head included.
fn response(request: &[u8], watched: &Watched, now: f64) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut target = target.splitn(2, |byte| *byte == b'?');
    let (path, query) = (target.next().unwrap_or_default(), target.next().unwrap_or_default());
    let counts = watched.metrics.counts();
    let (status, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => (OK, text(&watched.stream, &counts)),
        (b"GET" | b"HEAD", b"/healthz") => health(&counts, now),
        (b"GET" | b"HEAD", b"/readyz") => readiness(&counts, query),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "there are /metrics, /healthz and /readyz\n".into()),
        _ => ("405 Method Not Allowed", "only GET\n".into()),
    };
    let length = body.len();
    let body = if method == b"HEAD" { String::new() } else { body };
    format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

const OK: &str = "200 OK";
const UNAVAILABLE: &str = "503 Service Unavailable";

/// Whether the follower does its work: that the stream has no version yet is no fault of it.
fn health(counts: &FollowCounts, now: f64) -> (&'static str, String) {
    match counts.failing_since {
        _ if counts.gone => (UNAVAILABLE, "the stream is gone\n".into()),
        Some(since) if now - since > UNHEALTHY_AFTER_SECONDS => {
            (UNAVAILABLE, format!("the store fails since {:.0} s\n", now - since))
        }
        _ => (OK, "ok\n".into()),
    }
}

/// Whether a version is held, and the one that is asked for: `version=N` wants that one or a later one,
/// `max-behind=N` one that is at most so many versions behind the newest that was found.
fn readiness(counts: &FollowCounts, query: &[u8]) -> (&'static str, String) {
    let (Some(held), Some(behind)) = (counts.version, counts.behind()) else {
        return (UNAVAILABLE, "no version is held yet\n".into());
    };
    for wish in query.split(|byte| *byte == b'&').filter(|wish| !wish.is_empty()) {
        let wish = String::from_utf8_lossy(wish);
        let number =
            wish.split_once('=').and_then(|(name, number)| Some((name, number.parse::<u64>().ok()?)));
        match number {
            Some(("version", least)) if held.get() < least => {
                return (UNAVAILABLE, format!("version {held} is held, {least} is wanted\n"));
            }
            Some(("max-behind", most)) if behind > most => {
                let what = format!("version {held} is held, {behind} behind: at most {most} are wanted\n");
                return (UNAVAILABLE, what);
            }
            Some(("version" | "max-behind", _)) => {}
            _ => return ("400 Bad Request", "there are version=N and max-behind=N\n".into()),
        }
    }
    (OK, format!("version {held} is held\n"))
}

/// The counts in the text format of Prometheus.
fn text(stream: &Stream, counts: &FollowCounts) -> String {
    let mut out = Metrics::of("replica", stream.id());
    let number = |version: Option<Version>| version.map(|version| version.get() as f64);
    out.gauge("version", "The version that is held.", number(counts.version));
    out.gauge("newest_version", "The newest version that was found.", number(counts.newest));
    out.gauge("last_update_timestamp_seconds", "When a version was last brought into place.", counts.updated);
    out.gauge("last_answer_timestamp_seconds", "When the stream last answered.", counts.answered);
    out.counter("polls_total", "Times that the stream was asked and answered.", counts.polls);
    let causes = Cause::PASSING.map(Cause::name).into_iter().chain([FollowMetrics::GONE]);
    let failures: Vec<(&str, f64)> =
        causes.map(|cause| (cause, counts.failures.get(cause).copied().unwrap_or_default() as f64)).collect();
    let help = "Times that the store failed in a way that may pass, by cause.";
    out.counters("store_failures_total", help, "cause", &failures);
    let requests = stream.requests();
    out.counter("requests_total", "Requests to the store.", requests.requests);
    let help = "Attempts at requests that failed in a way that may pass.";
    out.counter("failed_attempts_total", help, requests.failed_attempts);
    out.counter("updates_total", "Versions that were brought into place.", counts.updates);
    out.counter("skipped_versions_total", "Versions that were stepped over.", counts.skipped);
    let took = [
        ("fetch", counts.took.fetch),
        ("stage", counts.took.stage),
        ("activate", counts.took.activate),
        ("exec", counts.exec),
    ];
    let help = "What the updates took: until all was at hand, until the new version was ready, until it was \
                in place, and until --exec had ended.";
    out.counters("update_seconds_total", help, "step", &took.map(|(step, took)| (step, took.as_secs_f64())));
    let (anchors, deltas) = (counts.anchors, counts.deltas);
    let help = "Whole checkpoints (anchor) and patches (delta) that were taken.";
    let edges = [("anchor", anchors.count as f64), ("delta", deltas.count as f64)];
    out.counters("edges_total", help, "kind", &edges);
    let help = "Bytes of the objects of what was taken.";
    let bytes = [("anchor", anchors.bytes as f64), ("delta", deltas.bytes as f64)];
    out.counters("edge_bytes_total", help, "kind", &bytes);
    out.counter("downloaded_bytes_total", "Bytes that were downloaded.", counts.downloaded_bytes);
    out.counter(
        "applied_bytes_total",
        "Bytes of model that were looked at or written.",
        counts.applied_bytes,
    );
    out.into_text()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tensorpatch::store::CreateOptions;
    use tensorpatch::store::object_store::memory::InMemory;

    use super::*;

    async fn watched() -> Watched {
        let store = Arc::new(InMemory::new());
        let stream = Stream::create(store, "s".into(), CreateOptions::default()).await.unwrap();
        Watched { stream, metrics: FollowMetrics::default() }
    }

    #[test]
    fn an_address_is_a_port_of_this_machine_or_all_of_an_address() {
        for (text, address) in [
            ("9464", "127.0.0.1:9464"),
            (":9464", "127.0.0.1:9464"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:2", "[::1]:2"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().unwrap()));
        }
        for text in ["", "host", "99999", "1.2.3.4"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn whatever_is_asked_has_one_answer() {
        let watched = watched().await;
        for (request, status) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], "200"),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
            (b"GET /healthz HTTP/1.1\r\n\r\n", "200"),
            (b"GET /readyz HTTP/1.1\r\n\r\n", "503"),
            (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"", "405"),
            (&[0xff; 9000], "405"),
        ] {
            let response = response(request, &watched, 0.0);
            assert!(response.starts_with(&format!("HTTP/1.0 {status} ")), "{response}");
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        }
        let head = response(b"HEAD /metrics HTTP/1.1\r\n\r\n", &watched, 0.0);
        assert!(head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_follower_is_ready_at_the_version_that_is_asked_for() {
        let mut counts = FollowMetrics::default().counts();
        let is_ready = |counts: &FollowCounts, query: &str| readiness(counts, query.as_bytes()).0;
        assert_eq!(is_ready(&counts, "version=1"), UNAVAILABLE);
        (counts.version, counts.newest) = (Version::new(5), Version::new(7));
        for query in ["", "version=5", "version=3", "max-behind=2", "version=5&max-behind=2"] {
            assert_eq!(is_ready(&counts, query), OK, "{query}");
        }
        for query in ["version=6", "max-behind=1", "version=1&max-behind=0", "max-behind=9&version=6"] {
            assert_eq!(is_ready(&counts, query), UNAVAILABLE, "{query}");
        }
        for query in ["version", "version=x", "behind=1", "version=-1"] {
            assert_eq!(is_ready(&counts, query), "400 Bad Request", "{query}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_keep_others_from_an_answer() {
        let listener = listen(parse_address("0").unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let watched = watched().await;
        let id = watched.stream.id();
        tokio::spawn(serve(listener, watched));
        let begun = tokio::time::Instant::now();
        let mut silent = Vec::new();
        for _ in 0..4 * AT_ONCE {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        let polls = format!("tensorpatch_replica_polls_total{{stream=\"{id}\"}} 0\n");
        assert!(answer.contains(&polls), "{answer}");
        // Nor do they take up handles until there are none: those that have waited longest are closed, before
        // their time is up.
        for connection in silent.iter_mut().take(3 * AT_ONCE) {
            assert!(matches!(connection.read(&mut [0]).await, Ok(0) | Err(_)));
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_is_given_up() {
        let listener = listen(parse_address("0").unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, watched().await));
        let begun = tokio::time::Instant::now();
        let (mut slow, mut answer) = (TcpStream::connect(address).await.unwrap(), String::new());
        slow.write_all(b"GET /metrics").await.unwrap();
        slow.read_to_string(&mut answer).await.unwrap();
        assert!(answer.is_empty() && begun.elapsed() < 2 * PATIENCE, "{answer} {:?}", begun.elapsed());
        let mut long = TcpStream::connect(address).await.unwrap();
        long.write_all(&[b'x'; MAX_REQUEST]).await.unwrap();
        long.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 405 "), "{answer}");
    }
}
