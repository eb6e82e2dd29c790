//! Records that are taken, and those that break a rule.

use super::*;

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: Key::new(key).unwrap(), bytes: 5, blake3: ObjectDigest::of(key.as_bytes()) }
}

pub(crate) fn state(byte: u8) -> TaggedStateDigest {
    format!("xxh3:{}", hex::encode([byte; 32])).parse().unwrap()
}

/// A version 1 with an anchor and a companion, or a later one with a delta of one patch.
pub(crate) fn sample(version: u64, previous: ObjectDigest) -> CommitRecord {
    let number = Version::new(version).unwrap();
    let byte = version.to_le_bytes()[0];
    let layout = LayoutDigest::from_bytes([9; 32]);
    let delta = number.previous().map(|before| Delta {
        base: VersionId { version: before, commit: previous, state: state(byte.wrapping_sub(1)), layout },
        kind: DeltaKind::Delta,
        changed_elements: 3,
        total_elements: 10,
        patches: vec![PatchObject { object: object(&format!("patches/{byte}/a.tpatch")), schema: None }],
    });
    let file = NamedObject { name: "model.safetensors".into(), object: object("anchors/1/m") };
    CommitRecord {
        stream: "00112233445566778899aabbccddeeff".parse().unwrap(),
        version: number,
        previous: number.previous().map(|version| Link { version, commit: previous }),
        publisher: "trainer".into(),
        nonce: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        created: 1_790_000_000,
        label: Some("step 1".into()),
        contents: VersionContents {
            state: state(byte),
            schema: SchemaDigest::from_bytes([8; 32]),
            layout,
            state_bytes: 20,
            tensors: 1,
        },
        anchor: delta.is_none().then(|| Anchor { files: vec![file], leaves: object("patches/1/leaves") }),
        delta,
        companions: vec![NamedObject { name: "config.json".into(), object: object("companions/1/c") }],
    }
}

/// The same with states hashed by `leaf_hash`.
pub(crate) fn sample_with(version: u64, previous: ObjectDigest, leaf_hash: LeafHash) -> CommitRecord {
    let mut record = sample(version, previous);
    record.contents.state.leaf_hash = leaf_hash;
    if let Some(delta) = &mut record.delta {
        delta.base.state.leaf_hash = leaf_hash;
    }
    record
}

fn altered(record: &CommitRecord, from: &str, to: &str) -> Result<CommitRecord, RecordError> {
    let text = String::from_utf8(record.to_bytes().unwrap()).unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    CommitRecord::parse(text.replace(from, to).as_bytes())
}

#[test]
fn records_round_trip() {
    let first = sample(1, ObjectDigest::of(b""));
    let bytes = first.to_bytes().unwrap();
    assert_eq!(CommitRecord::parse(&bytes).unwrap(), first);
    let second = sample(2, ObjectDigest::of(&bytes));
    assert_eq!(CommitRecord::parse(&second.to_bytes().unwrap()).unwrap(), second);
    let stream = StreamRecord {
        stream: StreamId::random(),
        created: 1,
        leaf_hash: LeafHash::Blake3,
        writers: Writers::Single,
    };
    assert_eq!(StreamRecord::parse(&stream.to_bytes().unwrap()).unwrap(), stream);
}

#[test]
fn members_of_later_minor_versions_are_ignored_but_required_features_are_not() {
    let record = sample(1, ObjectDigest::of(b""));
    assert_eq!(altered(&record, "\"minor\":0", "\"minor\":7,\"colour\":{\"a\":[1]}").unwrap(), record);
    assert_eq!(
        altered(&record, "\"requires\":[]", "\"requires\":[\"sharding\"]").unwrap_err(),
        RecordError::Feature("sharding".into())
    );
    assert_eq!(altered(&record, "\"major\":1", "\"major\":2").unwrap_err(), RecordError::Version(2));
}

#[test]
fn a_record_of_another_kind_is_refused() {
    let stream = StreamRecord {
        stream: StreamId::random(),
        created: 1,
        leaf_hash: LeafHash::Xxh3,
        writers: Writers::Many,
    };
    let error = CommitRecord::parse(&stream.to_bytes().unwrap()).unwrap_err();
    assert!(matches!(error, RecordError::Format { found, .. } if found == "tensorpatch-stream"));
}

#[test]
fn a_refusal_quotes_no_more_than_a_person_reads() {
    let record = sample(1, ObjectDigest::of(b""));
    let long = "é".repeat(1 << 20);
    for from in ["anchors/1/m", "model.safetensors", "trainer", "xxh3", "tensorpatch-commit", "config.json"] {
        let message = altered(&record, from, &long).unwrap_err().to_string();
        assert!(message.len() < 1500, "{from}: {} bytes", message.len());
    }
}

#[test]
fn every_strict_prefix_of_a_record_is_refused() {
    let bytes = sample(2, ObjectDigest::of(b"")).to_bytes().unwrap();
    for len in 0..bytes.len() {
        assert!(CommitRecord::parse(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn records_that_break_a_rule_are_refused() {
    let first = sample(1, ObjectDigest::of(b""));
    let second = sample(2, ObjectDigest::of(b""));
    for (record, from, to) in [
        (&first, "\"model.safetensors\"", "\"../model.safetensors\""),
        (&first, "\"model.safetensors\"", "\".model.safetensors\""),
        (&first, "\"config.json\"", "\"model.safetensors\""),
        (&first, "\"config.json\"", "\"Other.SAFETENSORS\""),
        (&first, "\"config.json\"", "\"model.safetensors.index.json\""),
        (&first, "\"anchors/1/m\"", "\"anchors/../stream.json\""),
        (&first, "\"anchors/1/m\"", "\"commits/00000000000000000001.json\""),
        (&first, "\"version\":1", "\"version\":0"),
        (&first, "\"version\":1", "\"version\":2"),
        (&first, "\"version\":1", "\"version\":-1"),
        (&first, "\"version\":1", "\"version\":1,\"version\":1"),
        (&first, "\"bytes\":5", "\"bytes\":9007199254740992"),
        (&first, "\"bytes\":5", "\"bytes\":9007199254740991"),
        (&first, "xxh3:", "md5:"),
        (&first, "\"publisher\":\"trainer\"", "\"publisher\":\"\""),
        (&second, "\"kind\":\"delta\"", "\"kind\":\"empty\""),
        (&second, "\"kind\":\"delta\"", "\"kind\":\"full\""),
    ] {
        assert!(altered(record, from, to).is_err(), "{from} -> {to}");
    }
    let mut record = first.clone();
    record.anchor = None;
    assert!(record.to_bytes().is_err(), "a first version without an anchor");
    let mut record = second.clone();
    record.delta = None;
    assert!(record.to_bytes().is_err(), "a version without any way to it");
    let mut record = second.clone();
    record.delta.as_mut().unwrap().patches.clear();
    assert!(record.to_bytes().is_err(), "a delta without patches");
    let mut record = second.clone();
    let delta = record.delta.as_mut().unwrap();
    delta.patches.push(delta.patches[0].clone());
    assert!(record.to_bytes().is_err(), "a doubled patch");
    let mut record = second;
    record.delta.as_mut().unwrap().base.version = record.version;
    assert!(record.to_bytes().is_err(), "a version that is its own base");
    let mut record = first;
    let mut twin = record.companions[0].clone();
    twin.name = "Config.JSON".into();
    record.companions.push(twin);
    assert!(record.to_bytes().is_err(), "two names that are one file on some systems");
    let one = record.companions[0].clone();
    record.companions =
        (0..MAX_COMPANIONS).map(|number| NamedObject { name: number.to_string(), ..one.clone() }).collect();
    assert!(record.to_bytes().is_ok());
    record.companions.push(one);
    assert!(record.to_bytes().is_err(), "one companion too many");
}
