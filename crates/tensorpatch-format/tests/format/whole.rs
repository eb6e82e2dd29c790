//! Whole files in one slice.

use crate::plan::{Plan, at, leaf, read};
use tensorpatch_format::*;

#[test]
fn what_was_written_is_read_back() {
    for plan in Plan::all() {
        let file = plan.file();
        let patch = read(&file, &plan.grid()).unwrap();
        assert_eq!(*patch.header(), plan.header);
        assert_eq!(patch.trailer().ends, plan.ends());
        assert_eq!(patch.trailer().file_len, file.len() as u64);
        assert_eq!(patch.schema().is_listed(), plan.list_schema);
        assert_eq!(patch.layout().is_listed(), plan.list_layout);
        let records = |block: &Block<'_>| {
            block.records().map(|r| (r.address, r.encoding, r.payload.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(patch.blocks().iter().map(records).collect::<Vec<_>>(), plan.blocks);
        for record in patch.blocks().iter().flatten() {
            let start = record.payload_offset as usize;
            assert_eq!(&file[start..start + record.payload.len()], record.payload);
        }
    }
}

#[test]
fn the_index_finds_each_chunk_its_block_and_its_leaf() {
    let plan = Plan::delta();
    let file = plan.file();
    let patch = read(&file, &plan.grid()).unwrap();
    let index = patch.index();
    assert_eq!(index.addresses(), [at(0, 0), at(1, 0), at(1, 2)]);
    for (block, entry) in patch.blocks().iter().zip(index.blocks()) {
        assert_eq!((block.offset(), block.section_len()), (entry.offset, entry.len));
        let addresses: Vec<_> = block.records().map(|record| record.address).collect();
        assert_eq!(index.addresses_of(entry), addresses);
    }
    for (address, block, byte) in [(at(0, 0), 0, 6), (at(1, 0), 0, 9), (at(1, 2), 1, 3)] {
        let record = index.find(address).unwrap();
        assert_eq!(index.block_of(record), Some(block));
        assert_eq!(index.leaf(record), Some(leaf(LeafHash::Xxh3, byte)));
    }
    assert_eq!(index.find(at(1, 1)), None);
    assert_eq!(index.block_of(3), None);
    assert_eq!(index.leaf(3), None);
}

#[test]
fn every_strict_prefix_is_truncated() {
    for plan in Plan::all() {
        let file = plan.file();
        for len in 0..file.len() {
            let error = PatchView::parse(&file[..len], &Limits::default()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Truncated, "{len}: {error}");
            assert!(error.offset <= len as u64, "{len}: {error}");
        }
    }
}

#[test]
fn every_bit_flip_is_refused() {
    for plan in Plan::all() {
        let mut file = plan.file();
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(PatchView::parse(&file, &Limits::default()).is_err(), "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        read(&file, &plan.grid()).unwrap();
    }
}

#[test]
fn bytes_after_the_trailer_are_refused_where_they_start() {
    let mut file = Plan::delta().file();
    let len = file.len() as u64;
    file.push(0);
    let error = PatchView::parse(&file, &Limits::default()).unwrap_err();
    assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, len));
}

#[test]
fn a_base_with_another_schema_is_the_wrong_base_and_a_listed_schema_that_is_not_the_target_s_invalid() {
    let other = crate::plan::schema(&[("a", "BF16", &[3])]);
    let delta = Plan::delta();
    let file = delta.file();
    let trailer = file.len() as u64 - 192;
    let error = read(&file, &Grid::new(&other, Some(&other))).unwrap_err();
    assert_eq!((error.class(), error.offset), (ErrorClass::WrongBase, trailer + 64));
    let full = Plan::full();
    let file = full.file();
    let trailer = file.len() as u64 - 192;
    let error = read(&file, &Grid::new(&other, None)).unwrap_err();
    assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, trailer + 64));
    let error = read(&file, &full.grid()).unwrap().check_layout(LayoutDigest::NONE).unwrap_err();
    assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, trailer + 128));
}

#[test]
fn the_writer_refuses_what_the_format_does_not_have() {
    let plan = Plan::delta();
    let raw = |builder: &mut BlockBuilder, address| {
        builder.push(address, Encoding::Raw, b"x", leaf(LeafHash::Xxh3, 0))
    };
    let mut builder = BlockBuilder::new(&plan.header);
    raw(&mut builder, at(1, 1)).unwrap();
    assert_eq!(raw(&mut builder, at(1, 1)), Err(WriteError::Order(at(1, 1))));
    assert_eq!(raw(&mut builder, at(0, 5)), Err(WriteError::Order(at(0, 5))));
    let blake3 = leaf(LeafHash::Blake3, 0);
    assert_eq!(builder.push(at(2, 0), Encoding::Raw, b"", blake3), Err(WriteError::LeafHash(blake3)));
    builder
        .push_with(at(2, 0), |out| {
            out.push(1);
            None
        })
        .unwrap();
    let block = builder.finish().unwrap();
    assert_eq!(block.record_count(), 1);
    let mut alone = BlockBuilder::new(&plan.header);
    raw(&mut alone, at(1, 1)).unwrap();
    assert_eq!(block.section_len(), alone.finish().unwrap().section_len());
    assert!(matches!(BlockBuilder::new(&plan.header).finish(), Err(WriteError::NoRecord)));

    let direct = PatchHeader::new(Kind::Delta, Profile::Direct, LeafHash::Xxh3);
    let refused = BlockBuilder::new(&direct).push(at(0, 0), Encoding::Xor, b"", leaf(LeafHash::Xxh3, 0));
    assert_eq!(refused, Err(WriteError::Encoding(Encoding::Xor)));

    let writer = |header| {
        let (writer, _) = PatchWriter::start(header);
        let (writer, _) = writer.schema(&Listing::Same).unwrap();
        writer.layout(&Listing::Same).unwrap().0
    };
    assert_eq!(writer(&direct).block(block.clone()), Err(WriteError::OtherHeader));
    let mut delta = writer(&plan.header);
    delta.block(block.clone()).unwrap();
    assert_eq!(delta.block(block), Err(WriteError::Order(at(1, 1))));
    let empty = Plan::empty();
    let block = empty.block(&plan.blocks[0]);
    assert!(matches!(writer(&empty.header).block(block), Err(WriteError::Rule { .. })));
    let same_state = Ends { target_state: plan.ends().base_state, ..plan.ends() };
    assert!(matches!(writer(&plan.header).finish(&same_state), Err(WriteError::Rule { .. })));
    let (full, _) = PatchWriter::start(&Plan::full().header);
    assert!(full.schema(&Listing::Same).is_err());
}
