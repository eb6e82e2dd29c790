//! The records of a stream.

use std::path::{Component, Path};

use tensorpatch_stream::trust::{HandoverRecord, MAX_HANDOVER_BYTES, Trust};
use tensorpatch_stream::{CommitRecord, Delta, EdgeRecord, JsonRecord, NamedObject, ObjectRef, StreamRecord};

/// Bytes are refused as a record of each kind, or what is written of the record is read as the same one, and
/// nothing that it names lies outside the folders that it may name.
pub fn stream_records(bytes: &[u8]) {
    check::<StreamRecord>(bytes);
    if let Some(commit) = check::<CommitRecord>(bytes) {
        assert_eq!(commit.previous.map(|link| link.version), commit.version.previous());
        assert!(commit.delta.is_some() || commit.anchor.is_some());
        check_objects(commit.delta.iter().flat_map(Delta::objects));
        check_objects(commit.anchor.iter().flat_map(|anchor| anchor.objects()));
        check_names(&commit.companions);
        commit.anchor.iter().for_each(|anchor| check_names(&anchor.files));
        assert!(commit.delta.is_none_or(|delta| delta.base.version < commit.version));
    }
    if let Some(edge) = check::<EdgeRecord>(bytes) {
        assert_ne!(edge.delta.is_some(), edge.anchor.is_some());
        check_objects(edge.delta.iter().flat_map(Delta::objects));
        check_objects(edge.anchor.iter().flat_map(|anchor| anchor.objects()));
        edge.anchor.iter().for_each(|anchor| check_names(&anchor.files));
    }
    if let Some(handover) = check::<HandoverRecord>(bytes) {
        check_handover(&handover, bytes);
    }
}

/// A handover that the new key has signed leads from that key to the old one, and back only with consent;
/// any other is none.
fn check_handover(handover: &HandoverRecord, bytes: &[u8]) {
    assert_ne!(handover.from, handover.to);
    let known = |trust: Trust| trust.keys().collect::<Vec<_>>();
    let back = Trust::of([handover.to]).after(std::slice::from_ref(handover)).unwrap();
    assert_eq!(known(back), [(handover.to, None), (handover.from, Some(handover.last))]);
    let onward = known(Trust::of([handover.from]).after(std::slice::from_ref(handover)).unwrap());
    let (stays, leads) =
        ([(handover.from, None)], [(handover.from, Some(handover.last)), (handover.to, None)]);
    assert!(onward == stays || onward == leads && handover.consent.is_some(), "{onward:?}");
    if let Ok(signed) = HandoverRecord::read(bytes, handover.stream) {
        assert_eq!(signed, *handover);
        assert!(bytes.len() as u64 <= MAX_HANDOVER_BYTES);
    }
}

fn check<T: JsonRecord + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let record = match T::parse(bytes) {
        Ok(record) => record,
        Err(error) => {
            // Every refusal can be told to a person, in bounded space.
            assert!(error.to_string().len() < 4096);
            return None;
        }
    };
    let written = record.to_bytes().unwrap();
    assert_eq!(T::parse(&written).as_ref(), Ok(&record));
    assert_eq!(T::parse(&written).unwrap().to_bytes().as_ref(), Ok(&written));
    Some(record)
}

/// Objects are found by keys that no store takes for anything but a path downwards, and their sizes can be
/// added up.
fn check_objects<'a>(objects: impl Iterator<Item = &'a ObjectRef>) {
    let mut total = 0_u64;
    for object in objects {
        let key = object.key.as_str();
        assert!(
            ["patches/", "anchors/", "companions/", "folds/"].iter().any(|folder| key.starts_with(folder)),
            "{key}"
        );
        assert!(Path::new(key).components().all(|part| matches!(part, Component::Normal(_))), "{key}");
        total = total.checked_add(object.bytes).unwrap();
    }
    assert!(total < 1 << 53);
}

/// Files have paths of their own that stay in their directory.
fn check_names(files: &[NamedObject]) {
    let mut names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    for name in &names {
        assert!(Path::new(name).components().all(|part| matches!(part, Component::Normal(_))), "{name:?}");
        for part in name.split('/') {
            assert!(!part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']), "{name:?}");
        }
    }
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The records among the conformance vectors.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    super::differential::vectors_of("json")
}
