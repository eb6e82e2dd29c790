//! Handovers, and which keys count once they are known: section 4.5 of `stream.md`.

use serde_json::{Value, json};

use crate::records::{
    Maker, digest, edge, first, head, hex, joined, key, public, second, sign, signed, with, without,
    withstanding,
};

/// Which keys count, given some handovers.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Unique among all vectors.
    pub(crate) id: String,
    /// What it shows.
    pub(crate) comment: &'static str,
    /// The public keys that the reader trusts.
    pub(crate) trusted: Vec<String>,
    /// The ids of the records in `handovers/`.
    pub(crate) handovers: Vec<String>,
    /// Each key that counts; `None` if the reader must refuse the stream.
    pub(crate) counts: Option<Vec<Counting>>,
}

/// A key, and up to which version and record it counts, if not for all.
type Counting = (String, Option<(u64, String)>);

/// The handover of one key to another after a version, before it is signed. The record of the version is
/// named by `commit`.
fn handover(from: u8, to: u8, version: u64, commit: &str, consent: bool) -> Value {
    let (old, new) = (key(from), key(to));
    let record = joined(
        head("handover"),
        json!({"from": public(&old), "to": public(&new), "last": {"version": version, "commit": commit}}),
    );
    if consent { with_consent(&record, from) } else { record }
}

/// With the consent of this key, whether or not the record is of it.
fn with_consent(record: &Value, by: u8) -> Value {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).expect("a text").to_owned();
    let statement = format!(
        "tensorpatch.v1.consent\0{} {} {} {} {}",
        text("/stream"),
        text("/from"),
        text("/to"),
        record["last"]["version"],
        text("/last/commit"),
    );
    joined(record.clone(), json!({"consent": hex(&sign(&key(by), statement.as_bytes()))}))
}

fn commit_of(version: u64) -> String {
    digest(&format!("commit {version}"))
}

/// The handovers that lists of keys name, by what their ids end in: from, to, last version, and whether the
/// old key agrees.
const HANDOVERS: [(&str, u8, u8, u64, bool); 12] = [
    ("1-2", 1, 2, 5, true),
    ("1-2-alone", 1, 2, 5, false),
    ("1-2-earlier", 1, 2, 3, true),
    ("2-3", 2, 3, 9, true),
    ("2-3-alone", 2, 3, 9, false),
    ("2-3-earlier", 2, 3, 4, false),
    ("2-3-at-5", 2, 3, 5, false),
    ("1-4", 1, 4, 3, true),
    ("1-4-alone", 1, 4, 3, false),
    ("2-1", 2, 1, 2, false),
    ("2-1-agreed", 2, 1, 7, true),
    ("1-2-much-later", 1, 2, 1 << 40, true),
];

/// The records themselves.
pub(crate) fn handovers(maker: &mut Maker) {
    for (id, from, to, version, consent) in HANDOVERS {
        let record = handover(from, to, version, &commit_of(version), consent);
        let comment = if consent { "A handover with consent" } else { "A handover without consent" };
        add(maker, true, id, comment, &record, to);
    }
    let good = handover(1, 2, 5, &commit_of(5), true);
    let plain = without(good.clone(), "consent");
    // A consent that fits nothing is as none, and so is one of somebody else.
    add(maker, true, "consent-of-other", "The consent of another key", &with_consent(&plain, 3), 2);
    let moved = with(good.clone(), "/last/version", json!(6));
    add(maker, true, "consent-to-other", "A consent to the handover after another version", &moved, 2);
    let other_commit = handover(1, 2, 5, &digest("another commit 5"), true);
    add(maker, true, "1-2-other-commit", "A handover after another version 5", &other_commit, 2);
    let more = joined(with(good.clone(), "/minor", json!(3)), json!({"colour": [{"last": 1}, {"last": 2}]}));
    add(maker, true, "minor", "A later minor version with a member that nobody knows", &more, 2);
    let filled = |bytes: usize| {
        let unfilled = signed("handover", &joined(good.clone(), json!({"z": ""})).to_string(), &key(2)).len();
        joined(good.clone(), json!({"z": "z".repeat(bytes - unfilled)}))
    };
    add(maker, true, "4096", "A handover of 4096 bytes", &filled(4096), 2);
    add(maker, false, "4097", "A handover of 4097 bytes", &filled(4097), 2);
    for member in ["stream", "created", "from", "to", "last", "format", "major", "minor", "requires"] {
        let comment = format!("No `{member}`");
        add(maker, false, &format!("without-{member}"), &comment, &without(good.clone(), member), 2);
    }
    for (id, pointer, value, comment) in [
        ("same-key", "/from", json!(public(&key(2))), "A key that is handed over to itself"),
        ("other-stream", "/stream", json!("ff".repeat(16)), "A handover of another stream"),
        ("major-2", "/major", json!(2), "Another major version"),
        ("requires-more", "/requires", json!(["sharding"]), "A feature that nobody knows is required"),
        ("version-0", "/last/version", json!(0), "A handover after version 0"),
        ("version-2-53", "/last/version", json!(1_u64 << 53), "A version over 2^53 - 1"),
        ("commit-short", "/last/commit", json!("00"), "A short digest"),
        ("last-number", "/last", json!(5), "A number for an object"),
        ("consent-short", "/consent", json!("00"), "A consent that is no signature"),
        ("consent-null", "/consent", json!(null), "An optional member that is null"),
        ("from-short", "/from", json!("00"), "A key that is too short"),
        ("from-upper-case", "/from", json!(public(&key(1)).to_uppercase()), "A key in upper case"),
        ("to-upper-case", "/to", json!(public(&key(2)).to_uppercase()), "A key in upper case"),
    ] {
        add(maker, false, id, comment, &with(good.clone(), pointer, value), 2);
    }
    let consent = good["consent"].as_str().expect("a consent").to_uppercase();
    let upper = with(good.clone(), "/consent", json!(consent));
    add(maker, false, "consent-upper-case", "A consent in upper case", &upper, 2);
    add(maker, false, "by-old", "A handover that the old key has signed alone", &good, 1);
    add(maker, false, "by-other", "A handover that a third key has signed", &good, 3);
    let raw = |maker: &mut Maker, id: &str, comment: &str, record: String| {
        maker.add(false, &format!("handover-{id}"), "handover", "4.5", comment, record.into_bytes());
    };
    raw(maker, "unsigned", "A handover that is not signed", good.to_string());
    let as_commit = signed("commit", &good.to_string(), &key(2));
    raw(maker, "other-format", "The signature of a commit record", as_commit);
    let altered = signed("handover", &good.to_string(), &key(2));
    let altered = altered.replace(r#""version":5"#, r#""version":6"#);
    raw(maker, "altered", "A member was altered after signing", altered);
    let twice = good.to_string().replace(r#""version":5"#, r#""version":5,"version":5"#);
    raw(maker, "member-twice", "A member twice", signed("handover", &twice, &key(2)));
    signed_by_old(maker);
}

fn add(maker: &mut Maker, valid: bool, id: &str, comment: &str, record: &Value, by: u8) {
    let record = signed("handover", &record.to_string(), &key(by)).into_bytes();
    maker.add(valid, &format!("handover-{id}"), "handover", "4.5", comment, record);
}

/// Commits and edges that a key has signed which was handed over.
fn signed_by_old(maker: &mut Maker) {
    let ids = |ids: &[&str]| ids.iter().map(|id| format!("record-handover-{id}")).collect::<Vec<_>>();
    let of = |version: u64| {
        let mut record = with(second(), "/version", json!(version));
        record["previous"] = json!({"version": version - 1, "commit": commit_of(version - 1)});
        withstanding(&record.to_string())
    };
    let (old, new) = (key(1), key(2));
    let commit = |version, key| signed("commit", &of(version), key);
    let own = |commit: &str| handover(1, 2, 5, &digest(commit), true);
    let fifth = commit(5, &old);
    add(maker, true, "1-2-own", "A handover after the version 5 of another vector", &own(&fifth), 2);
    for (valid, id, comment, record, handover) in [
        (true, "below", "A version below the last one of the key", commit(4, &old), "1-2"),
        (true, "last", "The last version of a key", fifth.clone(), "1-2-own"),
        (false, "last-other", "Another record than the last one of the key", fifth, "1-2"),
        (false, "above", "A version above the last one of the key", commit(6, &old), "1-2"),
        (true, "new", "A version of the new key", commit(6, &new), "1-2"),
        (true, "new-below", "A version of the new key below the handover", commit(4, &new), "1-2"),
        (
            false,
            "unknown",
            "A version of the new key, where the old one has not agreed",
            commit(6, &new),
            "1-2-alone",
        ),
    ] {
        let id = format!("signed-{id}-handover");
        maker.add(valid, &id, "commit", "4.5", comment, record.into_bytes());
        maker.trusting(&[&old]);
        maker.after(ids(&[handover]));
    }
    let target = |version: u64| withstanding(&with(edge(), "/target/version", json!(version)).to_string());
    for (valid, id, version, comment) in [
        (true, "edge-last", 5, "An edge to the last version of the key"),
        (false, "edge-above", 6, "An edge to a version above the last one of the key"),
    ] {
        let record = signed("edge", &target(version), &old).into_bytes();
        maker.add(valid, &format!("signed-{id}-handover"), "edge", "4.5", comment, record);
        maker.trusting(&[&new]);
        maker.after(ids(&["1-2"]));
    }
    let record = signed("commit", &withstanding(&first().to_string()), &old).into_bytes();
    let comment = "A version of a key that a handover without consent names, which the reader does not trust";
    maker.add(true, "signed-first-handover", "commit", "4.5", comment, record);
    maker.trusting(&[&new]);
    maker.after(ids(&["1-2-alone"]));
}

/// Which keys count.
pub(crate) fn keys() -> Vec<Keys> {
    type Case =
        (&'static str, &'static str, &'static [u8], &'static [&'static str], Option<&'static [(u8, u64)]>);
    // The version 0 stands for all versions.
    let cases: [Case; 23] = [
        ("none", "No handover", &[1], &[], Some(&[(1, 0)])),
        ("two", "Two trusted keys, and no handover", &[1, 2], &[], Some(&[(1, 0), (2, 0)])),
        ("agreed", "The old key is trusted and agrees", &[1], &["1-2"], Some(&[(1, 5), (2, 0)])),
        ("not-agreed", "The old key is trusted and has not agreed", &[1], &["1-2-alone"], Some(&[(1, 0)])),
        ("back", "The new key is trusted", &[2], &["1-2-alone"], Some(&[(1, 5), (2, 0)])),
        (
            "back-agreed",
            "The new key is trusted, and the old one has agreed",
            &[2],
            &["1-2"],
            Some(&[(1, 5), (2, 0)]),
        ),
        ("both", "Both keys are trusted", &[1, 2], &["1-2-alone"], Some(&[(1, 5), (2, 0)])),
        (
            "consent-of-other",
            "The consent of another key is none",
            &[1],
            &["consent-of-other"],
            Some(&[(1, 0)]),
        ),
        (
            "consent-to-other",
            "A consent to another handover is none",
            &[1],
            &["consent-to-other"],
            Some(&[(1, 0)]),
        ),
        ("onward", "From the first key to the third", &[1], &["2-3", "1-2"], Some(&[(1, 5), (2, 9), (3, 0)])),
        (
            "all-back",
            "From the third key to the first",
            &[3],
            &["1-2-alone", "2-3-alone"],
            Some(&[(1, 5), (2, 9), (3, 0)]),
        ),
        (
            "both-ways",
            "From the second key to the others",
            &[2],
            &["1-2", "2-3"],
            Some(&[(1, 5), (2, 9), (3, 0)]),
        ),
        (
            "onward-ends",
            "The second key has not agreed",
            &[1],
            &["1-2", "2-3-alone"],
            Some(&[(1, 5), (2, 0)]),
        ),
        (
            "earlier",
            "Two handovers to the same key: that of the lower version",
            &[1],
            &["1-2", "1-2-earlier"],
            Some(&[(1, 3), (2, 0)]),
        ),
        (
            "earlier-back",
            "The same, where the new key is trusted",
            &[2],
            &["1-2-much-later", "1-2"],
            Some(&[(1, 5), (2, 0)]),
        ),
        (
            "earlier-onward",
            "Two handovers to the same key, which was handed over after the version of one of them",
            &[3],
            &["2-3-at-5", "1-2", "1-2-earlier"],
            Some(&[(1, 3), (2, 5), (3, 0)]),
        ),
        (
            "too-late",
            "The second key was handed over before it took over",
            &[3],
            &["2-3-earlier", "1-2"],
            Some(&[(2, 4), (3, 0)]),
        ),
        (
            "thief",
            "A handover of the old key to another, where the new one is trusted",
            &[2],
            &["1-4", "1-2-alone"],
            Some(&[(1, 5), (2, 0)]),
        ),
        ("two-ways", "A key that was handed over to two", &[1], &["1-2", "1-4"], None),
        (
            "two-ways-one-agreed",
            "The same, where the key has agreed to one of them",
            &[1],
            &["1-2", "1-4-alone"],
            Some(&[(1, 5), (2, 0)]),
        ),
        ("circle", "Trusted keys that were handed over to each other", &[1, 2], &["1-2", "2-1"], None),
        (
            "circle-untrusted",
            "A key that is handed over and back: first what others have handed to it counts",
            &[1],
            &["1-2", "2-1-agreed"],
            Some(&[(1, 0), (2, 7)]),
        ),
        (
            "not-signed",
            "Records that are no handovers of the stream",
            &[1],
            &["by-old", "by-other", "unsigned", "other-stream", "altered", "4097"],
            Some(&[(1, 0)]),
        ),
    ];
    let digits = |number: u8| public(&key(number));
    let made = cases.into_iter().map(|(id, comment, trusted, handovers, counts)| Keys {
        id: format!("keys-{id}"),
        comment,
        trusted: trusted.iter().map(|number| digits(*number)).collect(),
        handovers: handovers.iter().map(|id| format!("record-handover-{id}")).collect(),
        counts: counts.map(|counts| {
            let last = |version: u64| (version > 0).then(|| (version, commit_of(version)));
            counts.iter().map(|(number, version)| (digits(*number), last(*version))).collect()
        }),
    });
    made.chain([of_equal_version()]).collect()
}

/// Two handovers after one version, which two records claim to be.
fn of_equal_version() -> Keys {
    let lowest = commit_of(5).min(digest("another commit 5"));
    Keys {
        id: "keys-lowest-commit".to_owned(),
        comment: "Two handovers after the same version: that of the lower digest",
        trusted: vec![public(&key(2))],
        handovers: ["1-2", "1-2-other-commit"].map(|id| format!("record-handover-{id}")).to_vec(),
        counts: Some(vec![(public(&key(1)), Some((5, lowest))), (public(&key(2)), None)]),
    }
}
