//! However a patch is read, and however its bytes arrive, it is the same.

use proptest::prelude::*;
use tensorpatch_format::*;

use crate::plan::{Plan, at};
use crate::raw::Raw;
use crate::read::{cut, forward, open, random, whole};

#[test]
fn every_reader_tells_the_same() {
    for plan in Plan::all() {
        let (file, grid) = (plan.file(), plan.grid());
        let mut told = whole(&file, &grid).unwrap();
        assert_eq!(forward([&file[..]], &grid).unwrap(), told);
        assert_eq!(forward(file.chunks(1), &grid).unwrap(), told);
        told.remove(1); // the schema
        assert_eq!(random(&file, &grid).unwrap(), told);
    }
}

#[test]
fn every_strict_prefix_is_truncated_for_a_file_that_arrives_too() {
    for plan in Plan::all() {
        let (file, grid) = (plan.file(), plan.grid());
        for len in 0..file.len() {
            let error = forward(file[..len].chunks(7), &grid).unwrap_err();
            assert_eq!(error, whole(&file[..len], &grid).unwrap_err(), "{len}");
            assert_eq!(error.class(), ErrorClass::Truncated, "{len}: {error}");
        }
    }
}

#[test]
fn every_strict_prefix_is_truncated_for_a_reader_of_its_ends() {
    for plan in Plan::all() {
        let (file, grid) = (plan.file(), plan.grid());
        for len in 0..file.len() {
            let error = open(&file[..len], &grid).map(|_| ()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Truncated, "{len}: {error}");
        }
    }
}

#[test]
fn every_bit_flip_is_refused_by_every_reader_that_sees_it() {
    for plan in Plan::all() {
        let (mut file, grid) = (plan.file(), plan.grid());
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            let told = whole(&file, &grid).unwrap_err();
            assert_eq!(forward([&file[..]], &grid).unwrap_err(), told, "bit {bit}");
            random(&file, &grid).unwrap_err();
            file[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn ancillary_sections_are_skipped_wherever_they_stand_and_their_checksums_looked_at() {
    for plan in Plan::all() {
        let grid = plan.grid();
        for place in 0..Raw::of(&plan).sections.len() {
            // The index counts from the end of the header, so it needs no change before the first block only.
            let first_block = 2;
            if place > first_block || plan.blocks.is_empty() && place == first_block {
                continue;
            }
            let mut raw = Raw::of(&plan);
            let extra = 16 + 3;
            raw.sections.insert(place, (128, b"abc".to_vec()));
            if let Some((_, index)) = raw.sections.last_mut()
                && !plan.blocks.is_empty()
            {
                index[1] += extra;
            }
            let mut file = raw.file();
            let told = whole(&file, &grid).unwrap();
            assert_eq!(forward(file.chunks(3), &grid).unwrap(), told);
            random(&file, &grid).unwrap();
            let payload = raw.at(place) as usize + 16;
            file[payload] ^= 1;
            let error = whole(&file, &grid).unwrap_err();
            assert_eq!((error.class(), error.offset), (ErrorClass::Checksum, raw.at(place) + 4));
        }
    }
}

#[test]
fn bytes_after_the_trailer_are_refused_as_they_arrive() {
    let plan = Plan::delta();
    let mut file = plan.file();
    let len = file.len() as u64;
    file.extend([0; 3]);
    for size in [1, 50, file.len()] {
        let error = forward(file.chunks(size), &plan.grid()).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, len));
    }
    assert_eq!(open(&file, &plan.grid()).unwrap_err().class(), ErrorClass::Truncated);
}

#[test]
fn a_checksum_error_leaves_a_reader_ready_for_the_right_bytes() {
    let plan = Plan::delta();
    let (file, grid) = (plan.file(), plan.grid());
    let mut reader = ForwardReader::new(&Limits::default());
    let mut parts = 0;
    loop {
        let want = match reader.need() {
            Need::Grid => {
                reader.provide_grid(grid.clone());
                continue;
            }
            Need::Bytes(want) => want,
            Need::Nothing => break,
        };
        let mut damaged = cut(&file, want).to_vec();
        damaged[want.len as usize - 1] ^= 0x10;
        if let Err(error) = reader.feed(&damaged) {
            assert!(matches!(
                error.class(),
                ErrorClass::Checksum | ErrorClass::Truncated | ErrorClass::Limit
            ));
            assert_eq!(reader.need(), Need::Bytes(want));
        }
        assert_eq!(reader.feed(&damaged[..damaged.len() - 1]).unwrap_err().class(), ErrorClass::Truncated);
        parts += usize::from(reader.feed(cut(&file, want)).unwrap().is_some());
    }
    assert_eq!(parts, 7);
    reader.finish(&[]).unwrap();
}

#[test]
fn a_reader_goes_no_further_after_a_fault_and_waits_for_what_it_needs() {
    let mut plan = Plan::delta();
    plan.blocks[0][0].0 = at(0, 1);
    let (file, grid) = (plan.file(), plan.grid());
    let mut reader = ForwardReader::new(&Limits::default());
    reader.provide_grid(grid.clone()); // too early: nothing happens
    let mut rest = &file[..];
    let error = loop {
        match reader.need() {
            Need::Grid => {
                assert!(reader.feed(rest).unwrap().is_none());
                assert_eq!(reader.need(), Need::Grid);
                reader.provide_grid(grid.clone());
            }
            Need::Bytes(want) => match reader.feed(rest) {
                Ok(_) => rest = &rest[want.len as usize..],
                Err(error) => break error,
            },
            Need::Nothing => panic!("a chunk outside the grid was not noticed"),
        }
    };
    assert_eq!((error.class(), error.field), (ErrorClass::Invalid, "chunk"));
    assert_eq!(reader.feed(rest).unwrap_err(), error);
    assert_eq!(reader.finish(&[]).unwrap_err(), error);
}

#[test]
fn a_reader_of_the_ends_fetches_nothing_of_the_blocks_but_what_is_asked_for() {
    let plan = Plan::delta();
    let file = plan.file();
    let access = open(&file, &plan.grid()).unwrap();
    let block = Raw::of(&plan).at(3);
    let entry = access.index().block_of(access.index().find(at(1, 2)).unwrap()).unwrap();
    let want = access.block_want(entry).unwrap();
    assert_eq!((entry, want.offset), (1, block));
    // A damaged first block is none of its business.
    let mut damaged = file.clone();
    damaged[Raw::of(&plan).at(2) as usize + 20] ^= 1;
    let access = open(&damaged, &plan.grid()).unwrap();
    access.block(1, cut(&damaged, want)).unwrap().unwrap();
    let error = access.block(0, cut(&damaged, access.block_want(0).unwrap())).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Checksum);
    // Neither is the right bytes of the wrong block.
    let first = access.block_want(0).unwrap();
    assert!(access.block(1, cut(&file, first)).is_err());
    assert!(access.block(2, &file).unwrap().is_none());
    assert_eq!(access.block_want(2), None);
}

#[test]
fn opening_by_the_ends_needs_all_of_them() {
    let plan = Plan::full();
    let file = plan.file();
    let mut reader = RandomReader::new(file.len() as u64, &Limits::default());
    let mut steps = 0;
    while let Need::Bytes(want) = reader.need() {
        let error = reader.clone().with_grid(plan.grid()).map(|_| ()).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Truncated, want.offset));
        reader.feed(cut(&file, want)).unwrap();
        steps += 1;
    }
    assert_eq!(steps, 6);
    reader.with_grid(plan.grid()).unwrap();
}

proptest! {
    #[test]
    fn how_the_bytes_arrive_changes_nothing(
        cuts in proptest::collection::vec(0_usize..2000, 0..20),
        flip in proptest::option::of((0_usize..2000, 0_u8..8)),
        which in 0_usize..3,
    ) {
        let plan = &Plan::all()[which];
        let (mut file, grid) = (plan.file(), plan.grid());
        if let Some((at, bit)) = flip {
            let at = at % file.len();
            file[at] ^= 1 << bit;
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % file.len()).collect();
        cuts.extend([0, file.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &file[pair[0]..pair[1]]);
        prop_assert_eq!(forward(pieces, &grid), whole(&file, &grid));
    }
}
