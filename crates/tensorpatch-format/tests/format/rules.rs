//! One broken rule at a time: its class, its field, its offset, and that each reader that sees it says the
//! same.

use tensorpatch_format::*;

use crate::plan::{Plan, at, schema};
use crate::raw::Raw;
use crate::read::{cut, forward, open, random, whole};

use ErrorClass::{Invalid, Truncated, UnsupportedFeature};

/// Checks that `file` is refused, the same by both readers of everything.
#[track_caller]
fn refused(file: &[u8], grid: &Grid, class: ErrorClass, field: &str, offset: u64) {
    let error = whole(file, grid).unwrap_err();
    assert_eq!((error.class(), error.field, error.offset), (class, field, offset), "{error}");
    assert_eq!(forward(file.chunks(11), grid).unwrap_err(), error);
}

/// As [`refused`], and by a reader of the ends in the same way.
#[track_caller]
fn refused_by_all(file: &[u8], grid: &Grid, class: ErrorClass, field: &str, offset: u64) {
    refused(file, grid, class, field, offset);
    let error = random(file, grid).unwrap_err();
    assert_eq!((error.class(), error.field, error.offset), (class, field, offset), "{error}");
}

type Change = fn(&mut Vec<(u8, Vec<u8>)>);

#[test]
fn sections_out_of_place() {
    let plan = Plan::delta();
    let grid = plan.grid();
    let with = |change: Change| {
        let mut raw = Raw::of(&plan);
        change(&mut raw.sections);
        raw
    };
    let raw = with(|sections| sections.swap(0, 1));
    refused_by_all(&raw.file(), &grid, Invalid, "type", 32);
    let raw = with(|sections| drop(sections.remove(0)));
    refused(&raw.file(), &grid, Invalid, "type", 32);
    let raw = with(|sections| sections.insert(1, sections[0].clone()));
    refused_by_all(&raw.file(), &grid, Invalid, "type", raw.at(1));
    let raw = with(|sections| drop(sections.remove(1)));
    refused(&raw.file(), &grid, Invalid, "type", raw.at(1));
    let raw = with(|sections| sections.insert(2, sections[1].clone()));
    refused(&raw.file(), &grid, Invalid, "type", raw.at(2));
    let raw = with(|sections| sections.insert(4, sections[0].clone()));
    refused(&raw.file(), &grid, Invalid, "type", raw.at(4));
    for unknown in [0, 5, 127] {
        let mut raw = Raw::of(&plan);
        raw.sections[0].0 = unknown;
        refused_by_all(&raw.file(), &grid, UnsupportedFeature, "type", 32);
    }
}

#[test]
fn kinds_and_modes_that_do_not_go_together() {
    let (delta, full, empty) = (Plan::delta(), Plan::full(), Plan::empty());
    let with = |plan: &Plan, section: usize, payload: Vec<u8>| {
        let mut raw = Raw::of(plan);
        raw.sections[section].1 = payload;
        raw
    };
    let listed_schema = Raw::of(&full).sections[0].1.clone();
    let raw = with(&full, 0, vec![0]);
    refused(&raw.file(), &full.grid(), Invalid, "mode", 32 + 16);
    let raw = with(&empty, 0, listed_schema.clone());
    refused_by_all(&raw.file(), &empty.grid(), Invalid, "mode", 32 + 16);
    let raw = with(&full, 1, vec![0]);
    refused(&raw.file(), &full.grid(), Invalid, "mode", raw.at(1) + 16);
    let raw = with(&delta, 0, listed_schema);
    refused(&raw.file(), &delta.grid(), Invalid, "mode", raw.at(1) + 16);
    let raw = with(&delta, 0, vec![2]);
    refused_by_all(&raw.file(), &delta.grid(), Invalid, "mode", 32 + 16);
    let raw = with(&delta, 1, vec![0, 0]);
    refused(&raw.file(), &delta.grid(), Invalid, "mode", raw.at(1) + 17);
    let mut raw = Raw::of(&empty);
    raw.sections.insert(2, Raw::of(&delta).sections[2].clone());
    refused(&raw.file(), &empty.grid(), Invalid, "type", raw.at(2));
}

#[test]
fn records_that_the_grid_has_no_place_for() {
    let first_record = |plan: &Plan, block: usize| Raw::of(plan).at(2 + block) + 16 + 1;
    let with = |block: usize, record: usize, address| {
        let mut plan = Plan::delta();
        plan.blocks[block][record].0 = address;
        plan
    };
    let plan = with(0, 0, at(0, 1));
    refused(&plan.file(), &plan.grid(), Invalid, "chunk", first_record(&plan, 0));
    let plan = with(1, 0, at(2, 0));
    refused(&plan.file(), &plan.grid(), Invalid, "chunk", first_record(&plan, 1));
    let plan = with(1, 0, at(3, 0));
    refused(&plan.file(), &plan.grid(), Invalid, "tensor_step", first_record(&plan, 1));

    // Out of order over the whole file: the writer would refuse, so blocks and index change behind its back.
    let plan = Plan::delta();
    let mut raw = Raw::of(&plan);
    raw.sections.swap(2, 3);
    raw.sections[4].1[..13].copy_from_slice(&[2, 34, 24, 1, 0, 40, 2, 1, 2, 0, 0, 1, 0]);
    assert_eq!(random(&raw.file(), &plan.grid()).unwrap_err().offset, raw.at(4));
    refused(&raw.file(), &plan.grid(), Invalid, "tensor_step", raw.at(3) + 16 + 1);
}

#[test]
fn encodings_that_the_profile_or_the_tensor_does_not_allow() {
    let mut plan = Plan::delta();
    let encoding = Raw::of(&plan).at(2) + 16 + 1 + 4 + 2;
    plan.base = Some(schema(&[("a", "BF16", &[3])]));
    plan.list_schema = true;
    plan.list_layout = true;
    // Sparse on a fresh tensor; the first block has moved by the listed schema and layout.
    let moved = Raw::of(&plan).at(2) + 16 + 1 + 4 + 2;
    refused_by_encoding(&plan.file(), &plan.grid(), moved);
    // Sparse in a direct patch: the header changes behind the writer's back.
    let mut raw = Raw::of(&Plan::delta());
    raw.header[21] = Profile::Direct.code();
    refused_by_encoding(&raw.file(), &Plan::delta().grid(), encoding);
    let access = open(&raw.file(), &Plan::delta().grid()).unwrap();
    let file = raw.file();
    let error = access.block(0, cut(&file, access.block_want(0).unwrap())).unwrap_err();
    assert_eq!((error.field, error.offset), ("encoding", encoding));
}

#[track_caller]
fn refused_by_encoding(file: &[u8], grid: &Grid, offset: u64) {
    refused(file, grid, Invalid, "encoding", offset);
}

#[test]
fn fresh_chunks_that_are_left_out() {
    let full = Plan::full();
    let mut plan = full.clone();
    plan.blocks[1].remove(0);
    let record = Raw::of(&plan).at(3) + 16 + 1;
    refused(&plan.file(), &plan.grid(), Invalid, "tensor_step", record);
    let mut plan = full.clone();
    plan.blocks.pop();
    refused_by_all(&plan.file(), &plan.grid(), Invalid, "tensor_step", Raw::of(&plan).at(3));
    let mut plan = full;
    plan.blocks.clear();
    refused_by_all(&plan.file(), &plan.grid(), Invalid, "tensor_step", Raw::of(&plan).at(2));
}

/// The INDEX payload of [`Plan::delta`] is: 2 blocks; gap, length, records; gap, length, records; addresses;
/// leaves.
#[test]
fn an_index_that_does_not_agree_with_the_blocks() {
    let plan = Plan::delta();
    let grid = plan.grid();
    let good = Raw::of(&plan);
    let index = good.sections.len() - 1;
    let start = good.at(index) + 16;
    assert_eq!(good.sections[index].1[..13], [2, 34, 40, 2, 0, 24, 1, 0, 0, 1, 0, 1, 2]);
    let with = |at: usize, byte: u8| {
        let mut raw = good.clone();
        raw.sections[index].1[at] = byte;
        raw.file()
    };
    for (at, byte, field, offset) in [
        (0, 1, "block_count", 0),
        (0, 3, "block_count", 0),
        (1, 33, "gap", 1),
        (2, 39, "gap", 1),
        (2, 0, "length", 2),
        (2, 127, "length", 2),
        (3, 1, "gap", 1),
        (3, 0, "record_count", 3),
        (4, 1, "length", 5),
        (5, 23, "gap", 4),
        (6, 2, "record_count", 6),
        (6, 100, "record_count", 6),
        (7, 1, "tensor_step", 7),
        (8, 1, "tensor_step", 7),
        (10, 1, "tensor_step", 9),
        (12, 1, "tensor_step", 11),
    ] {
        let file = with(at, byte);
        refused(&file, &grid, Invalid, field, start + offset);
        assert!(random(&file, &grid).is_err(), "{at} {byte}");
    }
    let mut raw = good.clone();
    raw.sections[index].1.pop();
    refused_by_all(&raw.file(), &grid, Invalid, "record_count", start + 6);
    let mut raw = good.clone();
    raw.sections[index].1.push(0);
    refused_by_all(&raw.file(), &grid, Invalid, "leaf digest", start + 13 + 3 * 16);
}

#[test]
fn every_field_of_the_trailer() {
    let (delta, full, empty) = (Plan::delta(), Plan::full(), Plan::empty());
    let with = |plan: &Plan, field: usize, byte: u8| {
        let mut raw = Raw::of(plan);
        raw.trailer[field] ^= byte;
        (raw.file(), raw.trailer_at())
    };
    for (plan, at, offset, field) in [
        (&full, 0, 0, "base state digest"),
        (&full, 96, 96, "base layout digest"),
        (&empty, 32, 32, "target state digest"),
        (&empty, 0, 32, "target state digest"),
        (&delta, 96, 128, "target layout digest"),
        (&delta, 128, 128, "target layout digest"),
        (&full, 64, 64, "target schema digest"),
        (&delta, 176, 176, "reserved"),
    ] {
        let (file, trailer) = with(plan, at, 1);
        refused_by_all(&file, &plan.grid(), Invalid, field, trailer + offset);
    }
    let mut raw = Raw::of(&delta);
    raw.trailer[32..64].copy_from_slice(&[1; 32]);
    refused_by_all(&raw.file(), &delta.grid(), Invalid, "target state digest", raw.trailer_at() + 32);
    // A reader of the ends says so before it asks for anything else.
    assert!(open(&raw.file(), &delta.grid()).is_err());
    let (file, trailer) = with(&delta, 64, 1);
    refused_by_all(&file, &delta.grid(), ErrorClass::WrongBase, "target schema digest", trailer + 64);
    let (file, trailer) = with(&delta, 184, 1);
    refused_by_all(&file, &delta.grid(), Truncated, "end magic", trailer + 184);
    for wrong in [1, u64::MAX, 1 << 60] {
        let mut raw = Raw::of(&delta);
        raw.false_file_len = wrong;
        refused_by_all(&raw.file(), &delta.grid(), Invalid, "file length", raw.trailer_at() + 168);
    }
    for wrong in [1, u64::MAX, 1 << 60, 0_u64.wrapping_sub(raw.at(raw.sections.len() - 1))] {
        let mut raw = Raw::of(&delta);
        raw.false_index_offset = wrong;
        refused(&raw.file(), &delta.grid(), Invalid, "index offset", raw.trailer_at() + 160);
        assert!(random(&raw.file(), &delta.grid()).is_err());
    }
}

/// What a reader of the ends finds out where one that goes forward sees something else.
#[test]
fn ends_that_do_not_agree_with_what_lies_between() {
    let plan = Plan::delta();
    let grid = plan.grid();
    let block_error = |raw: &Raw| {
        let file = raw.file();
        let access = open(&file, &grid).unwrap();
        let error = access.block(0, cut(&file, access.block_want(0).unwrap())).unwrap_err();
        (error.class(), error.field, error.offset)
    };
    let good = Raw::of(&plan);
    // The index says 39, the section 40.
    let mut raw = good.clone();
    raw.sections[4].1[2] = 39;
    assert_eq!(block_error(&raw), (Invalid, "length", raw.at(2) + 8));
    // One record of 19 bytes instead of two of 15.
    let mut raw = good.clone();
    raw.sections[2].1 = [&[1, 0, 0, 4, 19][..], &[0; 19]].concat();
    assert_eq!(block_error(&raw), (Invalid, "record_count", raw.at(2) + 16));
    let mut raw = good.clone();
    raw.sections[2].1[6] = 1;
    assert_eq!(block_error(&raw), (Invalid, "tensor_step", raw.at(2) + 16 + 5));

    let mut file = good.file();
    let length = good.at(1) as usize + 8;
    file[length + 1] = 1;
    let error = open(&file, &grid).map(|_| ()).unwrap_err();
    assert_eq!((error.class(), error.field, error.offset), (Invalid, "length", length as u64));
}

/// Were any of these counts believed, the reader would ask for exabytes and the test would die.
#[test]
fn huge_declared_counts_allocate_nothing() {
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]; // 2^60
    let plan = Plan::delta();
    let grid = plan.grid();
    for (section, field) in [(2, "record_count"), (4, "block_count")] {
        let mut raw = Raw::of(&plan);
        raw.sections[section].1.splice(0..1, huge);
        refused(&raw.file(), &grid, Invalid, field, raw.at(section) + 16);
    }
    let mut raw = Raw::of(&plan);
    raw.sections[4].1.splice(3..4, huge);
    refused_by_all(&raw.file(), &grid, Invalid, "record_count", raw.at(4) + 16 + 3);
    let mut raw = Raw::of(&plan);
    raw.sections[1].1 = [&[1, 1], &huge[..]].concat();
    refused(&raw.file(), &grid, ErrorClass::Limit, "raw_len", raw.at(1) + 16 + 2);
    for section in 0..5 {
        let raw = Raw::of(&plan);
        let mut file = raw.file();
        let at = raw.at(section) as usize + 8;
        file[at..at + 8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        refused(&file, &grid, ErrorClass::Limit, "length", at as u64);
    }
}

#[test]
fn what_the_limits_do_not_allow_is_refused_before_it_is_wanted() {
    let plan = Plan::delta();
    let file = plan.file();
    let mut limits = Limits::default();
    limits.section_bytes = 23;
    let error = PatchView::parse(&file, &limits).map(|_| ()).unwrap_err();
    assert_eq!((error.class(), error.offset), (ErrorClass::Limit, Raw::of(&plan).at(2) + 8));
    let mut reader = RandomReader::new(file.len() as u64, &limits);
    let mut refused = None;
    while let (Need::Bytes(want), None) = (reader.need(), &refused) {
        assert!(want.len < 300);
        refused = reader.feed(cut(&file, want)).err();
    }
    // The index says how long the block is.
    let refused = refused.unwrap();
    assert_eq!((refused.class(), refused.field), (ErrorClass::Limit, "length"));

    limits.metadata_bytes = 10;
    let mut reader = RandomReader::new(file.len() as u64, &limits);
    reader.feed(&file).unwrap();
    let trailer = Raw::of(&plan).trailer_at() as usize;
    let refused = reader.feed(&file[trailer..]).unwrap_err();
    assert_eq!((refused.class(), refused.offset), (ErrorClass::Limit, Raw::of(&plan).at(4) + 8));
}
