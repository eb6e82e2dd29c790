//! What later versions bring behind a required feature: every reader refuses it at the header.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use tensorpatch_conformance::{Outcome, Vector, vectors};
use tensorpatch_delta::Patch;
use tensorpatch_format::{Error, ErrorClass, ForwardReader, Limits, Need, PatchView, RandomReader};
use tensorpatch_testkit::{Verdict, repair_checksums};

fn forward(file: &[u8]) -> Result<(), Error> {
    let mut reader = ForwardReader::new(&Limits::default());
    while let Need::Bytes(want) = reader.need() {
        reader.feed(&file[usize::try_from(want.offset).unwrap()..usize::try_from(want.end()).unwrap()])?;
    }
    Ok(())
}

fn random(file: &[u8]) -> Result<(), Error> {
    let mut reader = RandomReader::new(file.len() as u64, &Limits::default());
    while let Need::Bytes(want) = reader.need() {
        reader.feed(&file[usize::try_from(want.offset).unwrap()..usize::try_from(want.end()).unwrap()])?;
    }
    Ok(())
}

fn required() -> Vec<Vector> {
    let (_, vectors) = vectors();
    vectors.into_iter().filter(|vector| vector.id.starts_with("required-")).collect()
}

#[test]
fn an_unknown_encoding_behind_a_required_feature_is_an_unsupported_feature_to_every_reader() {
    let (states, _) = vectors();
    let required = required();
    assert!(required.iter().filter(|vector| vector.id.starts_with("required-encoding")).count() == 2);
    assert!(required.len() >= 16, "{}", required.len());
    let due = (ErrorClass::UnsupportedFeature, 12);
    for Vector { id, file, outcome, base, .. } in &required {
        assert_eq!(*outcome, Outcome::Refused { code: due.0.code(), offset: due.1 }, "{id}");
        let refusals = [forward(file), random(file), PatchView::parse(file, &Limits::default()).map(|_| ())];
        for refusal in refusals {
            let error = refusal.unwrap_err();
            assert_eq!((error.class(), error.offset), due, "{id}");
        }
        let base = base.map(|base| states.model(base));
        let refused = Verdict::Refused { code: due.0.code(), offset: due.1 };
        assert_eq!(Verdict::of_fast(file, base.as_ref()), refused, "{id}");
        assert_eq!(Verdict::of_reference(file, base.as_ref()), refused, "{id}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later.tpatch");
        std::fs::write(&path, file).unwrap();
        let error = Patch::open(&path).err().unwrap();
        assert_eq!((error.class(), error.offset()), (Some(due.0), Some(due.1)), "{id}");
    }
}

#[test]
fn without_its_feature_bit_the_same_file_is_refused_for_what_it_holds() {
    let (states, _) = vectors();
    for Vector { id, file, base, .. } in required() {
        let mut file = file;
        file[12..16].fill(0);
        repair_checksums(&mut file);
        let base = base.map(|base| states.model(base));
        let found = Verdict::of_fast(&file, base.as_ref());
        assert_eq!(found, Verdict::of_reference(&file, base.as_ref()), "{id}");
        assert!(matches!(found, Verdict::Refused { offset, .. } if offset != 12), "{id}: {found:?}");
    }
}
