//! Records of streams: those that a reader must take, and those that it must refuse.

use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

/// A record and what is to be said of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Unique among all vectors.
    pub(crate) id: String,
    /// The kind that the reader asks for: `stream`, `commit`, `edge` or `handover`.
    pub(crate) kind: &'static str,
    /// The public keys that the reader trusts; none if it takes unsigned records.
    pub(crate) trusted: Vec<String>,
    /// The ids of the handovers of the stream.
    pub(crate) handovers: Vec<String>,
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
pub(crate) fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    crate::state::hex(bytes)
}

pub(crate) fn public(key: &SigningKey) -> String {
    hex(key.verifying_key().as_bytes())
}

pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}

/// Section 4.4.
pub(crate) fn signed(kind: &str, record: &str, key: &SigningKey) -> String {
    let open = record.strip_suffix('}').expect("an object");
    let message = [b"tensorpatch.v1.tensorpatch-", kind.as_bytes(), b"\0", open.as_bytes()].concat();
    let signature = hex(&sign(key, &message));
    format!(r#"{open},"signature":{{"ed25519":"{}","value":"{signature}"}}}}"#, public(key))
}

pub(crate) fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

pub(crate) fn object(key: &str, bytes: u64) -> Value {
    json!({"key": key, "bytes": bytes, "blake3": digest(key)})
}

pub(crate) fn named(name: &str, key: &str) -> Value {
    json!({"name": name, "key": key, "bytes": 7, "blake3": digest(key)})
}

pub(crate) const NONCE: &str = "00000000000000000001-0123456789abcdef0123456789abcdef";

pub(crate) fn head(kind: &str) -> Value {
    json!({
        "format": format!("tensorpatch-{kind}"), "major": 1, "minor": 0, "requires": [],
        "stream": "00112233445566778899aabbccddeeff", "created": 1_790_000_000,
    })
}

pub(crate) fn joined(mut object: Value, members: Value) -> Value {
    let (into, from) = (object.as_object_mut().expect("an object"), members.as_object().expect("an object"));
    into.extend(from.clone());
    object
}

pub(crate) fn stream() -> Value {
    joined(head("stream"), json!({"leaf_hash": "xxh3", "writers": "many"}))
}

/// Version 1: an anchor.
pub(crate) fn first() -> Value {
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

pub(crate) fn base() -> Value {
    json!({
        "version": 1, "commit": digest("commit 1"), "state": format!("xxh3:{}", digest("state 1")), "layout": digest("layout"),
    })
}

/// Version 2: a delta.
pub(crate) fn second() -> Value {
    let patch = object("patches/00000000000000000002-0123456789abcdef0123456789abcdef/0.tpatch", 500);
    let mut record = joined(
        first(),
        json!({
            "version": 2, "previous": {"version": 1, "commit": digest("commit 1")},
            "state": format!("xxh3:{}", digest("state 2")),
            "delta": {"base": base(), "kind": "delta", "changed_elements": 3, "total_elements": 50, "patches": [patch]},
        }),
    );
    record.as_object_mut().expect("an object").remove("anchor");
    record
}

/// Version 2, of two ranks (section 8).
pub(crate) fn of_ranks() -> Value {
    let patch = |rank: u64| {
        let folder = format!("patches/00000000000000000002-{rank:032x}");
        joined(
            object(&format!("{folder}/0.tpatch"), 500),
            json!({"schema": object(&format!("{folder}/schema"), 40)}),
        )
    };
    with(second(), "/delta/patches", json!([patch(0), patch(1)]))
}

pub(crate) fn edge() -> Value {
    let target = json!({
        "version": 3, "commit": digest("commit 3"), "state": format!("xxh3:{}", digest("state 3")), "layout": digest("layout"),
    });
    let patch = object(
        "folds/00000000000000000003-00000000000000000001-0123456789abcdef0123456789abcdef/0.tpatch",
        900,
    );
    joined(
        head("edge"),
        json!({
            "publisher": "folder", "nonce": &NONCE[21..], "target": target,
            "delta": {"base": base(), "kind": "delta", "changed_elements": 3, "total_elements": 50, "patches": [patch]},
        }),
    )
}

/// A record with another value at a JSON pointer.
pub(crate) fn with(mut record: Value, pointer: &str, value: Value) -> Value {
    *record.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    record
}

pub(crate) fn without(mut record: Value, member: &str) -> Value {
    record.as_object_mut().expect("an object").remove(member).expect("a member");
    record
}

/// A key of so many bytes.
pub(crate) fn key_of(len: usize) -> String {
    let mut key = "anchors".to_owned();
    while key.len() < len {
        key.push('/');
        key.push_str(&"k".repeat(255.min(len - key.len())));
    }
    key
}

#[derive(Default)]
pub(crate) struct Maker(pub(crate) Vec<Record>);

impl Maker {
    pub(crate) fn add(
        &mut self,
        valid: bool,
        id: &str,
        kind: &'static str,
        section: &'static str,
        comment: &str,
        record: Vec<u8>,
    ) {
        let (id, comment) = (format!("record-{id}"), comment.to_owned());
        let (trusted, handovers) = (Vec::new(), Vec::new());
        self.0.push(Record { id, kind, trusted, handovers, valid, comment, section, bytes: record });
    }

    pub(crate) fn commit(&mut self, id: &str, section: &'static str, comment: &str, record: &Value) {
        self.add(false, id, "commit", section, comment, record.to_string().into_bytes());
    }

    /// The keys that the reader of the last record trusts.
    pub(crate) fn trusting(&mut self, keys: &[&SigningKey]) {
        self.trusting_digits(keys.iter().map(|key| public(key)).collect());
    }

    pub(crate) fn trusting_digits(&mut self, keys: Vec<String>) {
        self.0.last_mut().expect("a record").trusted = keys;
    }

    /// The handovers that the reader of the last record knows.
    pub(crate) fn after(&mut self, handovers: Vec<String>) {
        self.0.last_mut().expect("a record").handovers = handovers;
    }
}

pub(crate) fn taken(maker: &mut Maker) {
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
        ("commit-of-ranks", "commit", "8", "Several patches, each with its schema", of_ranks()),
        (
            "key-longest",
            "commit",
            "3",
            "A key of 900 bytes, with segments of 255",
            with(first(), "/anchor/leaves/key", json!(key_of(900))),
        ),
        (
            "key-characters",
            "commit",
            "3",
            "Characters that a key may have",
            with(first(), "/anchor/leaves/key", json!("anchors/größe 名 !$&'()+,-.0:;=@_")),
        ),
        (
            "texts-longest",
            "commit",
            "4",
            "A publisher and a label of 256 bytes",
            with(with(first(), "/publisher", json!("é".repeat(128))), "/label", json!("x".repeat(256))),
        ),
        (
            "sizes-largest",
            "commit",
            "4",
            "Sizes that add up to 2^53 - 1",
            with(first(), "/anchor/leaves/bytes", json!((1_u64 << 53) - 1 - 14)),
        ),
        (
            "version-largest",
            "commit",
            "3",
            "The largest version",
            with(
                with(second(), "/version", json!((1_u64 << 53) - 1)),
                "/previous/version",
                json!((1_u64 << 53) - 2),
            ),
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

/// The same record with the leaf hash that signed ones have.
pub(crate) fn withstanding(record: &str) -> String {
    record.replace(r#""xxh3""#, r#""blake3""#).replace("xxh3:", "blake3:")
}

pub(crate) fn signatures(maker: &mut Maker) {
    let (ours, other) = (key(1), key(2));
    let weak = first().to_string();
    let text = withstanding(&weak);
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
    let upper = |before: &str| {
        let (start, digits) = good.split_once(before).expect("a signature");
        let (digits, end) = digits.split_at(digits.find('"').expect("its end"));
        format!("{start}{before}{}{end}", digits.to_uppercase())
    };
    add(false, "upper-case", "Upper-case digits in the signature", upper(r#""value":""#), &[&ours]);
    add(false, "upper-case-key", "Upper-case digits in the key", upper(r#""ed25519":""#), &[&ours]);
    let odd = text.replace(r#""tensors":2"#, r#""signature":5,"tensors":2"#);
    add(true, "odd-nobody-asked", "A signature that is none, which nobody looks at", odd.clone(), &[]);
    add(false, "odd", "A signature that is none", odd, &[&ours]);
    add(false, "weak", "Signed, with states of XXH3", signed("commit", &weak, &ours), &[&ours]);
    let (weak_stream, weak_edge) = (stream().to_string(), edge().to_string());
    for (kind, record) in [("stream", &weak_stream), ("edge", &weak_edge)] {
        let (id, record) = (format!("signature-{kind}-weak"), signed(kind, record, &ours).into_bytes());
        maker.add(false, &id, kind, "4.4", "Signed, with states of XXH3", record);
        maker.trusting(&[&ours]);
    }
    let (streams, edges) = (withstanding(&weak_stream), withstanding(&weak_edge));
    for (kind, record) in [("stream", &streams), ("edge", &edges)] {
        let signed_well = signed(kind, record, &ours).into_bytes();
        let signed_as_commit = signed("commit", record, &ours).into_bytes();
        let name = |what: &str| format!("signature-{kind}-{what}");
        maker.add(true, &name("good"), kind, "4.4", "Signed by the trusted key", signed_well);
        maker.trusting(&[&ours]);
        maker.add(false, &name("missing"), kind, "4.4", "Not signed", record.clone().into_bytes());
        maker.trusting(&[&ours]);
        maker.add(
            false,
            &name("other-format"),
            kind,
            "4.4",
            "The signature of a commit record",
            signed_as_commit,
        );
        maker.trusting(&[&ours]);
    }
}
