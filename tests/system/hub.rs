//! Streams in a bucket of the Hugging Face Hub, by its own interface: the whole binary against a server that
//! answers as the Hub does, and a command that uploads as its own does. The server lists two entries a page,
//! and sends who gets a file to another origin, which refuses whoever brings a token along.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{arguments, command, finish, fixture, run, same_checkpoint, temporary, tree, write};

const TOKEN: &str = "hf_thisIsTheToken";

#[derive(Debug, Default)]
struct Hub {
    /// The bucket `team/weights`: a directory with its files.
    root: PathBuf,
    is_private: bool,
    /// Where the second page of a listing is said to be.
    second_page: Option<String>,
    /// Whether a listing is longer than any is.
    is_endless: bool,
    /// The requests so far: method and path.
    requests: Mutex<Vec<String>>,
}

/// A request, as far as the server looks at it.
struct Request {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Hub {
    fn of(root: &Path) -> Self {
        std::fs::create_dir_all(root).unwrap();
        Self { root: root.into(), ..Self::default() }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let named = |(path, bytes): (PathBuf, Vec<u8>)| (path.to_str().unwrap().to_owned(), bytes);
        tree(&self.root).into_iter().map(named).collect()
    }

    /// Starts it; its address.
    fn start(self) -> (String, Arc<Self>) {
        let hub = Arc::new(self);
        let network = serve(Arc::clone(&hub), |hub, request| hub.content(request));
        let origin = serve(Arc::clone(&hub), move |hub, request| hub.answer(request, &network));
        (origin, hub)
    }

    fn answer(&self, request: &Request, network: &str) -> String {
        self.requests.lock().unwrap().push(request.line.clone());
        if self.is_private && request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return reply("401 Unauthorized", "", b"");
        }
        let (path, query) = request.path();
        if let Some(name) = path.strip_prefix("/buckets/team/weights/resolve/") {
            return match self.root.join(decoded(name)).is_file() {
                true => reply("302 Found", &format!("Location: {network}/{name}\r\n"), b""),
                false => reply("404 Not Found", "", b""),
            };
        }
        let Some(path) = path.strip_prefix("/api/buckets/team/weights") else {
            return reply("404 Not Found", "", b"");
        };
        if path == "/paths-info" {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let asked: Vec<&str> =
                asked["paths"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let found: Vec<Value> =
                self.files().iter().filter(|(name, _)| asked.contains(&name.as_str())).map(entry).collect();
            return reply("200 OK", "", json!(found).to_string().as_bytes());
        }
        if path == "/batch" {
            let mut failed = Vec::new();
            for line in request.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                let operation: Value = serde_json::from_slice(line).unwrap();
                assert_eq!(operation["type"], "deleteFile");
                let path = operation["path"].as_str().unwrap();
                if std::fs::remove_file(self.root.join(path)).is_err() {
                    failed.push(json!({ "path": path, "error": "no such file" }));
                }
            }
            return reply("200 OK", "", json!({ "failed": failed }).to_string().as_bytes());
        }
        if self.is_endless {
            return reply("200 OK", "", &vec![b' '; 17 << 20]);
        }
        let prefix = decoded(path.strip_prefix("/tree").unwrap()).trim_start_matches('/').to_owned();
        let listed: Vec<Value> =
            self.files().iter().filter(|(name, _)| name.starts_with(&prefix)).map(entry).collect();
        if listed.is_empty() && !prefix.is_empty() {
            return reply("404 Not Found", "", b"");
        }
        let first =
            query.split('&').find_map(|pair| pair.strip_prefix("cursor=")).map_or(0, |n| n.parse().unwrap());
        let page: Vec<&Value> = listed.iter().skip(first).take(2).collect();
        let next = first + 2;
        let host = &request.headers["host"];
        let link = match &self.second_page {
            _ if next >= listed.len() => String::new(),
            Some(elsewhere) => format!("Link: <{elsewhere}>; rel=\"next\"\r\n"),
            None => format!(
                "Link: <http://{host}/api/buckets/team/weights{path}?recursive=true&cursor={next}>; rel=\"next\"\r\n"
            ),
        };
        reply("200 OK", &link, json!(page).to_string().as_bytes())
    }

    /// The content network: anybody gets what the redirect named, in ranges too.
    fn content(&self, request: &Request) -> String {
        if request.headers.contains_key("authorization") {
            return reply("400 Bad Request", "", b"a token came along");
        }
        let (path, _) = request.path();
        let bytes = &std::fs::read(self.root.join(decoded(path.trim_start_matches('/')))).unwrap();
        let Some(range) = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")) else {
            return reply("200 OK", "", bytes);
        };
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse::<usize>().map_or(bytes.len(), |last| bytes.len().min(last + 1));
        let header = format!("Content-Range: bytes {start}-{}/{}\r\n", end - 1, bytes.len());
        reply("206 Partial Content", &header, &bytes[start..end])
    }
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let line = lines.next()?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect();
        let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).ok()?;
        Some(Self { line, headers, body })
    }

    fn path(&self) -> (&str, &str) {
        let target = self.line.split(' ').nth(1).unwrap();
        target.split_once('?').unwrap_or((target, ""))
    }
}

/// Answers on a port of its own until the test ends.
fn serve(hub: Arc<Hub>, answer: impl Fn(&Hub, &Request) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (hub, answer) = (Arc::clone(&hub), Arc::clone(&answer));
            std::thread::spawn(move || {
                if let Some(request) = Request::read(&stream) {
                    let bytes: Vec<u8> = answer(&hub, &request).chars().map(|byte| byte as u8).collect();
                    // A client that has gone away needs no answer.
                    let _ = stream.write_all(&bytes);
                }
            });
        }
    });
    address
}

/// A response, each byte of it as a character.
fn reply(status: &str, headers: &str, body: &[u8]) -> String {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    head.chars().chain(body.iter().map(|&byte| char::from(byte))).collect()
}

fn entry((name, bytes): (&String, &Vec<u8>)) -> Value {
    json!({ "type": "file", "path": name, "size": bytes.len(), "xetHash": "00", "uploadedAt": "2026-11-01T00:00:00.000Z" })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&[*high, *low]).unwrap(), 16).unwrap());
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A bucket with a stream of the three snapshots of the fixture.
fn published(dir: &Path) -> PathBuf {
    let bucket = dir.join("bucket");
    for number in [4, 5, 6] {
        let (stream, baseline) = (bucket.join("run-7"), dir.join("baseline"));
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", baseline]).ok();
    }
    bucket
}

/// The search path with a command `hf` on it that ends as `script` does, after it has uploaded to the
/// directory `root` what it is told to.
fn with_command(dir: &Path, root: &Path, script: &str) -> String {
    let uploads = format!(
        "#!/bin/sh\nset -eu\n[ \"$1 $2 $3\" = 'buckets cp --quiet' ]\n[ \"$HF_TOKEN\" = {TOKEN} ]\n{script}\n\
         to='{}'/\"${{5#hf://buckets/team/weights/}}\"\nmkdir -p \"${{to%/*}}\"\ncp \"$4\" \"$to\"\n",
        root.display()
    );
    let tools = dir.join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    write(&tools.join("hf"), uploads.as_bytes());
    std::fs::set_permissions(tools.join("hf"), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", tools.display(), std::env::var("PATH").unwrap())
}

/// A command of somebody who has an account at this Hub, and no keys.
fn at_hub(endpoint: &str, home: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_S3_ACCESS_KEY_ID", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home).env("NO_PROXY", "127.0.0.1");
    command
}

const URL: &str = "hf://buckets/team/weights/run-7";

#[test]
fn a_public_bucket_of_the_hub_is_followed_without_keys_or_a_token() {
    let dir = temporary();
    let (endpoint, hub) = Hub::of(&published(dir.path())).start();
    let replica = dir.path().join("replica");
    for (version, number) in [("1", 4), ("3", 6), ("2", 5)] {
        let pull = ["pull", URL, replica.to_str().unwrap(), "--version", version];
        finish(&mut at_hub(&endpoint, dir.path(), &pull)).ok();
        same_checkpoint(&replica, &fixture(number));
    }
    let log = finish(&mut at_hub(&endpoint, dir.path(), &["log", URL, "--json"])).ok().json();
    assert_eq!(log["versions"].as_array().unwrap().len(), 3);
    finish(&mut at_hub(&endpoint, dir.path(), &["fsck", URL])).ok();
    let requests = hub.requests.lock().unwrap();
    assert!(
        requests.iter().any(|line| line.contains("cursor=")),
        "more than a page was listed: {requests:?}"
    );
}

#[test]
fn a_private_bucket_of_the_hub_is_read_with_the_token_that_its_own_tools_use() {
    let dir = temporary();
    let (endpoint, _) = Hub { is_private: true, ..Hub::of(&published(dir.path())) }.start();
    let replica = dir.path().join("replica");
    let pull = ["pull", URL, replica.to_str().unwrap()];

    finish(&mut at_hub(&endpoint, dir.path(), &pull)).fails(1, &["401", "HF_TOKEN"]);
    finish(at_hub(&endpoint, dir.path(), &pull).env("HF_TOKEN", "another")).fails(1, &["401", "no access"]);

    finish(at_hub(&endpoint, dir.path(), &pull).env("HF_TOKEN", format!("{TOKEN}\n"))).ok();
    same_checkpoint(&replica, &fixture(6));
    write(&dir.path().join("token"), TOKEN.as_bytes());
    finish(&mut at_hub(&endpoint, dir.path(), &["fsck", URL])).ok();
}

#[test]
fn a_stream_is_published_with_a_token_alone_by_a_single_writer() {
    let dir = temporary();
    let root = dir.path().join("bucket");
    let (endpoint, _) = Hub { is_private: true, ..Hub::of(&root) }.start();
    let path = with_command(dir.path(), &root, "");
    let run_at_hub = |arguments: &[&str]| {
        finish(at_hub(&endpoint, dir.path(), arguments).env("HF_TOKEN", TOKEN).env("PATH", &path))
    };
    let baseline = dir.path().join("baseline");
    let publish = |number: u32| {
        let (step, baseline) = (fixture(number), baseline.to_str().unwrap());
        // Parts, and not only whole objects.
        let publish = ["publish", step.to_str().unwrap(), "--to", URL, "--baseline", baseline];
        run_at_hub(&[&publish[..], &["--part-bytes", "64KiB", "--json"]].concat()).ok().json()
    };
    for (version, number) in [(1, 4), (2, 5), (3, 6)] {
        assert_eq!(publish(number)["version"], version);
    }
    assert_eq!(publish(6)["unchanged"], true);
    let record = std::fs::read_to_string(root.join("run-7/stream.json")).unwrap();
    assert!(record.contains("\"writers\":\"single\""), "{record}");

    let replica = dir.path().join("replica");
    for (version, number) in [("1", 4), ("3", 6)] {
        let pull = ["pull", URL, replica.to_str().unwrap(), "--version", version, "--lease", "one"];
        run_at_hub(&pull).ok();
        same_checkpoint(&replica, &fixture(number));
    }
    run_at_hub(&["fsck", URL]).ok();
    // What no record names is deleted.
    let left = root.join(format!("run-7/patches/00000000000000000003-{}/delta.tpatch", "0".repeat(32)));
    std::fs::create_dir(left.parent().unwrap()).unwrap();
    write(&left, b"1");
    run_at_hub(&["gc", URL, "--keep", "3", "--grace", "0s", "--delete"]).ok();
    assert!(!left.exists());
    run_at_hub(&["fsck", URL]).ok();
}

#[test]
fn a_hub_bucket_is_not_written_without_a_token_or_without_the_command_and_says_what_to_do() {
    let dir = temporary();
    let root = dir.path().join("bucket");
    let (endpoint, _) = Hub::of(&root).start();
    let step = fixture(4);
    let publish = ["publish", step.to_str().unwrap(), "--to", URL];
    finish(&mut at_hub(&endpoint, dir.path(), &publish)).fails(1, &["HF_TOKEN", "hf auth login"]);

    let mut without = at_hub(&endpoint, dir.path(), &publish);
    let without = finish(without.env("HF_TOKEN", TOKEN).env("PATH", dir.path()));
    without.fails(1, &["pip install -U huggingface_hub", "HF_S3_ACCESS_KEY_ID"]);

    for (said, code, told) in [
        ("HTTP status client error (401 Unauthorized), domain: xet-write-token", 1, "401 Unauthorized"),
        ("HTTP status client error (403 Forbidden), domain: xet-write-token", 1, "403 Forbidden"),
        ("Error: No such command 'buckets'.", 1, "pip install -U huggingface_hub"),
    ] {
        // Once: none of these passes by itself.
        let (count, script) = (dir.path().join("count"), format!("echo \"{said}\" >&2; exit 2"));
        let path = with_command(dir.path(), &root, &format!("echo x >> '{}'; {script}", count.display()));
        let mut refused = at_hub(&endpoint, dir.path(), &publish);
        finish(refused.env("HF_TOKEN", TOKEN).env("PATH", path)).fails(code, &[told]);
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n", "{said}");
        std::fs::remove_file(&count).unwrap();
    }
    assert!(tree(&root).is_empty());
}

#[test]
fn a_stream_of_many_publishers_takes_no_version_that_has_no_condition() {
    let dir = temporary();
    let root = published(dir.path());
    let (endpoint, _) = Hub::of(&root).start();
    let path = with_command(dir.path(), &root, "");
    let before: Vec<PathBuf> = tree(&root.join("run-7/commits")).into_keys().collect();
    let (step, baseline) = (fixture(4), dir.path().join("another"));
    let publish = ["publish", step.to_str().unwrap(), "--to", URL, "--baseline", baseline.to_str().unwrap()];
    let mut command = at_hub(&endpoint, dir.path(), &publish);
    finish(command.env("HF_TOKEN", TOKEN).env("PATH", path)).fails(2, &["HF_S3_ACCESS_KEY_ID"]);
    assert_eq!(tree(&root.join("run-7/commits")).into_keys().collect::<Vec<_>>(), before);
}

#[test]
fn a_listing_that_does_not_end_is_not_kept() {
    let dir = temporary();
    let (endpoint, _) = Hub { is_endless: true, ..Hub::of(&published(dir.path())) }.start();
    let log = finish(&mut at_hub(&endpoint, dir.path(), &["fsck", URL]));
    log.fails(1, &["the answer has more than 16777216 bytes"]);
}

#[test]
fn an_upload_that_fails_is_made_again() {
    let dir = temporary();
    let root = dir.path().join("bucket");
    let (endpoint, _) = Hub::of(&root).start();
    let (step, baseline) = (fixture(4), dir.path().join("baseline"));
    let publish = ["publish", step.to_str().unwrap(), "--to", URL, "--baseline", baseline.to_str().unwrap()];
    // Every second call fails.
    let count = dir.path().join("count");
    let script = format!(
        "echo x >> '{0}'; [ $(($(wc -l < '{0}') % 2)) = 0 ] || {{ echo 'a connection was lost' >&2; exit 1; }}",
        count.display()
    );
    let path = with_command(dir.path(), &root, &script);
    let mut command = at_hub(&endpoint, dir.path(), &publish);
    finish(command.env("HF_TOKEN", TOKEN).env("PATH", path)).ok();
    finish(&mut at_hub(&endpoint, dir.path(), &["fsck", URL])).ok();
}

#[test]
fn the_token_follows_no_listing_to_another_host() {
    let dir = temporary();
    let elsewhere = Some("http://127.0.0.1:9/api/buckets/team/weights/tree".to_owned());
    let (endpoint, _) = Hub { second_page: elsewhere, ..Hub::of(&published(dir.path())) }.start();
    let log = finish(&mut at_hub(&endpoint, dir.path(), &["fsck", URL]));
    log.fails(1, &["the next page is elsewhere"]);
}

#[test]
fn a_bucket_without_a_stream_and_one_that_is_not_there_have_no_stream() {
    let dir = temporary();
    let (endpoint, _) = Hub::of(&dir.path().join("bucket")).start();
    for url in [URL, "hf://buckets/team/other/run-7"] {
        finish(&mut at_hub(&endpoint, dir.path(), &["log", url])).fails(6, &["no stream", url]);
    }
}

#[test]
fn what_cannot_be_a_token_is_refused_by_the_name_of_its_variable() {
    let dir = temporary();
    let mut log = at_hub("http://127.0.0.1:9", dir.path(), &["log", URL]);
    finish(log.env("HF_TOKEN", "two words")).fails(2, &["HF_TOKEN"]);
}
