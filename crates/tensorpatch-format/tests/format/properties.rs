//! What is written is read back, whatever it is.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tensorpatch_format::*;

use crate::plan::{Plan, layout};
use crate::read::{forward, random, whole};

const DTYPES: [&str; 6] = ["BF16", "F32", "U8", "F4", "F64", "F12_NEXT_YEAR"];

fn any_tensor(name: String) -> impl Strategy<Value = TensorSpec> {
    (proptest::sample::select(&DTYPES[..]), vec(0_u64..5, 0..4), 0_u64..5 << 20).prop_map(
        move |(dtype, mut shape, size)| {
            let dtype = Dtype::new(dtype).unwrap();
            shape.push(size & !1);
            TensorSpec::new(name.as_str(), dtype.clone(), shape.clone()).unwrap_or(TensorSpec {
                name: name.clone(),
                dtype,
                shape,
                byte_len: size,
            })
        },
    )
}

fn any_schema() -> impl Strategy<Value = Schema> {
    btree_map("[a-e]{1,2}", any::<()>(), 0..6)
        .prop_flat_map(|names| names.into_keys().map(any_tensor).collect::<Vec<_>>())
        .prop_map(|tensors| Schema::new(tensors).unwrap())
}

/// A patch whose records are drawn from the grid: all of fresh tensors, some of the others.
fn any_plan() -> impl Strategy<Value = Plan> {
    let header = (any::<bool>(), any::<bool>(), any::<bool>());
    (any_schema(), any_schema(), header, any::<u64>()).prop_map(|(base, target, header, seed)| {
        let (full, direct, blake3) = header;
        let header = PatchHeader::new(
            if full { Kind::Full } else { Kind::Delta },
            if direct { Profile::Direct } else { Profile::Compact },
            if blake3 { LeafHash::Blake3 } else { LeafHash::Xxh3 },
        );
        let base = (!full).then_some(base);
        let grid = Grid::new(&target, base.as_ref());
        let mut random = seed;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut blocks: Vec<Vec<_>> = Vec::new();
        for address in target.grid() {
            let fresh = grid.is_fresh(address.tensor);
            if !fresh && draw(2) == 0 {
                continue;
            }
            let allowed = |encoding: &&Encoding| {
                encoding.allowed_in(header.profile) && (!fresh || encoding.allowed_for_fresh())
            };
            let allowed: Vec<_> = Encoding::ALL.iter().filter(allowed).collect();
            let encoding = *allowed[draw(allowed.len() as u64) as usize];
            let record = (address, encoding, vec![draw(256) as u8; draw(200) as usize]);
            match blocks.last_mut() {
                Some(block) if draw(3) > 0 => block.push(record),
                _ => blocks.push(vec![record]),
            }
        }
        Plan { header, base, target, list_schema: true, list_layout: true, blocks }
    })
}

fn not_packed(_: &[u8], _: usize) -> Result<Vec<u8>, &'static str> {
    Err("nothing is compressed here")
}

proptest! {
    #[test]
    fn a_patch_round_trips(plan in any_plan()) {
        let (file, grid) = (plan.file(), plan.grid());
        let limits = Limits::default();
        let patch = PatchView::parse(&file, &limits).unwrap();
        patch.check_grid(&grid).unwrap();
        let (Listing::Listed(schema), Listing::Listed(layout_read)) = (patch.schema(), patch.layout()) else {
            panic!("not listed")
        };
        prop_assert_eq!(schema.schema(&limits, not_packed).unwrap(), plan.target.clone());
        prop_assert_eq!(layout_read.layout(&limits, not_packed).unwrap(), layout());
        prop_assert_eq!(patch.trailer().ends, plan.ends());
        let read: Vec<Vec<_>> = patch
            .blocks()
            .iter()
            .map(|block| block.records().map(|r| (r.address, r.encoding, r.payload.to_vec())).collect())
            .collect();
        prop_assert_eq!(read, plan.blocks.clone());

        let mut told = whole(&file, &grid).unwrap();
        prop_assert_eq!(&forward(file.chunks(64), &grid).unwrap(), &told);
        told.remove(1);
        prop_assert_eq!(&random(&file, &grid).unwrap(), &told);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..600), schema in any_schema()) {
        let grid = Grid::new(&schema, None);
        prop_assert!(whole(&bytes, &grid).is_err());
        prop_assert!(random(&bytes, &grid).is_err());
        let _ = Schema::from_bytes(&bytes, 0, &Limits::unlimited());
        let _ = Layout::from_bytes(&bytes, 0, &Limits::unlimited());
    }

    /// Checksums only guard against accidents: here the section with any payload has the right one.
    #[test]
    fn any_payload_with_the_right_checksum_is_read_or_refused_without_a_panic(
        which in 0_usize..3,
        section in 0_usize..5,
        at in any::<proptest::sample::Index>(),
        patch in vec(any::<u8>(), 0..12),
    ) {
        let plan = &Plan::all()[which];
        let mut raw = crate::raw::Raw::of(plan);
        let section = section % raw.sections.len();
        let payload = &mut raw.sections[section].1;
        let at = at.index(payload.len());
        let end = (at + patch.len()).min(payload.len());
        payload.splice(at..end, patch);
        let (file, grid) = (raw.file(), plan.grid());
        // Of several faults, each reader reports the first that it sees.
        let told = whole(&file, &grid).ok();
        prop_assert_eq!(&forward(file.chunks(100), &grid).ok(), &told);
        prop_assert!(told.is_none() || random(&file, &grid).is_ok());
    }

    #[test]
    fn canonical_schema_bytes_are_the_only_ones(schema in any_schema(), at in any::<proptest::sample::Index>(), byte: u8) {
        let mut bytes = schema.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Schema::from_bytes(&bytes, 0, &Limits::default()) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }
}
