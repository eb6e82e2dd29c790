//! Servers and records that are made to exhaust whoever reads them: the whole binary, and the memory that it
//! is seen to take.

use std::fs;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tensorpatch::store::{CommitRecord, EdgeRecord, JsonRecord, Key, Link, ObjectDigest, Version};

use crate::support::{arguments, command, fixture, peak_of, run, temporary};

/// What a command takes besides what it reads.
const BESIDES: u64 = 48 << 20;

/// Runs a command that must fail, for nothing but what it was sent; the most anonymous memory that it was
/// seen to have, and what it said.
fn refused(command: &mut Command) -> (u64, String) {
    let said = temporary();
    let file = said.path().join("stderr");
    command.stdout(Stdio::null()).stderr(fs::File::create(&file).unwrap());
    let (status, peak) = peak_of(command);
    let stderr = fs::read_to_string(&file).unwrap();
    assert!(status.code().is_some_and(|code| code != 0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    (peak, stderr)
}

/// A server that answers every request for a list with `answer`, as long as the client takes it.
fn serve(answer: fn(&mut dyn Write) -> std::io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || {
                // The client hangs up, which is what the tests wait for.
                let _ = serve_one(connection.unwrap(), answer);
            });
        }
    });
    address
}

fn serve_one(
    mut connection: TcpStream,
    answer: fn(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        if request.contains("stream.json") {
            let record = r#"{"format":"tensorpatch-stream","major":1,"minor":0,"requires":[],"stream":"00112233445566778899aabbccddeeff","created":0,"leaf_hash":"xxh3","writers":"many"}"#;
            write!(
                connection,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Sat, 28 Nov 2026 20:00:00 GMT\r\nETag: \"1\"\r\n\r\n{record}",
                record.len()
            )?;
        } else if request.contains("list-type") {
            answer(&mut connection)?;
        } else {
            write!(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        }
    }
}

fn chunk(to: &mut dyn Write, text: &str) -> std::io::Result<()> {
    write!(to, "{:x}\r\n{text}\r\n", text.len())
}

fn entries(numbers: std::ops::Range<u64>) -> String {
    let entry = |number| {
        format!(
            "<Contents><Key>run/commits/{number:020}.json</Key><Size>1</Size><LastModified>2026-11-28T20:00:00.000Z</LastModified></Contents>"
        )
    };
    numbers.map(entry).collect()
}

const LIST: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One page that does not end.
fn endless_page(to: &mut dyn Write) -> std::io::Result<()> {
    to.write_all(LIST.as_bytes())?;
    chunk(to, "<ListBucketResult>")?;
    for number in 0.. {
        chunk(to, &entries(number * 1000..number * 1000 + 1000))?;
    }
    Ok(())
}

/// Pages that each name another.
fn endless_pages(to: &mut dyn Write) -> std::io::Result<()> {
    to.write_all(LIST.as_bytes())?;
    let page = entries(1..1001);
    let next = "<NextContinuationToken>more</NextContinuationToken><IsTruncated>true</IsTruncated>";
    chunk(to, &format!("<ListBucketResult>{page}{next}</ListBucketResult>"))?;
    to.write_all(b"0\r\n\r\n")
}

/// An error whose text does not end.
fn endless_error(to: &mut dyn Write) -> std::io::Result<()> {
    to.write_all(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        chunk(to, &"no ".repeat(10_000))?;
    }
}

#[test]
fn answers_of_a_server_that_do_not_end_take_bounded_memory_and_are_errors() {
    type Answer = fn(&mut dyn Write) -> std::io::Result<()>;
    let answers: [(Answer, &str); 3] =
        [(endless_page, "16777216"), (endless_pages, "max_listed"), (endless_error, "")];
    for (answer, said) in answers {
        let mut command = command(&arguments!["log", "s3://bucket/run"]);
        command
            .env("AWS_ENDPOINT_URL", serve(answer))
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "us-east-1")
            .env("TENSORPATCH_ATTEMPTS", "1")
            .env("TENSORPATCH_CLIENT_RETRIES", "0")
            .env("TENSORPATCH_MAX_LISTED", "100000");
        let (peak, stderr) = refused(&mut command);
        eprintln!("{said:?}: {} MiB", peak >> 20);
        assert!(stderr.contains(said) && stderr.len() < 100_000, "{stderr}");
        // The page, and what is made of it.
        assert!(peak < BESIDES + (48 << 20), "{said}: {peak}");
    }
}

/// A stream with one version, in a directory.
fn stream(dir: &Path) -> PathBuf {
    let stream = dir.join("stream");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.join("baseline")]).ok();
    stream
}

fn commit_path(stream: &Path, version: u64) -> PathBuf {
    stream.join(format!("commits/{version:020}.json"))
}

#[test]
fn a_member_that_no_version_knows_is_passed_over_and_takes_no_memory() {
    let dir = temporary();
    let stream = stream(dir.path());
    let path = commit_path(&stream, 1);
    let record = fs::read_to_string(&path).unwrap();
    let unknown = format!("{{\"x\":[{}0],\"name\":", "0,".repeat(1_900_000));
    fs::write(&path, record.replacen("{\"name\":", &unknown, 1)).unwrap();
    let mut log = command(&arguments!["log", stream]);
    let (status, peak) = peak_of(log.stdout(Stdio::null()));
    assert!(status.success());
    eprintln!("unknown member: {} MiB", peak >> 20);
    assert!(peak < BESIDES, "{peak}");
}

#[test]
fn records_are_kept_up_to_a_sum_however_many_there_are() {
    let dir = temporary();
    let stream = stream(dir.path());
    let mut record = CommitRecord::parse(&fs::read(commit_path(&stream, 1)).unwrap()).unwrap();
    let anchor = record.anchor.clone().unwrap();
    // Each is valid, and nearly as large as a record may be.
    record.companions = (0..4096)
        .map(|number| {
            let mut file = anchor.files[0].clone();
            file.name = format!("{number:0>200}/{number:0>200}/{number:0>100}");
            file
        })
        .collect();
    let mut before: Option<(Version, ObjectDigest)> = None;
    for number in 1..=20 {
        record.version = Version::new(number).unwrap();
        record.previous = before.map(|(version, commit)| Link { version, commit });
        let bytes = record.to_bytes().unwrap();
        assert!(bytes.len() > 5 << 19);
        fs::write(commit_path(&stream, number), &bytes).unwrap();
        before = Some((record.version, ObjectDigest::of(&bytes)));
    }
    for name in ["log", "fsck", "gc"] {
        let mut command = command(&arguments![name, stream]);
        command.env("TENSORPATCH_MAX_HISTORY_BYTES", "32MiB").env("TENSORPATCH_PARALLEL_REQUESTS", "4");
        let (peak, stderr) = refused(&mut command);
        eprintln!("{name}: {} MiB", peak >> 20);
        assert!(stderr.contains("max_history_bytes"), "{stderr}");
        // The records, what is made of them, and those on their way.
        assert!(peak < BESIDES + ((3 * (32 + 4 * 4)) << 20), "{name}: {peak}");
    }
}

#[test]
fn any_number_of_broken_edges_is_told_in_a_line_and_asked_for_once() {
    let dir = temporary();
    let stream = stream(dir.path());
    run(&arguments!["publish", fixture(5), "--to", stream, "--baseline", dir.path().join("baseline")]).ok();
    let commit = |version| {
        let bytes = fs::read(commit_path(&stream, version)).unwrap();
        let record = CommitRecord::parse(&bytes).unwrap();
        let id = record.id(ObjectDigest::of(&bytes));
        (record, id)
    };
    let (second, target) = commit(2);
    fs::create_dir_all(stream.join("edges")).unwrap();
    for number in 0..1000_u64 {
        let mut delta = second.delta.clone().unwrap();
        let key = format!("folds/{:020}-{:020}-{number:032x}/delta.tpatch", 2, 1);
        delta.patches[0].object.key = Key::new(key).unwrap();
        delta.patches[0].object.bytes = number;
        let edge = EdgeRecord {
            stream: second.stream,
            publisher: "mallory".into(),
            nonce: format!("{number:032x}").parse().unwrap(),
            created: 0,
            target,
            delta: Some(delta),
            anchor: None,
        };
        let name = format!("edges/{:020}-{:020}-{number:032x}.json", 2, 1);
        fs::write(stream.join(name), edge.to_bytes().unwrap()).unwrap();
        // And as many that are no records.
        let name = format!("edges/{:020}-{:020}-f{number:031x}.json", 2, 1);
        fs::write(stream.join(name), "{}").unwrap();
    }
    let replica = dir.path().join("replica");
    let pulled = run(&arguments!["pull", stream, replica]).ok();
    eprintln!("2,000 broken edges: {} lines", pulled.stderr.lines().count());
    assert!(pulled.stderr.lines().count() < 10, "{}", pulled.stderr);
    assert!(pulled.stderr.contains("1000 edge records are passed over"), "{}", pulled.stderr);
}

#[test]
fn a_state_file_of_any_size_takes_no_more_memory_than_it_has_bytes() {
    let dir = temporary();
    let stream = stream(dir.path());
    let replica = dir.path().join("replica");
    run(&arguments!["pull", stream, replica]).ok();
    let path = replica.join(".tensorpatch/state.json");
    let state = fs::read_to_string(&path).unwrap();
    fs::write(&path, state.replacen('{', &format!("{{\"x\":[{}0],", "0,".repeat(30_000_000)), 1)).unwrap();
    let mut pull = command(&arguments!["pull", stream, replica]);
    let (status, peak) = peak_of(pull.stdout(Stdio::null()));
    assert!(status.success());
    eprintln!("state file of 60 MB: {} MiB", peak >> 20);
    assert!(peak < BESIDES + (80 << 20), "{peak}");
    // Beyond the limit it is not read at all.
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let outcome = run(&arguments!["pull", stream, replica]);
    assert!(outcome.code != 0 && outcome.stderr.contains("67108864"), "{}", outcome.stderr);
}

#[test]
fn a_record_that_comes_byte_by_byte_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut connection = connection?;
                connection.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nLast-Modified: Sat, 28 Nov 2026 20:00:00 GMT\r\nETag: \"1\"\r\n\r\n",
                )?;
                loop {
                    connection.write_all(b" ")?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let begun = Instant::now();
    let mut command = command(&arguments!["log", "s3://bucket/run"]);
    command
        .env("AWS_ENDPOINT_URL", address)
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "us-east-1")
        .env("TENSORPATCH_ATTEMPTS", "1000")
        .env("TENSORPATCH_REQUEST_TIMEOUT", "2s");
    let (_, stderr) = refused(&mut command);
    eprintln!("a record byte by byte: {:.1} s", begun.elapsed().as_secs_f64());
    // Byte by byte it would take 100 seconds.
    assert!(stderr.contains("stream.json") && begun.elapsed() < Duration::from_secs(60), "{stderr}");
}
