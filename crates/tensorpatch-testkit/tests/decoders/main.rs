//! The two decoders say the same of whatever the encoder makes, and of what is left of it after damage.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::num::NonZeroUsize;

use proptest::prelude::*;
use tensorpatch_checkpoint::generate_layout;
use tensorpatch_delta::{Options, Progress, Snapshot, State, encode_diff, encode_full};
use tensorpatch_format::{LeafHash, Profile};
use tensorpatch_testkit::{Model, Pair, Size, Verdict, fuzz, models, mutations, pairs, repair_checksums};

fn options() -> impl Strategy<Value = Options> {
    let profile = prop::sample::select(vec![Profile::Compact, Profile::Direct]);
    let hash = prop::sample::select(vec![LeafHash::Xxh3, LeafHash::Blake3]);
    (profile, hash).prop_map(|(profile, hash)| {
        Options::default().with_profile(profile).with_leaf_hash(hash).with_threads(NonZeroUsize::MIN)
    })
}

fn patch(base: Option<&Model>, target: &Model, options: &Options) -> Vec<u8> {
    let layout = |model: &Model| generate_layout(model.schema()).unwrap();
    let (base_layout, target_layout) = (base.map(layout), layout(target));
    let version = |model, layout| Snapshot { state: state(model), layout, leaves: None };
    let target = version(target, &target_layout);
    let mut patch = Vec::new();
    match base.zip(base_layout.as_ref()) {
        Some((base, layout)) => {
            encode_diff(&version(base, layout), &target, options, Progress::none(), &mut patch).unwrap()
        }
        None => encode_full(&target, options, Progress::none(), &mut patch).unwrap(),
    };
    patch
}

fn state(model: &Model) -> State<'_> {
    State::new(model.schema(), model.slices()).unwrap()
}

#[track_caller]
fn agree(patch: &[u8], base: Option<&Model>) -> Verdict {
    let verdict = Verdict::of_reference(patch, base);
    assert_eq!(Verdict::of_fast(patch, base), verdict);
    verdict
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn they_decode_what_was_encoded(Pair { base, target } in pairs(Size::Small), options in options()) {
        for base in [Some(&base), None] {
            let verdict = agree(&patch(base, &target, &options), base);
            let Verdict::Target { state, .. } = verdict else { panic!("{verdict:?}") };
            prop_assert_eq!(&state, &target);
        }
    }

    #[test]
    fn they_say_the_same_of_a_wrong_base(
        Pair { base, target } in pairs(Size::Small),
        other in models(Size::Small),
        options in options(),
    ) {
        let patch = patch(Some(&base), &target, &options);
        let fewer = Model::new(base.tensors().iter().skip(1).cloned().collect());
        for wrong in [&target, &other, &fewer].into_iter().filter(|wrong| **wrong != base) {
            let verdict = agree(&patch, Some(wrong));
            prop_assert!(matches!(verdict, Verdict::Refused { code: "wrong_base", .. }), "{:?}", verdict);
        }
    }

    #[test]
    fn they_say_the_same_of_a_damaged_patch(
        (Pair { base, target }, options) in (pairs(Size::Small), options()),
        mutation in mutations(2000),
        whole in any::<bool>(),
    ) {
        let base = whole.then_some(&base);
        let mut damaged = mutation.apply(&patch(base, &target, &options));
        repair_checksums(&mut damaged);
        // Damage may break several rules, and then the readers may name different ones.
        match (Verdict::of_fast(&damaged, base), Verdict::of_reference(&damaged, base)) {
            (Verdict::Refused { .. }, Verdict::Refused { .. }) => {}
            (fast, slow) => prop_assert_eq!(fast, slow),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn they_decode_tensors_of_several_chunks(Pair { base, target } in pairs(Size::Chunks), options in options()) {
        let verdict = agree(&patch(Some(&base), &target, &options), Some(&base));
        let Verdict::Target { state, .. } = verdict else { panic!("{verdict:?}") };
        prop_assert_eq!(&state, &target);
    }
}

/// Streams of bytes that are often zero, behind heads that a decoder takes.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0_u8), 1 => Just(0xff), 3 => any::<u8>()];
    let classes = (0_u64..4, 0_u64..3, 0_u64..256, 0_u64..96, any::<u8>(), any::<[u8; 6]>());
    let head = classes.prop_map(|(streams, classes, first_key, rate, reach, coded)| {
        // Two bits, five, six, eight, seven for the first rate; what follows is as it comes, but for one
        // class it is the reach.
        let reaching = u64::from(classes == 0);
        let bits =
            streams | classes << 2 | reaching << 7 | first_key << 13 | rate << 21 | u64::from(reach) << 28;
        if classes == 0 {
            bits.to_le_bytes()[..5].to_vec()
        } else {
            [&bits.to_le_bytes()[..4], &coded].concat()
        }
    });
    (head, prop::collection::vec(byte, 0..60)).prop_map(|(head, stream)| [head, stream].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn they_say_the_same_of_any_stream_behind_a_head(
        choice in any::<u8>(), elements in 0_u16..400, seed in any::<u8>(), stream in streams(),
    ) {
        let [low, high] = elements.to_le_bytes();
        fuzz::chunk_decoders_agree(&[&[choice, 0, low, high, seed], stream.as_slice()].concat());
    }
}
