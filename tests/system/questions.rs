//! What a stream, a replica, a key and a place for a stream answer: `status`, `log`, `key show`, `doctor`.

use std::fs;
use std::path::Path;

use crate::support::{arguments, command, finish, fixture, read, run, shard, temporary, tree};

/// A stream of three versions in `dir`/stream, and a replica of version 1 in `dir`/replica.
fn stream_and_replica(dir: &Path) {
    let (stream, replica) = (dir.join("stream"), dir.join("replica"));
    for number in 4..=6 {
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", dir.join("baseline")]).ok();
        if number == 4 {
            run(&arguments!["pull", stream, replica]).ok();
        }
    }
}

#[test]
fn status_says_how_far_a_replica_is_behind_and_alters_nothing() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let before = tree(dir.path());
    let status = |directory: &Path, most: &str| {
        run(&arguments!["status", stream, directory, "--json", "--max-behind", most])
    };
    let behind = status(&replica, "2").ok().json();
    assert_eq!(behind["held"], 1);
    assert_eq!(behind["tip"], 3);
    assert_eq!(behind["behind_versions"], 2);
    assert_eq!(behind["condition"], "held");
    assert!(behind["behind_bytes"].as_u64().unwrap() > 0 && behind["tip_age_seconds"].is_u64(), "{behind}");
    let late = status(&replica, "1").fails(9, &["2 versions behind", "tensorpatch pull"]);
    assert_eq!(late.json()["behind_versions"], 2);
    let none = status(&dir.path().join("none"), "3").fails(9, &["no such directory"]).json();
    assert_eq!((&none["held"], &none["condition"]), (&serde_json::Value::Null, &"empty".into()));
    assert!(none["behind_bytes"].as_u64() > behind["behind_bytes"].as_u64(), "{none}");
    assert_eq!(tree(dir.path()), before);

    run(&arguments!["pull", stream, replica, "--lease", "engine-1"]).ok();
    let report = run(&arguments!["status", stream, replica, "--lease", "engine-1"]).ok();
    let text = String::from_utf8_lossy(&report.stdout);
    for words in ["version 3", "behind   0 versions", "engine-1, renewed"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let unknown = run(&arguments!["status", stream, replica, "--lease", "engine-2"]).ok();
    let text = String::from_utf8_lossy(&unknown.stdout);
    assert!(text.contains("none under this name; there are: engine-1"), "{text}");
}

#[test]
fn a_replica_between_two_versions_is_taken_for_no_checkpoint() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let state = replica.join(".tensorpatch/state.json");
    let whole: serde_json::Value = serde_json::from_slice(&read(&state)).unwrap();
    let held = &whole["condition"]["held"];
    let install = serde_json::json!({ "files": [], "remove": [] });
    let (out, link) = (dir.path().join("out"), dir.path().join("link.safetensors"));
    std::os::unix::fs::symlink(replica.join("model.safetensors"), &link).unwrap();
    let commands = |checkpoint: &Path| {
        [
            arguments!["digest", checkpoint].to_vec(),
            arguments!["diff", fixture(5), checkpoint, "-o", out].to_vec(),
            arguments!["diff", checkpoint, fixture(5), "-o", out].to_vec(),
            arguments!["inspect", fixture(5), checkpoint].to_vec(),
            arguments!["convert", checkpoint, "--to", "checkpoint", "-o", out].to_vec(),
            arguments!["publish", checkpoint, "--to", dir.path().join("other"), "--baseline", out].to_vec(),
            arguments!["publish", fixture(5), "--to", stream, "--base", checkpoint].to_vec(),
        ]
    };
    for condition in [
        serde_json::json!({ "switching": { "to": held, "install": install } }),
        serde_json::json!({ "applying": { "from": held, "to": held, "then": install } }),
    ] {
        let mut between = whole.clone();
        between["condition"] = condition;
        fs::write(&state, between.to_string()).unwrap();
        for checkpoint in [&replica, &replica.join("model.safetensors"), &link] {
            for line in commands(checkpoint) {
                run(&line).fails(2, &["is between two versions", "tensorpatch pull URL DIR finishes"]);
                assert!(!out.exists() && !dir.path().join("other").exists(), "{line:?}");
            }
        }
    }
    let said = run(&arguments!["pull", stream, replica, "--version", "1"]).ok();
    assert!(said.stderr.contains("an interrupted update was finished"), "{}", said.stderr);
    for line in &commands(&replica)[..2] {
        run(line).ok();
    }
}

#[test]
fn status_refuses_a_replica_of_another_stream_and_names_a_way_that_is_cut_off() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, other, replica) =
        (dir.path().join("stream"), dir.path().join("other"), dir.path().join("replica"));
    run(&arguments!["publish", fixture(5), "--to", other, "--baseline", dir.path().join("b")]).ok();
    run(&arguments!["status", other, replica]).fails(5, &["replica"]);
    fs::remove_dir_all(stream.join("patches")).unwrap();
    fs::remove_dir_all(stream.join("anchors")).unwrap();
    let cut_off = run(&arguments!["status", stream, replica, "--json", "--max-behind", "9"]).fails(9, &[]);
    assert!(cut_off.json()["obstacle"].as_str().unwrap().contains("no path leads to version 3"));
}

#[test]
fn status_tells_files_of_which_nothing_is_noted_from_an_empty_place() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let status = |directory: &Path, words: &str| {
        let told = run(&arguments!["status", stream, directory]).ok();
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(words), "{words:?} is not in {told}");
        run(&arguments!["status", stream, directory, "--json"]).ok().json()["condition"].clone()
    };
    let unknown = "files of which no pull has noted the version: tensorpatch pull finds out";
    fs::write(replica.join(".tensorpatch/state.json"), "{").unwrap();
    assert_eq!(status(&replica, unknown), "unknown");
    let ordinary = dir.path().join("ordinary");
    fs::create_dir(&ordinary).unwrap();
    assert_eq!(status(&ordinary, "nothing yet"), "empty");
    fs::copy(fixture(4), ordinary.join("model.safetensors")).unwrap();
    assert_eq!(status(&ordinary, unknown), "unknown");
    // As it says.
    for directory in [&replica, &ordinary] {
        assert_eq!(run(&arguments!["pull", stream, directory, "--json"]).ok().json()["from"], 1);
        assert_eq!(status(directory, "version 3"), "held");
    }
}

#[test]
fn the_log_fits_the_terminal_and_shows_dates_signers_and_anchors() {
    let dir = temporary();
    let (stream, key) = (dir.path().join("stream"), dir.path().join("key"));
    run(&arguments!["keygen", key]).ok();
    for number in 4..=6 {
        let label = format!("a step with a long name that does not fit into sixty columns: {number}");
        run(&arguments![
            "publish",
            fixture(number),
            "--to",
            stream,
            "--baseline",
            dir.path().join("baseline"),
            "--sign-key",
            key,
            "--label",
            label
        ])
        .ok();
    }
    let table = |width: &str, newest: &str| {
        let log = finish(command(&arguments!["log", stream, "-n", newest]).env("COLUMNS", width)).ok();
        let text = String::from_utf8_lossy(&log.stdout).into_owned();
        let (fields, table) = text.split_once("\n\n").unwrap();
        (fields.to_owned(), table.to_owned())
    };
    for (width, headings) in [("60", "version  kind"), ("80", "published"), ("200", "signer")] {
        let (_, table) = table(width, "9");
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width.parse().unwrap(), "{widest} columns:\n{table}");
        assert!(table.contains(headings), "{table}");
        assert_eq!(table.lines().count(), 4);
    }
    let (fields, wide) = table("200", "9");
    let public = run(&arguments!["key", "show", key, "--json"]).ok().json();
    let public = public["public_key"].as_str().unwrap();
    assert!(fields.contains(&format!("signed   {public}, versions 1 to 3")), "{fields}");
    assert!(fields.contains("anchors  1: the newest of version 1"), "{fields}");
    assert!(wide.contains(&public[..8]) && wide.contains("20"), "{wide}");

    let (fields, newest) = table("80", "2");
    assert_eq!(newest.lines().count(), 3, "{newest}");
    assert!(fields.contains("3 versions: the newest 2 are listed"), "{fields}");
    run(&arguments![
        "fold",
        stream,
        "--from",
        "1",
        "--to",
        "3",
        "--work",
        dir.path().join("work"),
        "--sign-key",
        key
    ])
    .ok();
    let (fields, _) = table("80", "9");
    assert!(fields.contains("folds    1, from 1 to 3"), "{fields}");
    let all = run(&arguments!["log", stream, "--json"]).ok().json();
    let some = run(&arguments!["log", stream, "--json", "-n", "2"]).ok().json();
    assert_eq!(all["versions"].as_array().unwrap()[1..], some["versions"].as_array().unwrap()[..]);
}

#[test]
fn the_help_of_the_log_says_what_its_columns_are() {
    let text = String::from_utf8(run(&["log", "--help"]).ok().stdout).unwrap();
    for words in ["B/change   bytes for each element", "chain      bytes of the patches", "Example:"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn a_key_tells_its_public_half_and_what_was_signed_with_it() {
    let dir = temporary();
    let (stream, key) = (dir.path().join("stream"), dir.path().join("key"));
    let made = run(&arguments!["keygen", key, "--json"]).ok().json();
    let unused = run(&arguments!["key", "show", key, "--json"]).ok().json();
    assert_eq!(unused["public_key"], made["public_key"]);
    assert_eq!(unused["signed"], serde_json::json!([]));
    let published = run(&arguments![
        "publish",
        fixture(4),
        "--to",
        stream,
        "--baseline",
        dir.path().join("baseline"),
        "--sign-key",
        key,
        "--json"
    ])
    .ok()
    .json();
    let used = run(&arguments!["key", "show", key, "--json"]).ok().json();
    assert_eq!(used["signed"][0]["stream"], published["stream"]);
    assert_eq!(used["signed"][0]["version"], 1);
    let shown = String::from_utf8(run(&arguments!["key", "show", key]).ok().stdout).unwrap();
    assert!(!shown.contains(String::from_utf8(read(&key)).unwrap().trim()), "the secret is shown");
    run(&arguments!["key", "show", fixture(4)]).fails(2, &["no signing key", "tensorpatch keygen"]);
    run(&arguments!["key", "show", dir.path()]).fails(2, &["is a directory", "tensorpatch keygen"]);
}

#[test]
fn the_doctor_only_reads_until_it_may_write_and_leaves_nothing() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let stream = dir.path().join("stream");
    let before = tree(&stream);
    let finding = |report: &serde_json::Value, check: &str| -> String {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    let read = run(&arguments!["doctor", stream, "--json"]).ok().json();
    for check in ["address", "reading", "listing", "stream", "latency", "download"] {
        assert_eq!(finding(&read, check), "good", "{read}");
    }
    assert_eq!(finding(&read, "conditional writes"), "skipped");
    let written = run(&arguments!["doctor", stream, "--write", "--json"]).ok().json();
    for check in ["writing", "conditional writes", "clock", "upload"] {
        assert_eq!(finding(&written, check), "good", "{written}");
    }
    assert!(written["upload_bytes_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(tree(&stream), before);

    // A place whose folder for such things was not there before has none afterwards.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    run(&arguments!["doctor", empty, "--write"]).ok();
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn the_doctor_finds_another_stream_and_one_that_lacks_a_version() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let stream = dir.path().join("stream");
    let id = run(&arguments!["log", stream, "--json"]).ok().json()["stream"].clone();
    let expected = ["--stream", id.as_str().unwrap(), "--expect-tip", "3"];
    run(&[arguments!["doctor", stream].to_vec(), expected.map(Into::into).to_vec()].concat()).ok();
    for (check, options, what) in [
        ("stream", ["--stream", "00112233445566778899aabbccddeeff"], "has the stream"),
        ("newest version", ["--expect-tip", "4"], "version 4 is known to exist"),
    ] {
        let line =
            [arguments!["doctor", stream, "--json"].to_vec(), options.map(Into::into).to_vec()].concat();
        let report =
            run(&line).fails(1, &["the place works, and the stream there is not as it should be"]).json();
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap();
        assert_eq!(found["verdict"], "bad", "{report}");
        assert!(found["what"].as_str().unwrap().contains(what) && found["advice"].is_string(), "{report}");
        // Nor is a place without a stream fit then.
        let line = [arguments!["doctor", dir.path().join("none")].to_vec(), options.map(Into::into).to_vec()]
            .concat();
        run(&line).fails(1, &["not fit for a stream"]);
    }
}

#[test]
fn the_doctor_says_what_to_do_about_a_stream_record_that_is_gone() {
    let dir = temporary();
    stream_and_replica(dir.path());
    fs::remove_file(dir.path().join("stream/stream.json")).unwrap();
    let report = run(&arguments!["doctor", dir.path().join("stream")]).fails(1, &["the place works"]);
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    for words in ["stream.json is gone", "restore stream.json, from a mirror or a backup"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn a_replica_whose_stream_is_not_there_names_it() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let id = run(&arguments!["log", stream, "--json"]).ok().json()["stream"].clone();
    fs::rename(&stream, dir.path().join("away")).unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(&stream).unwrap();
        }
        for command in ["pull", "status", "follow"] {
            let known = format!("holds version 1 of the stream {}", id.as_str().unwrap());
            let said = run(&arguments![command, stream, replica]).fails(6, &[&known, "mount the directory"]);
            assert!(!said.stderr.contains("publish"), "{}", said.stderr);
        }
    }
    // The directory of a replica is no place for a stream.
    run(&arguments!["doctor", replica]).fails(1, &["not fit for a stream"]);
}

#[test]
fn a_lease_has_a_name_of_its_own_and_one_that_cannot_be_read_is_named() {
    let dir = temporary();
    stream_and_replica(dir.path());
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    for command in ["pull", "status", "follow"] {
        run(&arguments![command, stream, replica, "--lease", " "])
            .fails(2, &["--lease", "no other replica has"]);
    }
    run(&arguments!["pull", stream, replica, "--version", "2", "--lease", "engine-1"]).ok();
    fs::write(stream.join("leases/0123.json"), "{").unwrap();
    let told = String::from_utf8(run(&arguments!["gc", stream, "--keep", "1"]).ok().stdout).unwrap();
    for words in ["engine-1 needs version 2", "leases/0123.json cannot be read, and keeps everything"] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
}

#[test]
fn the_doctor_says_whether_a_place_that_is_not_there_yet_can_be_made() {
    let dir = temporary();
    let missing = dir.path().join("missing/below");
    let told = run(&arguments!["doctor", missing, "--write"]).ok();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("nothing is at") && text.contains("it can be made"), "{text}");
    assert!(!dir.path().join("missing").exists());
    fs::write(dir.path().join("file"), "x").unwrap();
    let report = run(&arguments!["doctor", dir.path().join("file/below"), "--json"])
        .fails(1, &["not fit for a stream"])
        .json();
    assert!(report["findings"][0]["what"].as_str().unwrap().contains("is a file"), "{report}");
    assert_eq!(report["error"]["exit_code"], 1);
    let mut without = command(&["doctor", "s3://bucket/run"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        without.env_remove(name);
    }
    without.env("HOME", dir.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    let text = String::from_utf8(finish(&mut without).fails(1, &[]).stdout).unwrap();
    assert!(text.contains("no credentials were found") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[test]
fn status_misses_files_of_the_version_that_is_held() {
    let dir = temporary();
    let (stream, replica, checkpoint) =
        (dir.path().join("stream"), dir.path().join("replica"), dir.path().join("checkpoint"));
    shard(&fixture(4), &checkpoint, 2);
    run(&arguments!["publish", checkpoint, "--to", stream, "--baseline", dir.path().join("b")]).ok();
    let pull = arguments!["pull", stream, replica];
    let status = arguments!["status", stream, replica, "--max-behind", "0", "--json"];
    run(&pull).ok();
    assert_eq!(run(&status).ok().json()["faults"], serde_json::json!([]));
    let shorten = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    let shard = replica.join("model-00002-of-00002.safetensors");
    let alter: [(&str, &dyn Fn()); 3] = [
        ("model-00002-of-00002.safetensors", &|| fs::remove_file(&shard).unwrap()),
        ("model-00002-of-00002.safetensors", &|| shorten(&shard)),
        ("config.json", &|| fs::remove_file(replica.join("config.json")).unwrap()),
    ];
    for (name, alter) in alter {
        alter();
        let before = tree(&replica);
        let report = run(&status).fails(9, &["no whole version", "tensorpatch pull"]).json();
        assert_eq!((&report["condition"], &report["held"]), (&"damaged".into(), &serde_json::Value::Null));
        assert!(report["faults"].to_string().contains(name), "{report}");
        assert_eq!(report["error"]["exit_code"], 9, "{report}");
        assert_eq!(tree(&replica), before);
        let told = run(&arguments!["status", stream, replica]).ok();
        assert!(String::from_utf8_lossy(&told.stdout).contains(name));
        run(&pull).ok();
        run(&status).ok();
    }
    let mistyped = arguments!["status", stream, dir.path().join("replicca"), "--max-behind", "0"];
    run(&mistyped).fails(9, &["there is no such directory", "check the path"]);
}

#[test]
fn colours_are_for_terminals_and_those_who_force_them() {
    let dir = temporary();
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = command(&arguments!["doctor", dir.path()]);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(variables.iter().copied());
        finish(&mut command).ok().stdout.contains(&0x1b)
    };
    assert!(!coloured(&[]));
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}
