//! Records of streams: those that a reader must take, and those that it must refuse.

use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

/// A record and what is to be said of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Unique among all vectors.
    pub(crate) id: String,
    /// The kind that the reader asks for: `stream`, `commit` or `edge`.
    pub(crate) kind: &'static str,
    /// The public keys that the reader trusts; none if it takes unsigned records.
    pub(crate) trusted: Vec<String>,
    /// Whether it must be taken.
    pub(crate) valid: bool,
    /// What it shows.
    pub(crate) comment: String,
    /// The section of `stream.md` that decides.
    pub(crate) section: &'static str,
    /// The bytes of the record.
    pub(crate) bytes: Vec<u8>,
}

/// The secret keys are no secret: their bytes are all the same.
fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn hex(bytes: &[u8]) -> String {
    crate::state::hex(bytes)
}

fn public(key: &SigningKey) -> String {
    hex(key.verifying_key().as_bytes())
}

/// Section 4.4.
fn signed(kind: &str, record: &str, key: &SigningKey) -> String {
    let open = record.strip_suffix('}').expect("an object");
    let message = [b"tensorpatch.v1.tensorpatch-", kind.as_bytes(), b"\0", open.as_bytes()].concat();
    let signature = hex(&key.sign(&message).to_bytes());
    format!(r#"{open},"signature":{{"ed25519":"{}","value":"{signature}"}}}}"#, public(key))
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn object(key: &str, bytes: u64) -> Value {
    json!({"key": key, "bytes": bytes, "blake3": digest(key)})
}

fn named(name: &str, key: &str) -> Value {
    json!({"name": name, "key": key, "bytes": 7, "blake3": digest(key)})
}

const NONCE: &str = "00000000000000000001-0123456789abcdef0123456789abcdef";

fn head(kind: &str) -> Value {
    json!({
        "format": format!("tensorpatch-{kind}"), "major": 1, "minor": 0, "requires": [],
        "stream": "00112233445566778899aabbccddeeff", "created": 1_790_000_000,
    })
}

fn joined(mut object: Value, members: Value) -> Value {
    let (into, from) = (object.as_object_mut().expect("an object"), members.as_object().expect("an object"));
    into.extend(from.clone());
    object
}

fn stream() -> Value {
    joined(head("stream"), json!({"leaf_hash": "xxh3", "writers": "many"}))
}

/// Version 1: an anchor.
fn first() -> Value {
    let anchor = json!({
        "files": [
            named("model.safetensors", &format!("anchors/{NONCE}/model.safetensors")),
            named("config.json", &format!("anchors/{NONCE}/config.json")),
        ],
        "leaves": object(&format!("anchors/{NONCE}.leaves"), 16),
    });
    joined(
        head("commit"),
        json!({
            "version": 1, "previous": null, "publisher": "trainer", "nonce": &NONCE[21..], "label": "step 0",
            "state": format!("xxh3:{}", digest("state 1")), "schema": digest("schema"), "layout": digest("layout"),
            "state_bytes": 100, "tensors": 2, "anchor": anchor,
            "companions": [named("config.json", &format!("companions/{NONCE}/config.json"))],
        }),
    )
}

fn base() -> Value {
    json!({
        "version": 1, "commit": digest("commit 1"), "state": format!("xxh3:{}", digest("state 1")), "layout": digest("layout"),
    })
}

/// Version 2: a delta.
fn second() -> Value {
    let part = object("parts/00000000000000000002-0123456789abcdef0123456789abcdef/0.tpatch", 500);
    let mut record = joined(
        first(),
        json!({
            "version": 2, "previous": {"version": 1, "commit": digest("commit 1")},
            "state": format!("xxh3:{}", digest("state 2")),
            "delta": {"base": base(), "kind": "delta", "changed_elements": 3, "total_elements": 50, "parts": [part]},
        }),
    );
    record.as_object_mut().expect("an object").remove("anchor");
    record
}

fn edge() -> Value {
    let target = json!({
        "version": 3, "commit": digest("commit 3"), "state": format!("xxh3:{}", digest("state 3")), "layout": digest("layout"),
    });
    let part = object(
        "folds/00000000000000000003-00000000000000000001-0123456789abcdef0123456789abcdef/0.tpatch",
        900,
    );
    joined(
        head("edge"),
        json!({
            "publisher": "folder", "nonce": &NONCE[21..], "target": target,
            "delta": {"base": base(), "kind": "delta", "changed_elements": 3, "total_elements": 50, "parts": [part]},
        }),
    )
}

/// A record with another value at a JSON pointer.
fn with(mut record: Value, pointer: &str, value: Value) -> Value {
    *record.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    record
}

fn without(mut record: Value, member: &str) -> Value {
    record.as_object_mut().expect("an object").remove(member).expect("a member");
    record
}

struct Maker(Vec<Record>);

impl Maker {
    fn add(
        &mut self,
        valid: bool,
        id: &str,
        kind: &'static str,
        section: &'static str,
        comment: &str,
        record: Vec<u8>,
    ) {
        let (id, comment) = (format!("record-{id}"), comment.to_owned());
        self.0.push(Record { id, kind, trusted: Vec::new(), valid, comment, section, bytes: record });
    }

    fn commit(&mut self, id: &str, section: &'static str, comment: &str, record: &Value) {
        self.add(false, id, "commit", section, comment, record.to_string().into_bytes());
    }

    fn trusting(&mut self, keys: &[&SigningKey]) {
        self.0.last_mut().expect("a record").trusted = keys.iter().map(|key| public(key)).collect();
    }
}

/// All vectors of records.
pub(crate) fn records() -> Vec<Record> {
    let mut maker = Maker(Vec::new());
    taken(&mut maker);
    shapes(&mut maker);
    rules(&mut maker);
    signatures(&mut maker);
    maker.0
}

fn taken(maker: &mut Maker) {
    let text = |record: Value| record.to_string().into_bytes();
    for (id, kind, section, comment, record) in [
        ("stream", "stream", "4.1", "A stream record", stream()),
        ("commit-anchor", "commit", "4.2", "The first version, an anchor", first()),
        ("commit-delta", "commit", "4.2", "A version with a delta", second()),
        (
            "commit-both",
            "commit",
            "4.2",
            "A version with a delta and an anchor",
            joined(second(), json!({"anchor": first()["anchor"]})),
        ),
        (
            "commit-empty-delta",
            "commit",
            "4.2",
            "An empty delta: the same state",
            with(with(second(), "/delta/kind", json!("empty")), "/state", base()["state"].clone()),
        ),
        ("commit-no-label", "commit", "4.2", "No label", without(first(), "label")),
        ("commit-no-companions", "commit", "4.2", "No companions", with(first(), "/companions", json!([]))),
        ("edge-fold", "edge", "4.3", "An edge with a fold", edge()),
        (
            "edge-anchor",
            "edge",
            "4.3",
            "An edge with an anchor",
            joined(without(edge(), "delta"), json!({"anchor": first()["anchor"]})),
        ),
        (
            "minor-version",
            "commit",
            "4",
            "A later minor version with members that nobody knows",
            joined(with(first(), "/minor", json!(9)), json!({"colour": {"a": [1, null, "x"]}})),
        ),
        (
            "largest-integer",
            "commit",
            "4",
            "The largest integer",
            with(first(), "/state_bytes", json!((1_u64 << 53) - 1)),
        ),
    ] {
        maker.add(true, id, kind, section, comment, text(record));
    }
    let spaced = serde_json::to_vec_pretty(&first()).expect("JSON");
    maker.add(
        true,
        "white-space",
        "commit",
        "4",
        "White space between the tokens, which writers leave out",
        spaced,
    );
}

fn shapes(maker: &mut Maker) {
    let text = first().to_string();
    let bad = |maker: &mut Maker, id: &str, comment: &str, bytes: Vec<u8>| {
        maker.add(false, id, "commit", "4", comment, bytes);
    };
    bad(maker, "none", "No bytes", Vec::new());
    bad(maker, "cut", "The last brace is missing", text.as_bytes()[..text.len() - 1].to_vec());
    bad(maker, "followed", "Something after the record", format!("{text}{{}}").into_bytes());
    bad(maker, "list", "A list", format!("[{text}]").into_bytes());
    bad(maker, "not-utf8", "Bytes that are not UTF-8", [b"\xff\xfe".as_slice(), text.as_bytes()].concat());
    bad(
        maker,
        "member-twice",
        "A member twice",
        text.replace(r#""tensors":2"#, r#""tensors":2,"tensors":2"#).into_bytes(),
    );
    bad(
        maker,
        "deep",
        "A hundred thousand brackets",
        text.replace(r#""tensors":2"#, &format!(r#""tensors":2,"x":{}"#, "[".repeat(100_000))).into_bytes(),
    );
    maker.commit("major-2", "4", "Another major version", &with(first(), "/major", json!(2)));
    maker.commit(
        "requires",
        "4",
        "A feature that nobody knows is required",
        &with(first(), "/requires", json!(["sharding"])),
    );
    maker.commit(
        "other-format",
        "4",
        "A record of another kind",
        &with(first(), "/format", json!("tensorpatch-edge")),
    );
    for member in [
        "format",
        "major",
        "minor",
        "requires",
        "stream",
        "version",
        "previous",
        "state",
        "schema",
        "layout",
        "nonce",
        "companions",
    ] {
        if member != "previous" {
            maker.commit(
                &format!("without-{member}"),
                "4.2",
                &format!("No `{member}`"),
                &without(first(), member),
            );
        }
    }
}

fn rules(maker: &mut Maker) {
    for (id, pointer, value, comment) in [
        ("version-0", "/version", json!(0), "Version 0"),
        ("version-2-53", "/version", json!(1_u64 << 53), "A version over 2^53 - 1"),
        ("version-negative", "/version", json!(-1), "A negative version"),
        ("version-fraction", "/version", json!(1.5), "A version that is no integer"),
        ("tensors-2-53", "/tensors", json!(1_u64 << 53), "A count over 2^53 - 1"),
        ("bytes-2-64", "/anchor/leaves/bytes", json!(u64::MAX), "A size over 2^53 - 1"),
        ("stream-short", "/stream", json!("0011"), "A short stream id"),
        (
            "stream-upper-case",
            "/stream",
            json!("00112233445566778899AABBCCDDEEFF"),
            "A stream id in upper case",
        ),
        ("state-no-hash", "/state", json!(digest("state 1")), "A state digest without its leaf hash"),
        (
            "state-other-hash",
            "/state",
            json!(format!("md5:{}", digest("state 1"))),
            "A state digest of an unknown leaf hash",
        ),
        ("blake3-short", "/anchor/leaves/blake3", json!("00"), "A short digest"),
        (
            "previous-of-first",
            "/previous",
            json!({"version": 1, "commit": digest("x")}),
            "Version 1 with a record before it",
        ),
    ] {
        maker.commit(id, "4.2", comment, &with(first(), pointer, value));
    }
    for (id, key, comment) in [
        ("parent", "anchors/../secret", "A key that leads elsewhere"),
        ("absolute", "/anchors/x", "A key that begins with a slash"),
        ("one-segment", "anchors", "A key of one segment"),
        ("other-folder", "commits/00000000000000000001.json", "A key in a folder that holds no data"),
        ("hidden", "anchors/.x", "A hidden segment"),
        ("empty-segment", "anchors//x", "An empty segment"),
        ("backslash", "anchors/a\\b", "A backslash"),
        ("control", "anchors/a\nb", "A control character"),
        ("star", "anchors/*", "A character that stores do not like"),
    ] {
        maker.commit(&format!("key-{id}"), "3", comment, &with(first(), "/anchor/leaves/key", json!(key)));
    }
    let long = format!("anchors/{}", "x".repeat(256));
    maker.commit(
        "key-long-segment",
        "3",
        "A segment of 256 bytes",
        &with(first(), "/anchor/leaves/key", json!(long)),
    );
    maker.commit(
        "file-name-parent",
        "3",
        "A file name that leads elsewhere",
        &with(first(), "/anchor/files/0/name", json!("../x")),
    );
    maker.commit(
        "file-name-twice",
        "3",
        "A file name twice",
        &with(first(), "/anchor/files/1/name", json!("model.safetensors")),
    );
    maker.commit(
        "companion-name-hidden",
        "3",
        "A hidden companion",
        &with(first(), "/companions/0/name", json!(".netrc")),
    );
    maker.commit("first-without-anchor", "4.2", "Version 1 without an anchor", &without(first(), "anchor"));
    maker.commit("no-way", "4.2", "Neither a delta nor an anchor", &without(second(), "delta"));
    maker.commit(
        "base-later",
        "4.2",
        "A base that is not an earlier version",
        &with(second(), "/delta/base/version", json!(2)),
    );
    maker.commit(
        "previous-missing",
        "4.2",
        "Version 2 without the record before it",
        &with(second(), "/previous", json!(null)),
    );
    maker.commit(
        "previous-other",
        "4.2",
        "The record before has another number",
        &with(second(), "/previous/version", json!(2)),
    );
    maker.commit("no-parts", "4.2", "A delta without parts", &with(second(), "/delta/parts", json!([])));
    maker.commit(
        "kind-unknown",
        "4.2",
        "A delta of an unknown kind",
        &with(second(), "/delta/kind", json!("full")),
    );
    let edge_text = |record: Value| record.to_string().into_bytes();
    maker.add(
        false,
        "edge-both",
        "edge",
        "4.3",
        "An edge with a fold and an anchor",
        edge_text(joined(edge(), json!({"anchor": first()["anchor"]}))),
    );
    maker.add(
        false,
        "edge-neither",
        "edge",
        "4.3",
        "An edge without a way",
        edge_text(without(edge(), "delta")),
    );
    maker.add(
        false,
        "stream-writers",
        "stream",
        "4.1",
        "Writers of an unknown kind",
        edge_text(with(stream(), "/writers", json!("some"))),
    );
    maker.add(
        false,
        "stream-leaf-hash",
        "stream",
        "4.1",
        "An unknown leaf hash",
        edge_text(with(stream(), "/leaf_hash", json!("md5"))),
    );
}

fn signatures(maker: &mut Maker) {
    let (ours, other) = (key(1), key(2));
    let text = first().to_string();
    let good = signed("commit", &text, &ours);
    let mut add = |valid, id: &str, comment: &str, record: String, keys: &[&SigningKey]| {
        maker.add(valid, &format!("signature-{id}"), "commit", "4.4", comment, record.into_bytes());
        maker.trusting(keys);
    };
    add(true, "good", "Signed by the trusted key", good.clone(), &[&ours]);
    add(true, "one-of-two", "Signed by one of two trusted keys", good.clone(), &[&other, &ours]);
    add(true, "nobody-asked", "Signed, and the reader trusts whoever writes", good.clone(), &[]);
    add(false, "missing", "Not signed", text.clone(), &[&ours]);
    add(false, "other-key", "Signed by a key that is not trusted", signed("commit", &text, &other), &[&ours]);
    add(
        false,
        "other-format",
        "The signature of a record of another kind",
        signed("edge", &text, &ours),
        &[&ours],
    );
    add(
        false,
        "altered",
        "A member was altered after signing",
        good.replace(r#""tensors":2"#, r#""tensors":3"#),
        &[&ours],
    );
    let last = good.len() - 4;
    let flipped = if good.as_bytes()[last] == b'0' { "1" } else { "0" };
    add(
        false,
        "flipped",
        "A digit of the signature was altered",
        format!("{}{flipped}{}", &good[..last], &good[last + 1..]),
        &[&ours],
    );
    let renamed = good.replace(&public(&ours), &public(&other));
    add(false, "renamed-key", "The name of another key, which is trusted too", renamed, &[&ours, &other]);
    let twice = signed("commit", &good, &other);
    add(false, "twice", "Two signatures", twice, &[&ours, &other]);
    let spaced = good.replace(r#","signature""#, r#", "signature""#);
    add(false, "spaced", "White space before the signature", spaced, &[&ours]);
}
