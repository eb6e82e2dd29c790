//! `report`, its page in a browser, `inspect` by layer, and the metrics of `follow`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{arguments, command, finish, fixture, run, temporary};

/// What somebody hostile would call things.
const HOSTILE: &str = "</script><script>document.title='taken'</script>\"'><img src=x onerror=alert(1)>";

/// A stream of three versions with a hostile label and a lease of a hostile name.
fn stream_in(dir: &Path) -> PathBuf {
    let stream = dir.join("stream");
    for number in 4..=6 {
        let label = format!("{HOSTILE}{number}");
        let baseline = dir.join("baseline");
        run(&arguments![
            "publish",
            fixture(number),
            "--to",
            stream,
            "--baseline",
            baseline,
            "--label",
            label
        ])
        .ok();
        if number == 5 {
            run(&arguments!["pull", stream, dir.join("replica"), "--lease", HOSTILE]).ok();
        }
    }
    stream
}

/// The page of a stream, and what it embeds.
fn page_of(dir: &Path) -> (PathBuf, Value) {
    let (stream, page) = (stream_in(dir), dir.join("report.html"));
    let report =
        run(&arguments!["report", stream, "-o", page, "--work", dir.join("work"), "--json"]).ok().json();
    (page, report)
}

#[test]
fn a_report_says_the_same_in_its_page_and_in_json() {
    let dir = temporary();
    let (page, report) = page_of(dir.path());
    let html = fs::read_to_string(page).unwrap();
    let (_, rest) = html.split_once("<script type=\"application/json\" id=\"report\">").unwrap();
    let embedded: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    assert_eq!(embedded, report);
    assert_eq!(report["versions"].as_array().unwrap().len(), 3);
    assert_eq!(report["replicas"][0]["held"], 2);
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for (step, version) in steps.iter().zip(&report["versions"].as_array().unwrap()[1..]) {
        let sum =
            |counts: &Value| counts.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(&step["changed"]), version["changed_elements"].as_u64().unwrap());
        assert_eq!(sum(&step["distances"]), sum(&step["changed"]));
    }
    for figure in ["bytes", "history", "late-joins", "layers", "distances", "replicas"] {
        assert!(html.contains(&format!("id=\"{figure}-heading\"")), "{figure}");
    }
    // Nothing that was published is part of the page's own text, and nothing is fetched.
    assert_eq!(html.matches("<script").count(), 2);
    assert!(!html.contains("<img") && !html.contains("http://") && !html.contains("https://"));
    assert!(html.contains("&lt;/script&gt;"));
}

#[test]
fn a_report_without_steps_downloads_nothing_and_one_of_an_empty_place_fails() {
    let dir = temporary();
    let stream = stream_in(dir.path());
    let (page, work) = (dir.path().join("report.html"), dir.path().join("work"));
    let report = run(&arguments!["report", stream, "-o", page, "--work", work, "--steps", "0"]).ok();
    assert!(!work.exists() && page.exists());
    let text = String::from_utf8(report.stdout).unwrap();
    assert!(text.contains("compared  0 steps"), "{text}");
    run(&arguments!["report", dir.path().join("none"), "-o", page]).fails(6, &["there is no stream"]);
    run(&arguments!["report", stream]).fails(2, &["--output"]);
}

/// Runs a page in the browser without a screen and returns its document once scripts have run; nothing if
/// there is no browser.
fn document_in_browser(page: &Path, profile: &Path) -> Option<String> {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let found = browsers.into_iter().find(|name| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    let Some(browser) = found else {
        eprintln!("there is no chromium: the page is not tried in a browser");
        return None;
    };
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_page_runs_in_a_browser_without_a_complaint_and_shows_what_json_says() {
    let dir = temporary();
    let (page, report) = page_of(dir.path());
    // The script is asked to go through each plot with the keyboard, and what it says is kept in the
    // document.
    let probe = "<script>for (const plot of document.querySelectorAll('.plot')) {\
        plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'End' })); }</script></body>";
    let html = fs::read_to_string(&page).unwrap().replace("</body>", probe);
    fs::write(&page, html).unwrap();
    let Some(document) = document_in_browser(&page, &dir.path().join("profile")) else { return };
    assert!(!document.contains("<title>taken"), "a label ran as a script");
    let tip = report["versions"].as_array().unwrap().last().unwrap();
    let bytes = tip["bytes"].as_u64().unwrap();
    let grouped = format!("{},{:03} bytes", bytes / 1000, bytes % 1000);
    let (_, said) = document.split_once("for=\"bytes\"").unwrap();
    let said = said.split_once("</output>").unwrap().0;
    assert!(said.contains("version 3") && said.contains(&grouped), "{said} {grouped}");
    assert_eq!(document.matches("<rect class=\"bar").count(), 3 + 4);
}

#[test]
fn inspect_shows_what_changes_in_each_layer_by_a_patch_or_between_checkpoints() {
    let dir = temporary();
    let patch = dir.path().join("p.tpatch");
    let made = run(&arguments!["diff", fixture(4), fixture(5), "-o", patch, "--json"]).ok().json();
    let by_patch = run(&arguments!["inspect", patch, "--base", fixture(4), "--json"]).ok().json();
    let between = run(&arguments!["inspect", fixture(4), fixture(5), "--json"]).ok().json();
    let sum = |report: &Value, field: &str| {
        report["layers"].as_array().unwrap().iter().map(|layer| layer[field].as_u64().unwrap()).sum::<u64>()
    };
    for report in [&by_patch, &between] {
        assert_eq!(sum(report, "changed_elements"), made["changed_elements"].as_u64().unwrap());
        assert_eq!(sum(report, "elements"), made["total_elements"].as_u64().unwrap());
    }
    assert_eq!(sum(&by_patch, "bytes"), by_patch["payload_bytes"].as_u64().unwrap());
    assert_eq!(by_patch["distances"], between["distances"]);
    for width in ["60", "80", "200"] {
        let shown =
            finish(command(&arguments!["inspect", fixture(4), fixture(5)]).env("COLUMNS", width)).ok();
        let text = String::from_utf8(shown.stdout).unwrap();
        let table = text.split_once("\n\n").unwrap().1;
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width.parse().unwrap(), "{widest}:\n{text}");
        assert!(text.contains('█') && text.contains("1 ulp"), "{text}");
        assert!(!text.contains("█…"), "a bar is cut, and says nothing any more:\n{text}");
    }
    let wrong = arguments!["inspect", patch, "--base", fixture(6)];
    run(&wrong).fails(4, &["not the base of the patch"]);
}

/// The answer to a request to the metrics of a follower.
fn ask(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// Says that the pages write about the metrics of `subject` in `text`: about each of them, and of no other.
fn assert_documented(subject: &str, text: &str, pages: &[&str]) {
    let served: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let prefix = format!("tensorpatch_{subject}_");
    let mut documented = Vec::new();
    for page in pages {
        let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
        let page = fs::read_to_string(path).unwrap();
        let mut named = 0;
        for line in page.lines() {
            // `…_total` goes on from the name before it in the line.
            let mut before = "";
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '…') {
                let name = match word.strip_prefix("…_") {
                    Some(rest) if before.starts_with(&prefix) => format!("{prefix}{rest}"),
                    Some(_) => continue,
                    None if word.starts_with("tensorpatch_") => {
                        before = word;
                        word.to_owned()
                    }
                    None => continue,
                };
                if name.starts_with(&prefix) {
                    assert!(served.contains(&name.as_str()), "{name} is none of {served:?}");
                    documented.push(name);
                    named += 1;
                }
            }
        }
        assert!(named > 0, "nothing of {prefix}…");
    }
    for name in &served {
        assert!(documented.iter().any(|known| known == name), "{name} is on no page");
    }
}

#[test]
fn a_follower_serves_its_metrics_and_whether_it_is_healthy() {
    let dir = temporary();
    let stream = stream_in(dir.path());
    let mut follower = command(&arguments!["follow", stream, dir.path().join("r"), "--metrics", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut address = String::new();
    for line in lines {
        if let Some(found) = line.strip_prefix("metrics at http://") {
            address = found.trim_end_matches("/metrics").to_owned();
        }
        if line.starts_with("version 3") {
            break;
        }
    }
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let metrics = ask(&address, "/metrics");
    for (name, value) in [("version", 3), ("updates_total", 1)] {
        let found = metrics.lines().find(|line| line.starts_with(&format!("tensorpatch_replica_{name}{{")));
        assert!(found.is_some_and(|line| line.ends_with(&format!("}} {value}"))), "{name}: {metrics}");
    }
    assert_documented("replica", &metrics, &["docs/fleet.md", "examples/deploy/dashboard.json"]);
    for (name, labels) in [
        ("newest_version", ""),
        ("store_failures_total", ",cause=\"busy\""),
        ("update_seconds_total", ",step=\"activate\""),
        ("edges_total", ",kind=\"anchor\""),
    ] {
        let found = metrics.lines().find(|line| line.starts_with(&format!("tensorpatch_replica_{name}{{")));
        assert!(found.is_some() && metrics.contains(labels), "{name}: {metrics}");
    }
    assert!(metrics.contains("tensorpatch_replica_edges_total") && metrics.contains(",kind=\"anchor\"} 1\n"));
    let requests = metrics.lines().find(|line| line.starts_with("tensorpatch_replica_requests_total{"));
    assert!(requests.is_some_and(|line| !line.ends_with("} 0")), "{metrics}");
    assert!(ask(&address, "/healthz").ends_with("\r\n\r\nok\n"));
    for (query, status) in
        [("?version=3", "200"), ("?version=4", "503"), ("?max-behind=0", "200"), ("?x", "400")]
    {
        let answer = ask(&address, &format!("/readyz{query}"));
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{query}: {answer}");
    }
    assert!(ask(&address, "/").starts_with("HTTP/1.0 404"));
    follower.kill().unwrap();
    follower.wait().unwrap();
    run(&arguments!["follow", stream, dir.path().join("r"), "--metrics", "example.org"])
        .fails(2, &["--metrics"]);
}

#[test]
fn a_follower_is_unhealthy_while_its_stream_is_gone_and_says_so_in_the_end() {
    let dir = temporary();
    let stream = dir.path().join("stream");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("b")]).ok();
    let follow = arguments!["follow", stream, dir.path().join("r"), "--metrics", "0", "--poll", "100ms"];
    let mut follower = command(&follow).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut address = String::new();
    for line in lines {
        if let Some(found) = line.strip_prefix("metrics at http://") {
            address = found.trim_end_matches("/metrics").to_owned();
        }
        if line.starts_with("version 1") {
            break;
        }
    }
    assert!(ask(&address, "/healthz").starts_with("HTTP/1.0 200"));
    assert!(ask(&address, "/readyz").starts_with("HTTP/1.0 200"));
    fs::remove_dir_all(&stream).unwrap();
    // It looks for the stream 64 times more, so that there is time to ask.
    let answers = (0..30).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        ask(&address, "/healthz")
    });
    let unhealthy = answers.into_iter().find(|answer| answer.starts_with("HTTP/1.0 503")).unwrap();
    assert!(unhealthy.ends_with("the stream is gone\n"), "{unhealthy}");
    let ended = follower.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(6), "{said}");
    assert!(
        said.contains("is gone, which was there before") && said.contains("mount the directory"),
        "{said}"
    );
    assert!(!said.contains("publish"), "{said}");
}

#[test]
fn help_is_as_wide_as_the_terminal_and_no_wider_than_is_read_with_ease() {
    for (columns, most) in [("60", 60), ("80", 80), ("200", 110)] {
        for line in [&["pull", "--help"][..], &["publish", "-h"]] {
            let help = finish(command(line).env("COLUMNS", columns)).ok();
            let text = String::from_utf8(help.stdout).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= most, "{line:?} takes {widest} of {columns} columns:\n{text}");
        }
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let dir = temporary();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).ok();
        assert!(String::from_utf8(script.stdout).unwrap().contains("doctor"), "{shell}");
    }
    run(&arguments!["man", dir.path()]).ok();
    let page = fs::read_to_string(dir.path().join("tensorpatch-status.1")).unwrap();
    for words in [
        "max\\-behind",
        ".SH EXAMPLE\n",
        "tensorpatch status [OPTIONS] <URL> [DIR]\n",
        "Attempts at a request",
    ] {
        assert!(page.contains(words), "{words:?} is not in {page}");
    }
    let all = fs::read_to_string(dir.path().join("tensorpatch.1")).unwrap();
    assert!(all.contains(".SH \"EXIT STATUS\"") && !all.contains("EXTRA"), "{all}");
    run(&["completions", "abacus"]).fails(2, &["abacus"]);
}

#[test]
fn settings_come_from_the_flag_before_the_variable_before_the_file() {
    let dir = temporary();
    let (stream, settings) = (stream_in(dir.path()), dir.path().join("settings.toml"));
    fs::write(&settings, "max_plan_bytes = 1\n").unwrap();
    let replica = dir.path().join("fresh");
    let pull = |variable: Option<&str>, flags: &[&str]| {
        let mut command = command(&arguments!["pull", stream, replica]);
        command.args(flags).env("TENSORPATCH_CONFIG", &settings);
        command.envs(variable.map(|value| ("TENSORPATCH_MAX_PLAN_BYTES", value)));
        finish(&mut command)
    };
    pull(None, &[]).fails(2, &["at most 1"]);
    pull(Some("2"), &[]).fails(2, &["at most 2"]);
    pull(Some("2"), &["--max-plan-bytes", "3"]).fails(2, &["at most 3"]);
    pull(Some("1GiB"), &[]).ok();
    fs::write(&settings, "colour = \"red\"\n").unwrap();
    pull(None, &[]).fails(2, &["settings.toml", "colour", "docs/settings.md"]);
    fs::remove_file(&settings).unwrap();
    pull(None, &[]).fails(2, &["there is no such file"]);
}

#[test]
fn a_publish_writes_its_metrics_beside_nothing_that_it_reads() {
    let dir = temporary();
    let (stream, metrics) = (dir.path().join("stream"), dir.path().join("tensorpatch.prom"));
    let publish = |step, metrics: &Path| {
        run(&arguments!["publish", fixture(step), "--to", stream, "--metrics-file", metrics])
    };
    for version in 1..=2 {
        publish(version + 3, &metrics).ok();
        let text = fs::read_to_string(&metrics).unwrap();
        let told = text.lines().any(|line| {
            line.starts_with("tensorpatch_publisher_version{") && line.ends_with(&format!("}} {version}"))
        });
        assert!(told, "{text}");
        assert_eq!(text.contains("tensorpatch_publisher_changed_elements{"), version > 1, "{text}");
    }
    assert_documented("publisher", &fs::read_to_string(&metrics).unwrap(), &["docs/fleet.md"]);
    // What cannot be written is known before anything is published.
    let precious = dir.path().join("precious");
    fs::write(&precious, "not metrics").unwrap();
    publish(6, &precious).fails(2, &["precious"]);
    publish(6, &dir.path().join("missing").join("x.prom")).fails(1, &["missing"]);
    let checkpoint = dir.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    fs::copy(fixture(6), checkpoint.join("model.safetensors")).unwrap();
    run(&arguments!["publish", checkpoint, "--to", stream, "--metrics-file", checkpoint.join("x.prom")])
        .fails(2, &["output"]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "not metrics");
    let log = run(&arguments!["log", stream, "--json"]).ok().json();
    assert_eq!(log["versions"].as_array().unwrap().len(), 2);
}
