//! A stream as a release leaves it, and what every later version must make of it. Those that releases have
//! left are in `tests/compat/`; one is made here, too, so that the test never runs over nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::support::{arguments, assemble, read, run, shard, temporary, tree, write};

/// Where to leave the stream that is made: `cargo xtask compat record` sets it.
const KEEP: &str = "TENSORPATCH_KEEP_STREAM";

/// A dtype of each element format, and bits of its elements.
const DTYPES: [(&str, usize); 8] = [
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("U8", 8),
    ("BF16", 16),
    ("F16", 16),
    ("I16", 16),
    ("F32", 32),
    ("F64", 64),
];
const ELEMENTS: usize = 800;

/// Numbers that look random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Moves some elements of a tensor by one, and a few of those by more.
fn moved(bytes: &mut [u8], width: usize, version: usize) {
    for (number, element) in bytes.chunks_mut(width).enumerate() {
        if (number + 5 * version).is_multiple_of(37) {
            element[0] = element[0].wrapping_add(if number.is_multiple_of(5) { 9 } else { 1 });
        }
    }
}

/// A safetensors file that grows by a tensor at a time.
#[derive(Default)]
struct File {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend(bytes);
        let offsets = [start, self.data.len()];
        self.header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
    }
}

/// The tensors of a version, from 1 on.
fn tensors(version: usize) -> File {
    let mut file = File::default();
    for (number, (dtype, bits)) in (0..).zip(DTYPES) {
        let mut bytes = noise(number, ELEMENTS * bits / 8);
        (2..=version).for_each(|version| moved(&mut bytes, bits / 8, version));
        file.add(&format!("layer.{dtype}"), dtype, &[ELEMENTS], &bytes);
    }
    // All of it is new each time, then all of it changes alike.
    file.add("whole", "BF16", &[1000], &noise(100 + version as u64, 2000));
    let mask = if version.is_multiple_of(2) { [0, 0x55, 0xaa, 0] } else { [0; 4] };
    let alike = noise(99, 4000).into_iter().zip(mask.into_iter().cycle());
    file.add("alike", "F32", &[10, 100], &alike.map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>());
    if version >= 3 {
        let bytes = u8::try_from(version).unwrap();
        file.add("added", "I32", &[500], &[bytes, 0, 0, 0].repeat(500));
        file.add("added.empty", "F4", &[0], &[]);
    }
    file
}

/// Writes the checkpoint of a version with the files beside it: one file, then two shards.
fn write_checkpoint(directory: &Path, version: usize) {
    let File { header, data } = tensors(version);
    fs::create_dir_all(directory.join("1_Pooling")).unwrap();
    let whole = directory.join("model.safetensors");
    write(&whole, &assemble(&header, &data));
    if version >= 3 {
        shard(&whole, directory, 2);
        fs::remove_file(&whole).unwrap();
    }
    for (name, text) in companions(version) {
        write(&directory.join(name), text.as_bytes());
    }
}

fn companions(version: usize) -> [(&'static str, String); 2] {
    // The second one stays.
    [("config.json", format!("{{\"step\":{}}}", version / 2)), ("1_Pooling/config.json", "{}".to_owned())]
}

/// Makes a stream in `directory/bucket`, and `directory/kept.json` of what it holds: an anchor, deltas, one
/// of them direct, a fold, another anchor, a handover, and a version by the new key.
fn make(directory: &Path) {
    let scratch = temporary();
    let path = |name: &str| scratch.path().join(name);
    let bucket = directory.join("bucket");
    fs::create_dir_all(&bucket).unwrap();
    let keygen = |name: &str| {
        let report = run(&arguments!["keygen", path(name), "--json"]).ok().json();
        report["public_key"].as_str().unwrap().to_owned()
    };
    let keys = [keygen("old.key"), keygen("new.key")];
    let mut versions = Vec::new();
    for version in 1..=5 {
        let (from, key) =
            (path(&format!("step-{version}")), if version == 5 { "new.key" } else { "old.key" });
        write_checkpoint(&from, version);
        let profile = if version == 4 { "direct" } else { "compact" };
        let label = format!("step {version}");
        run(&arguments![
            "publish",
            from,
            "--to",
            bucket,
            "--baseline",
            path("baseline"),
            "--sign-key",
            path(key),
            "--profile",
            profile,
            "--label",
            label,
            "--no-anchors"
        ])
        .ok();
        if version == 4 {
            let fold = arguments![
                "fold",
                bucket,
                "--from",
                "1",
                "--to",
                "4",
                "--work",
                path("work"),
                "--sign-key",
                path(key)
            ];
            run(&fold).ok();
            run(&arguments!["anchor", bucket, "--baseline", path("baseline"), "--sign-key", path(key)]).ok();
            let rotate = arguments![
                "rotate",
                bucket,
                "--old-key-file",
                path("old.key"),
                "--new-key-file",
                path("new.key")
            ];
            run(&rotate).ok();
        }
        let digest = digest(&from);
        let companions = companions(version).map(|(name, text)| json!({"name": name, "text": text}));
        versions
            .push(json!({"state": digest["state"], "layout": digest["layout"], "companions": companions}));
    }
    let kept = json!({"keys": keys, "versions": versions});
    write(&directory.join("kept.json"), format!("{kept:#}\n").as_bytes());
}

fn digest(checkpoint: &Path) -> Value {
    run(&arguments!["digest", checkpoint, "--leaf-hash", "blake3", "--json"]).ok().json()
}

/// Fails the test unless everything in a kept stream is read, and is what it was.
fn check(kept: &Path) {
    let scratch = temporary();
    let bucket = scratch.path().join("bucket");
    for (name, bytes) in tree(&kept.join("bucket")) {
        fs::create_dir_all(bucket.join(&name).parent().unwrap()).unwrap();
        write(&bucket.join(name), &bytes);
    }
    let expected: Value = serde_json::from_slice(&read(&kept.join("kept.json"))).unwrap();
    let versions = expected["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 5, "{}", kept.display());
    let sound = |replica: &Path, number: usize| {
        let (found, due) = (digest(replica), &versions[number - 1]);
        assert_eq!((&found["state"], &found["layout"]), (&due["state"], &due["layout"]), "version {number}");
        for companion in due["companions"].as_array().unwrap() {
            let found = read(&replica.join(companion["name"].as_str().unwrap()));
            assert_eq!(String::from_utf8(found).unwrap(), companion["text"].as_str().unwrap());
        }
    };
    for key in expected["keys"].as_array().unwrap() {
        let key = key.as_str().unwrap();
        run(&arguments!["fsck", bucket, "--trust-key", key]).ok();
        let stays = scratch.path().join(format!("stays-{key}"));
        for number in 1..=5 {
            let fresh = scratch.path().join(format!("fresh-{number}-{key}"));
            for replica in [&stays, &fresh] {
                let version = number.to_string();
                run(&arguments!["pull", bucket, replica, "--version", version, "--trust-key", key]).ok();
                sound(replica, number);
            }
        }
        // Back along the inverses or from an anchor, and ahead by the fold.
        for number in [1, 4, 2, 5] {
            let version = number.to_string();
            run(&arguments!["pull", bucket, stays, "--version", version, "--trust-key", key]).ok();
            sound(&stays, number);
        }
    }
}

/// The folders of a kept stream with the names of their files, and the encodings of its patches.
fn inventory(kept: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut folders, mut encodings) = (BTreeSet::new(), BTreeSet::new());
    for path in tree(&kept.join("bucket")).into_keys() {
        folders.insert(path.iter().next().unwrap().to_string_lossy().into_owned());
        if path.extension().is_some_and(|extension| extension == "tpatch") {
            let patch: PathBuf = kept.join("bucket").join(path);
            let report = run(&arguments!["inspect", patch, "--json"]).ok().json();
            for encoding in report["encodings"].as_array().unwrap() {
                encodings.insert(encoding["encoding"].as_str().unwrap().to_owned());
            }
        }
    }
    (folders, encodings)
}

#[test]
fn a_stream_that_is_kept_now_has_all_that_a_stream_can_have_and_is_read() {
    let temporary = temporary();
    let left = std::env::var_os(KEEP).map(PathBuf::from);
    let directory = left.unwrap_or_else(|| temporary.path().to_owned());
    make(&directory);
    let (folders, encodings) = inventory(&directory);
    for folder in
        ["anchors", "commits", "companions", "edges", "folds", "handovers", "patches", "stream.json"]
    {
        assert!(folders.contains(folder), "no {folder} in {folders:?}");
    }
    for encoding in ["raw", "scatter", "sparse", "xor", "zstd"] {
        assert!(encodings.contains(encoding), "no {encoding} in {encodings:?}");
    }
    check(&directory);
}

#[test]
fn the_streams_of_all_releases_are_read() {
    let compat = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compat");
    let releases = fs::read_to_string(compat.join("releases.txt")).unwrap_or_default();
    for release in releases.lines() {
        check(&compat.join(release).join("stream"));
    }
}
