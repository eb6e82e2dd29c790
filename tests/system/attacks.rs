//! Servers that keep a command busy for ever or lead it elsewhere, and what others plant where the program
//! writes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tensorpatch::store::{CommitRecord, JsonRecord, Link, ObjectDigest, Version};

use crate::support::{arguments, command, finish, fixture, peak_of, read, run, temporary, write};

/// What a command takes besides what it reads.
const BESIDES: u64 = 48 << 20;

/// An object's head, and what a stream record is.
const OBJECT: &str = "Last-Modified: Sat, 28 Nov 2026 20:00:00 GMT\r\nETag: \"1\"\r\n";
const STREAM: &str = r#"{"format":"tensorpatch-stream","major":1,"minor":0,"requires":[],"stream":"00112233445566778899aabbccddeeff","created":0,"leaf_hash":"xxh3","writers":"many"}"#;

type Answer = dyn Fn(&str, &str, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// A server that answers each request, given its first line and its head, as `answer` does; its address, and
/// how many requests there were.
fn serve(
    answer: impl Fn(&str, &str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let (answer, count) =
        (Arc::<Answer>::from(Box::new(answer) as Box<Answer>), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (answer, counted) = (Arc::clone(&answer), Arc::clone(&counted));
            std::thread::spawn(move || {
                // The client hangs up when it is done.
                let _ = serve_one(connection.unwrap(), &*answer, &counted);
            });
        }
    });
    (address, count)
}

fn serve_one(mut connection: TcpStream, answer: &Answer, count: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let (mut request, mut head) = (String::new(), String::new());
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        while !head.ends_with("\r\n\r\n") && head != "\r\n" {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        count.fetch_add(1, Ordering::SeqCst);
        answer(&request, &head, &mut connection)?;
    }
}

fn ok(body: &str, connection: &mut TcpStream) -> std::io::Result<()> {
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{OBJECT}\r\n{body}", body.len())
}

fn absent(connection: &mut TcpStream) -> std::io::Result<()> {
    write!(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
}

fn log(address: &str) -> Command {
    let mut command = command(&arguments!["log", "s3://bucket/run"]);
    settings(address, &mut command);
    command
}

/// Has a command ask a server, once.
fn settings<'a>(address: &str, command: &'a mut Command) -> &'a mut Command {
    command
        .env("AWS_ENDPOINT_URL", format!("http://{address}"))
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_SESSION_TOKEN", "a-session")
        .env("AWS_REGION", "us-east-1")
        .env("TENSORPATCH_ATTEMPTS", "1")
        .env("TENSORPATCH_CLIENT_RETRIES", "0")
        .env("TENSORPATCH_REQUEST_TIMEOUT", "2s")
}

/// A server whose lists are what `page` writes.
fn listing(page: fn(&mut TcpStream) -> std::io::Result<()>) -> String {
    let (address, _) = serve(move |request, _, connection| {
        if request.contains("list-type") {
            page(connection)
        } else if request.contains("stream.json") {
            ok(STREAM, connection)
        } else {
            absent(connection)
        }
    });
    address
}

/// An answer that says how long it is, and does not end.
fn endless(head: &str, connection: &mut TcpStream) -> std::io::Result<()> {
    write!(connection, "HTTP/1.1 {head}\r\n{OBJECT}Transfer-Encoding: chunked\r\n\r\n")?;
    let block = " ".repeat(100_000);
    loop {
        write!(connection, "{:x}\r\n{block}\r\n", block.len())?;
    }
}

#[test]
fn a_record_that_does_not_end_though_it_says_so_takes_bounded_memory() {
    let (address, _) = serve(|request, _, connection| {
        if request.contains("list-type") {
            ok("<ListBucketResult></ListBucketResult>", connection)
        } else {
            endless("200 OK\r\nContent-Length: 100", connection)
        }
    });
    let (status, peak) = peak_of(log(&address).stderr(Stdio::null()));
    eprintln!("a record without end: {} MiB", peak >> 20);
    assert!(!status.success() && peak < BESIDES, "{status} {peak}");
}

#[test]
fn a_part_of_an_object_that_does_not_end_takes_bounded_memory() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("baseline")]).ok();
    let (address, _) = serve(move |request, head, connection| {
        let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches("/bucket/run/");
        let range = head.split("bytes=").nth(1).and_then(|range| range.lines().next()).unwrap_or_default();
        match fs::read(stream.join(name)) {
            _ if name.contains("list-type") => ok("<ListBucketResult></ListBucketResult>", connection),
            Ok(bytes) if range.is_empty() && !request.starts_with("HEAD") => {
                ok(std::str::from_utf8(&bytes).unwrap(), connection)
            }
            Ok(bytes) if request.starts_with("HEAD") => {
                write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{OBJECT}\r\n", bytes.len())
            }
            Ok(bytes) => {
                let (start, end) = range.split_once('-').unwrap();
                let [start, end] = [start, end].map(|number| number.parse::<usize>().unwrap());
                let end = end.min(bytes.len() - 1);
                let length = end + 1 - start;
                let head = format!(
                    "206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {start}-{end}/{}",
                    bytes.len()
                );
                if start > 0 {
                    return endless(&head, connection);
                }
                write!(connection, "HTTP/1.1 {head}\r\n{OBJECT}\r\n")?;
                connection.write_all(&bytes[..length])
            }
            Err(_) => absent(connection),
        }
    });
    let mut pull = command(&arguments!["pull", "s3://bucket/run", replica]);
    settings(&address, &mut pull).env("TENSORPATCH_PART_BYTES", "16KiB");
    let said = dir.path().join("stderr");
    let (status, peak) = peak_of(pull.stderr(fs::File::create(&said).unwrap()));
    eprintln!("parts without end: {} MiB", peak >> 20);
    let said = fs::read_to_string(said).unwrap();
    assert!(!status.success() && peak < BESIDES && said.contains("model.safetensors"), "{peak} {said}");
}

#[test]
fn lists_that_never_come_to_anything_are_given_up_in_time() {
    fn page(entry: &str, connection: &mut TcpStream) -> std::io::Result<()> {
        let next = "<NextContinuationToken>more</NextContinuationToken><IsTruncated>true</IsTruncated>";
        ok(&format!("<ListBucketResult>{entry}{next}</ListBucketResult>"), connection)
    }
    fn empty(connection: &mut TcpStream) -> std::io::Result<()> {
        page("", connection)
    }
    fn of_others(connection: &mut TcpStream) -> std::io::Result<()> {
        let entry = "<Contents><Key>other</Key><Size>1</Size><LastModified>2026-11-28T20:00:00.000Z</LastModified></Contents>";
        page(entry, connection)
    }
    fn slow(connection: &mut TcpStream) -> std::io::Result<()> {
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
        loop {
            connection.write_all(b" ")?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    for (page, word) in
        [(empty as fn(&mut TcpStream) -> _, "within 2s"), (of_others, "max_listed"), (slow, "within 2s")]
    {
        let begun = Instant::now();
        let mut log = log(&listing(page));
        let outcome = finish(log.env("TENSORPATCH_MAX_LISTED", "100"));
        eprintln!("{word}: {:.1} s", begun.elapsed().as_secs_f64());
        assert!(outcome.code != 0 && outcome.stderr.contains(word), "{}", outcome.stderr);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_name_that_no_object_can_have_stops_no_reader() {
    let address = listing(|connection| {
        let entry = "<Contents><Key>run/commits/../x</Key><Size>1</Size><LastModified>2026-11-28T20:00:00.000Z</LastModified></Contents>";
        ok(&format!("<ListBucketResult>{entry}</ListBucketResult>"), connection)
    });
    let outcome = finish(&mut log(&address)).ok();
    eprintln!("a name that no object can have: {} lines", outcome.stderr.lines().count());
    assert!(outcome.stderr.contains("cannot be listed"), "{}", outcome.stderr);
}

#[test]
fn a_server_with_a_record_for_every_number_is_asked_for_a_bounded_number_of_them() {
    let dir = temporary();
    let stream = dir.path().join("stream");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("baseline")]).ok();
    let record = CommitRecord::parse(&read(&stream.join(format!("commits/{:020}.json", 1)))).unwrap();
    let (address, count) = serve(move |request, _, connection| {
        let number = request.split("commits/").nth(1).and_then(|rest| rest.get(..20)?.parse().ok());
        if let Some(number) = number {
            let mut record = record.clone();
            record.stream = "00112233445566778899aabbccddeeff".parse().unwrap();
            record.version = Version::new(number).unwrap();
            let before = Version::new(number - 1);
            record.previous = before.map(|version| Link { version, commit: ObjectDigest::of(b"") });
            ok(std::str::from_utf8(&record.to_bytes().unwrap()).unwrap(), connection)
        } else if request.contains("list-type") {
            ok("<ListBucketResult></ListBucketResult>", connection)
        } else if request.contains("stream.json") {
            ok(STREAM, connection)
        } else {
            absent(connection)
        }
    });
    let outcome = finish(log(&address).env("TENSORPATCH_MAX_HISTORY_BYTES", "64KiB"));
    assert!(outcome.code != 0 && outcome.stderr.contains("max_history_bytes"), "{}", outcome.stderr);
    let count = count.load(Ordering::SeqCst);
    eprintln!("a record for every number: {count} requests");
    // Each record has more than a kilobyte, and between eight of them there is a list.
    assert!((30..100).contains(&count), "{count}");
}

#[test]
fn a_redirect_in_a_circle_is_given_up_after_ten() {
    let (address, count) = serve(|request, _, connection| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        write!(connection, "HTTP/1.1 307 Temporary Redirect\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n")
    });
    let outcome = finish(&mut log(&address));
    let count = count.load(Ordering::SeqCst);
    eprintln!("a redirect in a circle: {count} requests");
    assert!(outcome.code != 0 && outcome.stderr.contains("redirect"), "{}", outcome.stderr);
    assert!((2..=11).contains(&count), "{count}");
}

#[test]
fn an_object_that_does_not_end_is_given_up_at_its_length() {
    const MOST: usize = 64 << 20;
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("baseline")]).ok();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let (address, _) = serve(move |request, _, connection| {
        let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches("/bucket/run/");
        match fs::read(stream.join(name)) {
            _ if name.contains("list-type") => ok("<ListBucketResult></ListBucketResult>", connection),
            Ok(bytes) if request.starts_with("HEAD") => {
                write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{OBJECT}\r\n", bytes.len())
            }
            Ok(bytes) if name.ends_with(".safetensors") => {
                let length = bytes.len();
                write!(
                    connection,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{OBJECT}Transfer-Encoding: chunked\r\n\r\n"
                )?;
                // Not without end: whoever takes it all would fill a disk.
                while counted.fetch_add(100_000, Ordering::SeqCst) < MOST {
                    write!(connection, "{:x}\r\n{}\r\n", 100_000, " ".repeat(100_000))?;
                }
                connection.write_all(b"0\r\n\r\n")
            }
            Ok(bytes) => ok(std::str::from_utf8(&bytes).unwrap(), connection),
            Err(_) => absent(connection),
        }
    });
    let mut pull = command(&arguments!["pull", "s3://bucket/run", replica]);
    let outcome = finish(settings(&address, &mut pull));
    let sent = sent.load(Ordering::SeqCst);
    eprintln!("an object without end: {} MiB taken", sent >> 20);
    assert!(outcome.code != 0 && outcome.stderr.contains("it goes on after"), "{}", outcome.stderr);
    // What the connection and the writer hold.
    assert!(sent < MOST / 2, "{sent}");
}

#[test]
fn man_pages_take_the_place_of_links_and_alter_nothing_elsewhere() {
    let dir = temporary();
    let (victim, page) = (dir.path().join("victim"), dir.path().join("man/tensorpatch.1"));
    write(&victim, b"theirs");
    fs::create_dir(dir.path().join("man")).unwrap();
    symlink(&victim, &page).unwrap();
    run(&arguments!["man", dir.path().join("man")]).ok();
    assert_eq!(read(&victim), b"theirs");
    assert!(fs::symlink_metadata(&page).unwrap().is_file() && read(&page).starts_with(b".ie"));
}

#[test]
fn whoever_may_only_read_a_replica_cannot_hold_its_lock() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("baseline")]).ok();
    run(&arguments!["pull", stream, replica]).ok();
    let lock = replica.join(".tensorpatch/lock");
    let mode = || fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode() & 0o055, 0, "{:o}", mode());
    // Those that older versions made are closed; whoever shares a replica may write to it.
    for (before, after) in [(0o644, 0o600), (0o664, 0o660), (0o666, 0o666), (0o600, 0o600)] {
        fs::set_permissions(&lock, fs::Permissions::from_mode(before)).unwrap();
        run(&arguments!["pull", stream, replica]).ok();
        assert_eq!(mode(), after, "{before:o}");
    }
}

#[test]
fn whoever_may_only_read_weights_cannot_keep_them_from_being_patched() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let [stream, replica, baseline, patch] = ["stream", "replica", "baseline", "step.tpatch"].map(path);
    let publish = |number| {
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", baseline]).ok();
    };
    publish(4);
    run(&arguments!["pull", stream, replica]).ok();
    publish(5);
    run(&arguments!["diff", fixture(4), fixture(5), "-o", patch]).ok();
    fs::copy(fixture(4), path("model.safetensors")).unwrap();
    // A lock needs no more than a handle to read.
    let held = [replica.join("model.safetensors"), path("model.safetensors")].map(|file| {
        let file = fs::File::open(file).unwrap();
        file.lock().unwrap();
        file
    });
    let before = held[0].metadata().unwrap().ino();
    run(&arguments!["apply", path("model.safetensors"), patch, "--in-place"]).ok();
    assert!(read(&path("model.safetensors")) == read(&fixture(5)));
    run(&arguments!["pull", stream, replica]).ok();
    let weights = replica.join("model.safetensors");
    assert!(read(&weights) == read(&fixture(5)));
    assert_eq!(fs::metadata(&weights).unwrap().ino(), before, "it was not patched in place");
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}
