//! The metrics of a follower over HTTP: `/metrics` in the text format of Prometheus, `/healthz` and
//! `/readyz`.
//!
//! It answers one kind of request and understands no more: whoever asks can send what they like.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tensorpatch::store::{FollowCounts, FollowMetrics, StreamId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for --metrics"))
}

/// Answers requests for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, stream: StreamId, metrics: FollowMetrics) {
    let mut answering = VecDeque::new();
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Such as when there are too many open files: others close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let metrics = metrics.clone();
        let answer = tokio::spawn(async move {
            // Whoever is too slow or gone gets nothing.
            let _ = tokio::time::timeout(PATIENCE, answer(connection, stream, &metrics)).await;
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

async fn answer(mut connection: TcpStream, stream: StreamId, metrics: &FollowMetrics) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut block = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        match connection.read(&mut block).await? {
            0 => break,
            read => request.extend_from_slice(block.get(..read).unwrap_or_default()),
        }
    }
    let response = response(&request, stream, &metrics.counts(), now());
    connection.write_all(response.as_bytes()).await?;
    connection.shutdown().await
}

/// The answer to a request, head included.
fn response(request: &[u8], stream: StreamId, counts: &FollowCounts, now: f64) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", text(stream, counts)),
        (b"GET" | b"HEAD", b"/healthz") => health(counts, now),
        (b"GET" | b"HEAD", b"/readyz") if counts.version.is_none() => {
            ("503 Service Unavailable", "no version is held yet\n".into())
        }
        (b"GET" | b"HEAD", b"/readyz") => ("200 OK", "ok\n".into()),
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

/// Whether the follower does its work: that the stream has no version yet is no fault of it.
fn health(counts: &FollowCounts, now: f64) -> (&'static str, String) {
    match counts.failing_since {
        _ if counts.gone => ("503 Service Unavailable", "the stream is gone\n".into()),
        Some(since) if now - since > UNHEALTHY_AFTER_SECONDS => {
            ("503 Service Unavailable", format!("the store fails since {:.0} s\n", now - since))
        }
        _ => ("200 OK", "ok\n".into()),
    }
}

/// The counts in the text format of Prometheus.
fn text(stream: StreamId, counts: &FollowCounts) -> String {
    let mut out = Metrics::of("replica", stream);
    let version = counts.version.map(|version| version.get() as f64);
    out.gauge("version", "The version that is held.", version);
    out.gauge("last_update_timestamp_seconds", "When a version was last brought into place.", counts.updated);
    out.gauge("last_answer_timestamp_seconds", "When the stream last answered.", counts.answered);
    out.counter("polls_total", "Times that the stream was asked and answered.", counts.polls);
    out.counter(
        "store_failures_total",
        "Times that the store failed in a way that may pass.",
        counts.failures,
    );
    out.counter("updates_total", "Versions that were brought into place.", counts.updates);
    out.counter("skipped_versions_total", "Versions that were stepped over.", counts.skipped);
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
    use super::*;

    fn stream() -> StreamId {
        "00112233445566778899aabbccddeeff".parse().unwrap()
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

    #[test]
    fn whatever_is_asked_has_one_answer() {
        let counts = FollowMetrics::default().counts();
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
            let response = response(request, stream(), &counts, 0.0);
            assert!(response.starts_with(&format!("HTTP/1.0 {status} ")), "{response}");
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        }
        let head = response(b"HEAD /metrics HTTP/1.1\r\n\r\n", stream(), &counts, 0.0);
        assert!(head.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_keep_others_from_an_answer() {
        let listener = listen(parse_address("0").unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, stream(), FollowMetrics::default()));
        let begun = tokio::time::Instant::now();
        let mut silent = Vec::new();
        for _ in 0..4 * AT_ONCE {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        let polls = format!("tensorpatch_replica_polls_total{{stream=\"{}\"}} 0\n", stream());
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
        tokio::spawn(serve(listener, stream(), FollowMetrics::default()));
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
