//! Where a stream is, and with which credentials: taken as the provider's own tools take it, and said in one
//! line when it does not work.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{Outcome, arguments, command, finish, fixture, run, temporary};

const FAILED: i32 = 1;
const REFUSED: i32 = 2;
const NOT_FOUND: i32 = 6;

/// A server that gives everybody the same answer, and remembers what was asked.
struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(status: &'static str, headers: &'static str, body: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || answer(stream, status, headers, body, &log));
            }
        });
        Self { endpoint, asked }
    }

    fn coded(status: &'static str, code: &str) -> Self {
        let body =
            format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>Because.</Message></Error>");
        Self::new(status, "Content-Type: application/xml\r\n", body.leak().as_bytes())
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn last(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn answer(stream: TcpStream, status: &str, headers: &str, body: &[u8], log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut sent = vec![0; length];
        if reader.read_exact(&mut sent).is_err() {
            return;
        }
        log.lock().unwrap().push(head.clone());
        // A bucket without objects has an empty list.
        let is_list =
            status.starts_with("404") && head.contains("list-type=2") && !contains(body, b"NoSuchBucket");
        let (status, body) = if is_list { ("200 OK", EMPTY_LIST) } else { (status, body) };
        let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        let shown = if head.starts_with("HEAD") { &[][..] } else { body };
        if stream.write_all(&[answer.as_bytes(), shown].concat()).is_err() {
            return;
        }
    }
}

const EMPTY_LIST: &[u8] = b"<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window == word)
}

/// A command with nothing of the user's environment about it.
fn bare(arguments: &[&str], home: &Path) -> Command {
    let mut command = command(arguments);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("AWS_")
            || name.to_ascii_lowercase().ends_with("_proxy")
            || name.starts_with("HF_")
        {
            command.env_remove(&*name);
        }
    }
    command.env("HOME", home).env("TENSORPATCH_CLIENT_RETRIES", "1").env("TENSORPATCH_ATTEMPTS", "2");
    command
}

/// `log s3://b/p` with keys at an endpoint.
fn log_at(endpoint: &str, variables: &[(&str, &str)]) -> Outcome {
    let home = temporary();
    let mut command = bare(&["log", "s3://b/p"], home.path());
    command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").env("AWS_ENDPOINT_URL", endpoint);
    command.envs(variables.iter().copied());
    finish(&mut command)
}

#[test]
fn whatever_the_environment_holds_it_is_taken_or_refused_by_name() {
    let server = Server::coded("404 Not Found", "NoSuchKey");
    let there_is_none = |variables: &[(&str, &str)]| {
        log_at(&server.endpoint, variables).fails(NOT_FOUND, &["no stream at s3://b/p"])
    };
    // What a file or a template adds.
    for value in ["k\n", " k\r\n", "\tk"] {
        there_is_none(&[("AWS_ACCESS_KEY_ID", value), ("AWS_SECRET_ACCESS_KEY", value)]);
    }
    there_is_none(&[("AWS_REGION", "eu-west-1\n"), ("AWS_SESSION_TOKEN", "t\n")]);
    there_is_none(&[
        ("AWS_REGION", ""),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_ENDPOINT_URL_S3", ""),
        ("AWS_PROFILE", ""),
    ]);
    let padded = format!(" {}/\n", server.endpoint);
    there_is_none(&[("AWS_ENDPOINT_URL", &padded)]);
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", "s3.example.com"),
        ("AWS_ENDPOINT_URL", "http://"),
        ("AWS_ENDPOINT_URL", "http://a b"),
        ("AWS_ENDPOINT_URL", "http://h:port"),
        ("AWS_ACCESS_KEY_ID", "k\nk"),
        ("AWS_SECRET_ACCESS_KEY", "s s"),
        ("AWS_SESSION_TOKEN", "t\u{e9}"),
        ("AWS_REGION", "us east"),
        ("AWS_REGION", "us/east"),
        ("AWS_CA_BUNDLE", "/no/such/file"),
        ("AWS_PROFILE", "typo"),
        ("AWS_SECRET_ACCESS_KEY", " "),
    ] {
        log_at(&server.endpoint, &[(name, value)]).fails(REFUSED, &[name]);
    }
    let home = temporary();
    let mut hub = bare(&["log", "hf://buckets/a/b/c"], home.path());
    hub.env("HF_S3_ACCESS_KEY_ID", "k")
        .env("HF_S3_SECRET_ACCESS_KEY", "s")
        .env("HF_S3_ENDPOINT", "127.0.0.1:9");
    finish(&mut hub).fails(REFUSED, &["HF_S3_ENDPOINT"]);
}

#[test]
fn each_refusal_of_a_store_is_said_as_what_it_is_and_tried_once() {
    for (status, code, exit, words) in [
        ("400 Bad Request", "ExpiredToken", FAILED, ["have expired", "new credentials"]),
        ("403 Forbidden", "RequestTimeTooSkewed", FAILED, ["the clock of this machine", "NTP"]),
        ("403 Forbidden", "InvalidAccessKeyId", FAILED, ["does not accept the credentials", "the endpoint"]),
        ("403 Forbidden", "SignatureDoesNotMatch", FAILED, ["does not accept the credentials", "secret key"]),
        ("403 Forbidden", "AccessDenied", FAILED, ["do not allow", "listing the bucket"]),
        ("400 Bad Request", "AuthorizationHeaderMalformed", FAILED, ["another region", "AWS_REGION"]),
        ("301 Moved Permanently", "PermanentRedirect", FAILED, ["another region", "AWS_REGION"]),
        ("404 Not Found", "NoSuchBucket", NOT_FOUND, ["the bucket does not exist", "create the bucket"]),
        ("403 Forbidden", "InvalidObjectState", FAILED, ["archive", "restore"]),
        ("507 Insufficient Storage", "XMinioStorageFull", FAILED, ["no room", "quota"]),
        ("400 Bad Request", "EntityTooSmall", FAILED, ["smaller than the store takes", "--part-bytes"]),
        ("501 Not Implemented", "NotImplemented", FAILED, ["cannot do this", "docs/stores.md"]),
    ] {
        let server = Server::coded(status, code);
        let outcome = log_at(&server.endpoint, &[]).fails(exit, &words);
        assert_eq!(server.requests(), 1, "{code} is not tried again");
        assert!(outcome.stderr.contains("s3://b/p: "), "the stream is named: {}", outcome.stderr);
        assert!(!outcome.stderr.contains('<') && outcome.stderr.lines().count() == 2, "{}", outcome.stderr);
    }
    // What can pass is tried again, and said to be so.
    let server = Server::coded("503 Service Unavailable", "SlowDown");
    log_at(&server.endpoint, &[]).fails(FAILED, &["overloaded", "try again later"]);
    assert_eq!(server.requests(), 4);
}

#[test]
fn an_https_endpoint_that_speaks_plain_http_is_not_blamed_on_certificates() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            // As servers of HTTP answer what is no request.
            let _ = connection.read(&mut [0; 16]);
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let outcome = log_at(&endpoint, &[]).fails(FAILED, &["does not speak TLS", "http://"]);
    assert!(!outcome.stderr.contains("certificate"), "{}", outcome.stderr);
}

#[test]
fn what_stands_in_for_the_store_is_named() {
    let page = b"<!DOCTYPE html><html><body>Please log in to the guest network</body></html>";
    for (server, words) in [
        (Server::new("200 OK", "Content-Type: text/html\r\n", page), ["web page", "proxy"]),
        (Server::new("200 OK", "", b"\x1f\x8b\x08\x00compressed"), ["compressed on its way", "proxy"]),
        (Server::new("407 Proxy Authentication Required", "", b""), ["the proxy asks", "NO_PROXY"]),
        (Server::new("511 Network Authentication Required", "", page), ["not the store", "login page"]),
        (Server::new("403 Forbidden", "Content-Type: text/html\r\n", page), ["not the store", "login page"]),
        (
            Server::new("307 Temporary Redirect", "x-amz-bucket-region: eu-west-3\r\n", b""),
            ["eu-west-3", "AWS_REGION"],
        ),
    ] {
        let outcome = log_at(&server.endpoint, &[]).fails(FAILED, &words);
        assert!(!outcome.stderr.contains("damaged"), "{}", outcome.stderr);
    }
    log_at("http://127.0.0.1:1", &[]).fails(FAILED, &["does not answer", "endpoint"]);
    log_at("https://127.0.0.1:1", &[]).fails(FAILED, &["does not answer"]);
    let plain = Server::new("200 OK", "", b"");
    let tls = plain.endpoint.replace("http://", "https://");
    log_at(&tls, &[]).fails(FAILED, &[]);
}

#[test]
fn following_ends_on_what_does_not_pass_whatever_it_is() {
    for (status, code) in [
        ("400 Bad Request", "ExpiredToken"),
        ("403 Forbidden", "RequestTimeTooSkewed"),
        ("403 Forbidden", "AccessDenied"),
        ("404 Not Found", "NoSuchBucket"),
    ] {
        let (server, home) = (Server::coded(status, code), temporary());
        let replica = home.path().join("replica");
        let mut follow =
            bare(&["follow", "s3://b/p", replica.to_str().unwrap(), "--poll", "10ms"], home.path());
        follow.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
        let outcome = finish(follow.env("AWS_ENDPOINT_URL", &server.endpoint));
        assert!([FAILED, NOT_FOUND].contains(&outcome.code), "{code}: {}", outcome.stderr);
    }
}

#[test]
fn region_endpoint_and_addressing_come_from_the_profile_whoever_has_the_keys() {
    let (server, home) = (Server::coded("404 Not Found", "NoSuchKey"), temporary());
    let aws = home.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    let config =
        |text: &str| fs::write(aws.join("config"), text.replace("ENDPOINT", &server.endpoint)).unwrap();
    let log = |variables: &[(&str, &str)]| {
        let mut command = bare(&["log", "s3://b/p"], home.path());
        finish(command.envs(variables.iter().copied())).fails(NOT_FOUND, &["no stream"]);
        server.last().to_ascii_lowercase()
    };
    let keys = [("AWS_ACCESS_KEY_ID", "envkey"), ("AWS_SECRET_ACCESS_KEY", "s")];
    config("[default]\nregion = eu-west-1\nendpoint_url = ENDPOINT\n");
    let request = log(&keys);
    assert!(request.contains("/eu-west-1/s3/") && request.contains("credential=envkey/"), "{request}");
    // Empty keys are none: those of the profile count.
    fs::write(aws.join("credentials"), "[default]\naws_access_key_id = filekey\naws_secret_access_key = s\n")
        .unwrap();
    let request =
        log(&[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_SESSION_TOKEN", "stale")]);
    assert!(
        request.contains("credential=filekey/") && !request.contains("x-amz-security-token"),
        "{request}"
    );
    // The services section goes before the endpoint of all services, and the environment before both.
    config(
        "[profile lab]\nregion = a-b-1\nendpoint_url = http://127.0.0.1:1\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = ENDPOINT\n",
    );
    assert!(log(&[keys[0], keys[1], ("AWS_PROFILE", "lab")]).contains("/a-b-1/s3/"));
    let env = [keys[0], keys[1], ("AWS_PROFILE", "lab"), ("AWS_DEFAULT_REGION", "c-d-2")];
    assert!(log(&env).contains("/c-d-2/s3/"));
    // A command of the profile gives keys, whatever home directory the files are named below.
    config("[default]\nendpoint_url = ENDPOINT\n");
    let printed = "{\"Version\": 1, \"AccessKeyId\": \"cmdkey\", \"SecretAccessKey\": \"s\", \"SessionToken\": \"tok\"}";
    fs::write(
        home.path().join("other"),
        format!("[default]\nendpoint_url = {}\ncredential_process = echo '{printed}'\n", server.endpoint),
    )
    .unwrap();
    fs::remove_file(aws.join("credentials")).unwrap();
    let request = log(&[("AWS_CONFIG_FILE", "~/other")]);
    assert!(
        request.contains("credential=cmdkey/") && request.contains("x-amz-security-token: tok"),
        "{request}"
    );
}

#[test]
fn no_credentials_are_said_to_be_none_without_a_wait() {
    let home = temporary();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = format!("http://{}", silent.local_addr().unwrap());
    let log = |variables: &[(&str, &str)]| {
        let mut command = bare(&["log", "s3://b/p"], home.path());
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env("AWS_METADATA_ENDPOINT", &metadata);
        finish(command.envs(variables.iter().copied()))
    };
    log(&[]).fails(FAILED, &["no credentials were found", "AWS_ACCESS_KEY_ID"]);
    log(&[("AWS_EC2_METADATA_DISABLED", "true")]).fails(FAILED, &["no credentials were found"]);
    log(&[("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")]).fails(FAILED, &["no credentials were found"]);
    // What only the tools of the provider can follow is named, with the command that exports the keys.
    fs::create_dir(home.path().join(".aws")).unwrap();
    for source in ["sso_session = corp", "role_arn = r\nsource_profile = base"] {
        fs::write(home.path().join(".aws/config"), format!("[profile lab]\n{source}\n")).unwrap();
        let tools = home.path().to_str().unwrap();
        let outcome = log(&[("AWS_PROFILE", "lab"), ("PATH", tools)]);
        outcome.fails(FAILED, &["\"lab\"", "aws configure export-credentials --profile lab --format env"]);
    }
}

#[test]
fn a_container_without_an_account_is_refused_by_the_variable_that_is_missing() {
    let home = temporary();
    let log = || bare(&["log", "az://weights/run"], home.path());
    finish(&mut log()).fails(REFUSED, &["az://weights/run", "set AZURE_STORAGE_ACCOUNT_NAME"]);
    let outcome =
        finish(log().env("AZURE_STORAGE_ACCOUNT_NAME", "a").env("AZURE_ENDPOINT", "http://127.0.0.1:1"));
    assert_ne!(outcome.code, REFUSED, "{}", outcome.stderr);
}

#[test]
fn what_looks_like_the_destination_of_another_tool_makes_no_directory() {
    let dir = temporary();
    for url in
        ["s3:/bucket/run", "s3:bucket/run", "gpu1:/data/run", "user@gpu1:run", "file:/x", "s3://bad bucket/x"]
    {
        let publish = arguments!["publish", fixture(4), "--to", url];
        finish(command(&publish).current_dir(dir.path())).fails(REFUSED, &[url]);
        finish(command(&["log", url]).current_dir(dir.path())).fails(REFUSED, &[url]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let url = format!("file://{}/a%20b", dir.path().display());
    run(&arguments!["publish", fixture(4), "--to", url, "--baseline", dir.path().join("baseline")]).ok();
    assert!(dir.path().join("a b/stream.json").exists());
}

#[test]
fn the_doctor_does_not_call_the_reading_of_a_bucket_good_that_does_not_exist() {
    let (server, home) = (Server::coded("404 Not Found", "NoSuchBucket"), temporary());
    let mut doctor = bare(&["doctor", "s3://b/p", "--json"], home.path());
    doctor.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
    let report = finish(doctor.env("AWS_ENDPOINT_URL", &server.endpoint)).fails(FAILED, &[]).json();
    let findings: Vec<(&str, &str)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["check"].as_str().unwrap(), finding["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(findings, [("address", "good"), ("reading", "bad")]);
    assert!(
        report["findings"][1]["what"].as_str().unwrap().contains("the bucket does not exist"),
        "{report}"
    );
}
