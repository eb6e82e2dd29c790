//! What every command prints with `--json`, held against `docs/schemas/`; that it says something to people as
//! well; and that it fails with an error document.
//!
//! The schemas are inferred from what the commands print here: `TENSORPATCH_WRITE_SCHEMAS=1` writes them
//! after a change that was meant.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::support::{arguments, fixture, run, temporary};

/// What the values that were seen have in common, as a JSON schema.
fn schema_of(values: &[&Value]) -> Value {
    let mut types = BTreeSet::new();
    let (mut objects, mut items) = (Vec::new(), Vec::new());
    for value in values {
        types.insert(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(found) => {
                items.extend(found);
                "array"
            }
            Value::Object(found) => {
                objects.push(found);
                "object"
            }
        });
    }
    let types: Vec<&str> = types.into_iter().collect();
    let mut schema = Map::new();
    schema.insert("type".into(), if let [one] = types.as_slice() { json!(one) } else { json!(types) });
    if !items.is_empty() {
        schema.insert("items".into(), schema_of(&items));
    }
    if !objects.is_empty() {
        let names: BTreeSet<&String> = objects.iter().flat_map(|object| object.keys()).collect();
        let of = |name: &str| objects.iter().filter_map(|object| object.get(name)).collect::<Vec<_>>();
        let properties = names.iter().map(|name| ((*name).clone(), schema_of(&of(name)))).collect();
        let always = names.iter().filter(|name| of(name).len() == objects.len());
        let always: Vec<&&String> = always.collect();
        schema.insert("properties".into(), Value::Object(properties));
        schema.insert("required".into(), json!(always));
    }
    Value::Object(schema)
}

/// Compares the schema of what a command printed with the one that is published.
fn hold(command: &str, printed: &[Value]) {
    let mut schema = schema_of(&printed.iter().collect::<Vec<_>>());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("tensorpatch {command} --json"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    let path = root.join(format!("{}.schema.json", command.replace(' ', "-")));
    if std::env::var_os("TENSORPATCH_WRITE_SCHEMAS").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    let published: Value = serde_json::from_str(&published).unwrap_or_default();
    assert!(published == schema, "{command} prints what {} does not say: {schema:#}", path.display());
}

/// Runs a command for people and then for programs, each with its own `number`, and holds its schema.
fn shape<const N: usize>(command: &str, line: impl Fn(usize) -> [OsString; N]) {
    shape_beside(command, Vec::new(), line);
}

/// As [`shape`], where other runs have printed `others`: what may be absent or null, and is not in this one.
fn shape_beside<const N: usize>(command: &str, others: Vec<Value>, line: impl Fn(usize) -> [OsString; N]) {
    let for_people = run(&line(0)).ok();
    assert!(!for_people.stdout.is_empty() && !for_people.stdout.starts_with(b"{"), "{command} says nothing");
    let mut line = line(1).to_vec();
    line.push("--json".into());
    hold(command, &[others, vec![run(&line).ok().json()]].concat());
}

/// What a command prints for programs.
fn printed<const N: usize>(line: [OsString; N]) -> Value {
    run(&[line.to_vec(), vec!["--json".into()]].concat()).json()
}

fn failure<const N: usize>(code: i32, line: [OsString; N]) -> Value {
    let mut line = line.to_vec();
    line.push("--json".into());
    run(&line).fails(code, &["error:"]).json()
}

#[test]
fn every_command_prints_what_its_schema_says_and_fails_with_an_error_document() {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    let numbered = |name: &str, number: usize| dir.path().join(format!("{name}-{number}"));
    let (old, new, patch, none) = (fixture(4), fixture(5), path("p.tpatch"), path("none"));

    shape("keygen", |number| arguments!["keygen", numbered("key", number)]);
    let (key, next_key) = (numbered("key", 0), numbered("key", 1));
    shape("diff", |_| arguments!["diff", old, new, "-o", patch]);
    shape("apply", |number| arguments!["apply", old, patch, "-o", numbered("rebuilt", number)]);
    let bare = printed(arguments!["inspect", patch]);
    shape_beside("inspect", vec![bare], |_| arguments!["inspect", patch, "--base", old, "--tensors"]);
    shape("digest", |_| arguments!["digest", old]);
    shape("convert", |number| {
        arguments!["convert", patch, "--base", old, "--to", "checkpoint", "-o", numbered("converted", number)]
    });

    // Two streams, so that what alters one can be run twice.
    let stream = |number: usize| numbered("stream", number);
    let publish = |checkpoint: PathBuf, number: usize| {
        let baseline = numbered("baseline", number);
        arguments!["publish", checkpoint, "--to", stream(number), "--baseline", baseline, "--sign-key", key]
    };
    for number in [0, 1] {
        run(&publish(old.clone(), number)).ok();
        run(&publish(new.clone(), number)).ok();
        run(&arguments!["pull", stream(0), path("late"), "--version", "1", "--lease", "late"]).ok();
    }
    // Another, where all is otherwise: not signed, labelled, with a name of its publisher.
    let plain = path("plain");
    let publish_plain = |checkpoint: PathBuf, label: &str| {
        printed(arguments![
            "publish",
            checkpoint,
            "--to",
            plain,
            "--baseline",
            path("plain's"),
            "--publisher",
            "p",
            "--label",
            label
        ])
    };
    let plainly = [(4, "a"), (5, "b"), (5, "b"), (6, "c")];
    let plainly = plainly.map(|(step, label)| publish_plain(fixture(step), label));
    shape_beside("publish", plainly.to_vec(), |number| publish(fixture(6), number));
    let pulled = ["1", "3", "1", "1"].map(|version| {
        printed(arguments!["pull", plain, path("plain replica"), "--version", version, "--lease", "plain"])
    });
    shape_beside("pull", pulled.to_vec(), |number| {
        arguments!["pull", stream(0), numbered("replica", number)]
    });
    let replica = numbered("replica", 0);
    let damaged = damaged_replica(&replica, &path("damaged"));
    shape_beside("verify", vec![printed(arguments!["verify", damaged])], |_| arguments!["verify", replica]);
    let followed = printed(arguments!["follow", plain, path("plain replica"), "--until", "3"]);
    shape_beside("follow", vec![followed], |number| {
        arguments!["follow", stream(0), numbered("follower", number), "--until", "3"]
    });
    let cut_off = without_anchors(&dir);
    let statuses = vec![
        printed(arguments!["status", plain, path("nothing")]),
        printed(arguments!["status", plain, path("nothing"), "--max-behind", "0"]),
        printed(arguments!["status", stream(0), damaged, "--max-behind", "0"]),
        printed(arguments!["status", plain, path("plain replica"), "--lease", "nobody"]),
        printed(arguments!["status", cut_off, path("nothing")]),
    ];
    shape_beside("status", statuses, |_| arguments!["status", stream(0), path("late"), "--lease", "late"]);
    shape_beside("log", vec![printed(arguments!["log", plain])], |_| arguments!["log", stream(0)]);
    let diagnoses = [plain.clone(), none.clone(), patch.join("below a file")];
    let diagnoses = diagnoses.map(|place| printed(arguments!["doctor", place])).to_vec();
    shape_beside("doctor", diagnoses, |_| arguments!["doctor", stream(0), "--write"]);
    shape("inspect compare", |_| arguments!["inspect", old, new]);
    let reports = ["8", "0"]
        .map(|steps| printed(arguments!["report", plain, "--work", path("plain work"), "--steps", steps]));
    shape_beside("report", reports.to_vec(), |number| {
        arguments!["report", stream(0), "-o", numbered("page", number), "--work", path("work")]
    });
    shape_beside("fsck", vec![printed(arguments!["fsck", cut_off])], |_| arguments!["fsck", stream(0)]);
    let trust = run(&arguments!["key", "show", key, "--json"]).ok().json();
    let trust = trust["public_key"].as_str().unwrap().to_owned();
    shape("anchor", |number| {
        arguments!["anchor", stream(number), "--baseline", numbered("baseline", number), "--sign-key", key]
    });
    shape("fold", |number| {
        let work = numbered("fold", number);
        arguments!["fold", stream(number), "--from", "1", "--to", "3", "--work", work, "--sign-key", key]
    });
    shape("rollback", |number| arguments!["rollback", stream(number), "--sign-key", key]);
    shape("gc", |_| arguments!["gc", stream(0), "--keep", "1", "--grace", "0s", "--sign-key", key]);
    let lacking = arguments!["mirror", plain, path("copy"), "--work", path("copy work")];
    printed(lacking.clone());
    fs::remove_dir_all(plain.join("patches")).unwrap();
    shape_beside("mirror", vec![printed(lacking)], |number| {
        arguments!["mirror", stream(0), numbered("mirror", number), "--trust-key", trust]
    });
    shape("key show", |_| arguments!["key", "show", key]);
    shape("rotate", |number| {
        arguments!["rotate", stream(number), "--old-key-file", key, "--new-key-file", next_key]
    });

    let failures = [
        failure(2, arguments!["keygen", key]),
        failure(3, arguments!["diff", patch, new, "-o", path("x")]),
        failure(4, arguments!["apply", fixture(6), patch, "-o", path("x")]),
        failure(2, arguments!["inspect", old]),
        failure(1, arguments!["digest", none]),
        failure(1, arguments!["convert", none, "--base", old, "--to", "checkpoint", "-o", path("x")]),
        failure(1, arguments!["publish", none, "--to", stream(0)]),
        failure(6, arguments!["pull", none, path("x")]),
        failure(2, arguments!["verify", path("x")]),
        failure(6, arguments!["follow", none, path("x")]),
        failure(6, arguments!["status", none, path("x")]),
        failure(6, arguments!["log", none]),
        failure(6, arguments!["report", none, "-o", path("x")]),
        failure(6, arguments!["fsck", none]),
        failure(6, arguments!["anchor", none]),
        failure(6, arguments!["fold", none]),
        failure(6, arguments!["rollback", none, "--sign-key", key]),
        failure(6, arguments!["gc", none]),
        failure(6, arguments!["mirror", none, path("x")]),
        failure(2, arguments!["key", "show", none]),
        failure(6, arguments!["rotate", none, "--old-key-file", key, "--new-key-file", next_key]),
        failure(2, arguments!["bogus"]),
        failure(3, arguments!["pull", cut_off, path("x")]),
        failure(3, arguments!["digest", without_shard(&dir)]),
    ];
    let named = |of: &Value| of["error"].get("path").or(of["error"].get("object")).is_some();
    assert!(failures[failures.len() - 2..].iter().all(named), "{failures:#?}");
    hold("error", &failures);
}

/// A copy of a replica whose weights are gone.
fn damaged_replica(replica: &Path, copy: &Path) -> PathBuf {
    let copied = std::process::Command::new("cp").arg("-a").arg(replica).arg(copy).status().unwrap();
    assert!(copied.success());
    fs::remove_file(copy.join("model.safetensors")).unwrap();
    copy.to_owned()
}

/// A stream whose anchor is gone.
fn without_anchors(dir: &tempfile::TempDir) -> PathBuf {
    let stream = dir.path().join("without anchors");
    run(&arguments!["publish", fixture(4), "--to", stream, "--baseline", dir.path().join("none's")]).ok();
    fs::remove_dir_all(stream.join("anchors")).unwrap();
    stream
}

/// A checkpoint whose index names a shard that is not there.
fn without_shard(dir: &tempfile::TempDir) -> PathBuf {
    let checkpoint = dir.path().join("without shard");
    fs::create_dir(&checkpoint).unwrap();
    let index = r#"{"metadata": {}, "weight_map": {"w": "model-1.safetensors"}}"#;
    fs::write(checkpoint.join("model.safetensors.index.json"), index).unwrap();
    checkpoint
}

#[test]
fn the_demo_prints_what_its_schema_says() {
    shape("demo", |_| arguments!["demo", "--size", "2MiB", "--steps", "2"]);
}
