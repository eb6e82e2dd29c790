//! What must hold for any pair of states.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;

use crate::common::options;
use proptest::prelude::*;
use tensorpatch_checkpoint::{Checkpoint, Form, generate_layout};
use tensorpatch_delta::{
    ApplyError, Options, Patch, Progress, Snapshot, State, apply_chunks, apply_in_place, apply_to,
    encode_diff, encode_full,
};
use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, ErrorClass, Kind, Limits};
use tensorpatch_testkit::{
    FileStyle, Model, Pair, Size, Tensor, mutations, pairs, repair_checksums, styles, write_sharded,
    write_single,
};

fn state(model: &Model) -> State<'_> {
    State::new(model.schema(), model.slices()).unwrap()
}

fn encode(base: Option<&Model>, target: &Model, options: &Options) -> (Kind, Vec<u8>) {
    let layout = generate_layout(target.schema()).unwrap();
    let target = Snapshot { state: state(target), layout: &layout, leaves: None };
    let mut patch = Vec::new();
    let report = match base {
        None => encode_full(&target, options, Progress::none(), &mut patch).unwrap(),
        Some(base) => {
            let layout = generate_layout(base.schema()).unwrap();
            let base = Snapshot { state: state(base), layout: &layout, leaves: None };
            encode_diff(&base, &target, options, Progress::none(), &mut patch).unwrap()
        }
    };
    assert_eq!(report.patch_bytes, patch.len() as u64);
    (report.kind, patch)
}

/// The bytes of all tensors that applying `patch` gives.
fn decode(
    base: Option<&Model>,
    target: &Model,
    patch: &[u8],
    options: &Options,
) -> Result<Vec<Vec<u8>>, ApplyError> {
    let patch = Patch::parse(patch, &Limits::default())?;
    let chunks: Mutex<BTreeMap<ChunkAddress, Vec<u8>>> = Mutex::default();
    let base = base.map(state);
    apply_chunks(base.as_ref(), &patch, options, Progress::none(), &|address, bytes| {
        let doubled = chunks.lock().unwrap().insert(address, bytes.to_vec());
        assert!(doubled.is_none(), "{address:?} was written twice");
    })?;
    let mut tensors = vec![Vec::new(); target.tensors().len()];
    for (address, bytes) in chunks.into_inner().unwrap() {
        tensors[address.tensor.0 as usize].extend(bytes);
    }
    Ok(tensors)
}

fn assert_is(found: &[Vec<u8>], expected: &Model) {
    assert!(found.iter().map(Vec::as_slice).eq(expected.slices()));
}

/// The bound that the documentation of `diff` states.
fn most_bytes(base: Option<&Model>, target: &Model) -> usize {
    let schema = target.schema();
    let listed = generate_layout(schema).unwrap().to_bytes().len() + schema.to_bytes().len();
    let same = base.is_some_and(|base| base.schema() == schema);
    400 + schema.state_bytes() as usize + 64 * schema.chunk_count() as usize + if same { 0 } else { listed }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn applying_the_difference_gives_the_target(pair in pairs(Size::Small), options in options()) {
        let Pair { base, target } = &pair;
        let (kind, patch) = encode(Some(base), target, &options);
        prop_assert_eq!(kind == Kind::Empty, base == target);
        assert_is(&decode(Some(base), target, &patch, &options).unwrap(), target);
        prop_assert!(patch.len() <= most_bytes(Some(base), target), "{} bytes", patch.len());
    }

    #[test]
    fn a_full_patch_gives_the_target_from_nothing(pair in pairs(Size::Small), options in options()) {
        let (_, patch) = encode(None, &pair.target, &options);
        assert_is(&decode(None, &pair.target, &patch, &options).unwrap(), &pair.target);
        prop_assert!(patch.len() <= most_bytes(None, &pair.target), "{} bytes", patch.len());
    }

    #[test]
    fn encoding_again_what_was_decoded_gives_the_same_patch(pair in pairs(Size::Small), options in options()) {
        let Pair { base, target } = &pair;
        let (_, patch) = encode(Some(base), target, &options);
        let decoded = decode(Some(base), target, &patch, &options).unwrap();
        let tensors = target.tensors().iter().zip(decoded);
        let again = tensors.map(|(tensor, bytes)| Tensor { spec: tensor.spec.clone(), bytes }).collect();
        prop_assert!(encode(Some(base), &Model::new(again), &options).1 == patch);
    }

    #[test]
    fn two_steps_end_where_the_patch_across_both_ends(
        first in pairs(Size::Small),
        last in pairs(Size::Small),
        options in options(),
        onward in any::<bool>(),
    ) {
        let Pair { base, target: middle } = &first;
        // On to something else, or back to where it began.
        let end = if onward { &last.target } else { base };
        let (_, one) = encode(Some(base), middle, &options);
        let (_, two) = encode(Some(middle), end, &options);
        let reached = decode(Some(base), middle, &one, &options).unwrap();
        let tensors = middle.tensors().iter().zip(reached);
        let reached = Model::new(
            tensors.map(|(tensor, bytes)| Tensor { spec: tensor.spec.clone(), bytes }).collect(),
        );
        let by_steps = decode(Some(&reached), end, &two, &options).unwrap();
        let (_, across) = encode(Some(base), end, &options);
        prop_assert!(by_steps == decode(Some(base), end, &across, &options).unwrap());
    }

    #[test]
    fn every_strict_prefix_is_truncated(
        pair in pairs(Size::Small),
        options in options(),
        lens in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let (_, patch) = encode(Some(&pair.base), &pair.target, &options);
        for len in lens {
            let len = len.index(patch.len());
            let error = Patch::parse(&patch[..len], &Limits::default()).unwrap_err();
            prop_assert_eq!(error.class(), ErrorClass::Truncated, "{} of {}", len, patch.len());
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_changes_nothing(
        pair in pairs(Size::Small),
        options in options(),
        places in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8, any::<bool>()), 20),
    ) {
        let Pair { base, target } = &pair;
        let (_, patch) = encode(Some(base), target, &options);
        for (at, bit, repair) in places {
            let mut bad = patch.clone();
            bad[at.index(patch.len())] ^= 1 << bit;
            if !repair {
                // Every bit is under a checksum, or in a magic.
                prop_assert!(Patch::parse(&bad, &Limits::default()).is_err(), "bit {} of byte {}", bit, at.index(patch.len()));
                continue;
            }
            // Checksums are no protection against who can compute them: the digests are.
            repair_checksums(&mut bad);
            // A listed schema may give other tensors, but never other bytes for the same digest.
            if let Ok(parsed) = Patch::parse(&bad, &Limits::default())
                && parsed.listed_schema().is_none_or(|schema| schema == target.schema())
                && let Ok(found) = decode((parsed.kind() != Kind::Full).then_some(base), target, &bad, &options)
            {
                assert_is(&found, target);
            }
        }
    }

    #[test]
    fn another_base_is_refused(pair in pairs(Size::Small), other in pairs(Size::Small), options in options()) {
        let Pair { base, target } = &pair;
        let (_, patch) = encode(Some(base), target, &options);
        for wrong in [target, &other.base].into_iter().filter(|wrong| *wrong != base) {
            let error = decode(Some(wrong), target, &patch, &options).unwrap_err();
            prop_assert_eq!(error.class(), Some(ErrorClass::WrongBase), "{}", error);
        }
    }

    #[test]
    fn a_damaged_patch_is_refused_or_gives_the_target(
        pair in pairs(Size::Small),
        options in options(),
        mutations in prop::collection::vec(mutations(4096), 8),
    ) {
        let Pair { base, target } = &pair;
        let (_, patch) = encode(Some(base), target, &options);
        for mutation in mutations {
            if let Ok(found) = decode(Some(base), target, &mutation.apply(&patch), &options) {
                assert_is(&found, target);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn states_of_several_chunks_come_back_too(pair in pairs(Size::Chunks), options in options()) {
        let Pair { base, target } = &pair;
        let (_, patch) = encode(Some(base), target, &options);
        assert_is(&decode(Some(base), target, &patch, &options).unwrap(), target);
        prop_assert!(patch.len() <= most_bytes(Some(base), target), "{} bytes", patch.len());
    }

    #[test]
    fn the_number_of_threads_changes_no_byte(pair in pairs(Size::Chunks), options in options()) {
        let one = encode(Some(&pair.base), &pair.target, &options.clone().with_threads(NonZeroUsize::MIN));
        let many = encode(Some(&pair.base), &pair.target, &options.with_threads(NonZeroUsize::new(4).unwrap()));
        prop_assert!(one == many);
    }
}

fn write(path: &Path, model: &Model, shards: usize, style: &FileStyle) -> Checkpoint {
    match shards {
        0 => write_single(path, model, style),
        _ => write_sharded(path, model, shards, style),
    }
    Checkpoint::open(path, &Limits::default()).unwrap()
}

/// Compares the weights and the index. The companions of the target are not in a patch.
fn assert_same_files(found: &Path, expected: &Path) {
    if expected.is_file() {
        assert!(fs::read(found).unwrap() == fs::read(expected).unwrap());
        return;
    }
    let names = |path| {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name != "config.json").collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(found), names(expected));
    for name in names(expected) {
        assert!(fs::read(found.join(&name)).unwrap() == fs::read(expected.join(&name)).unwrap(), "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn checkpoints_of_any_style_come_back_byte_for_byte(
        pair in pairs(Size::Small),
        styles in (styles(), styles()),
        shards in (0_usize..4, 0_usize..4),
        options in options(),
    ) {
        prop_assume!(!pair.base.tensors().is_empty() || shards.0 == 0);
        prop_assume!(!pair.target.tensors().is_empty() || shards.1 == 0);
        let dir = tempfile::tempdir().unwrap();
        let base = write(&dir.path().join("base"), &pair.base, shards.0, &styles.0);
        let target = write(&dir.path().join("target"), &pair.target, shards.1, &styles.1);
        let version = |checkpoint| Snapshot { state: State::of(checkpoint).unwrap(), layout: checkpoint.layout(), leaves: None };
        let mut bytes = Vec::new();
        encode_diff(&version(&base), &version(&target), &options, Progress::none(), &mut bytes).unwrap();
        let patch = Patch::parse(&bytes, &Limits::default()).unwrap();

        let out = dir.path().join("out");
        let form = if shards.1 == 0 { Form::File } else { Form::Directory };
        let report = apply_to(&base, &patch, &out, form, &options, Progress::none()).unwrap();
        prop_assert!(report.same_layout);
        assert_same_files(&out, target.path());

        let journal = dir.path().join("journal");
        let before = base.path().to_owned();
        drop(base);
        match apply_in_place(&before, &patch, &journal, &options, Progress::none()) {
            Ok(_) => assert_same_files(&before, target.path()),
            Err(ApplyError::NotInPlace(_)) => {}
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

#[test]
fn the_chunk_size_is_a_multiple_of_every_element() {
    assert!(CHUNK_BYTES.is_multiple_of(8));
}
