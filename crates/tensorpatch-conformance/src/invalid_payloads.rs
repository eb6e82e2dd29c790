//! What every decoder must refuse: payloads of chunks. Each file has one fault.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::encodings::{Plane, positions, rice, scatter, stored, streamed, xor};
use crate::patch::{Patch, RAW, SCATTER, XOR, ZSTD, frame};
use crate::raw::varint;
use crate::vector::States;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let (base, target) = (states.get("numbers"), states.get("numbers-three-changed"));
    let (old, new) = (&base.tensors[0].bytes, &target.tensors[0].bytes);
    let mut all = Vec::new();
    let mut add = |id: &str, section, comment: &str, encoding, payload: Vec<u8>| {
        let patch = Patch::delta(base, target, Xxh3).with(0, 0, encoding, payload);
        let raw = patch.raw();
        let payload_len = patch.blocks[0][0].payload.len() as u64;
        let offset = raw.payload_at(2) + 1 + 3 + varint(payload_len).len() as u64;
        all.push(Vector::refused(id, section, comment, Some(base), ("invalid", offset), raw.file()));
    };
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    let more = |bytes: &[u8]| [bytes, &[0]].concat();

    add("raw-short", "9", "One byte less than the chunk", RAW, cut(new));
    add("raw-long", "9", "One byte more than the chunk", RAW, more(new));
    add("raw-none", "9", "No bytes", RAW, vec![]);
    let framed = frame(new);
    add("zstd-none", "9", "No frame", ZSTD, vec![]);
    add("zstd-cut", "9", "A frame without its last byte", ZSTD, cut(&framed));
    add("zstd-followed", "9", "A byte after the frame", ZSTD, more(&framed));
    add("zstd-no-frame", "9", "Bytes that are no frame", ZSTD, new.clone());
    add("zstd-short", "9", "A frame that holds one byte less than the chunk", ZSTD, frame(&cut(new)));
    add("zstd-long", "9", "A frame that holds one byte more than the chunk", ZSTD, frame(&more(new)));
    add(
        "zstd-long-no-size",
        "9",
        "A frame that does not say that it holds one byte more",
        ZSTD,
        streamed(&more(new), false),
    );
    let mut flipped = streamed(new, true);
    *flipped.last_mut().expect("a checksum") ^= 0x80;
    add("zstd-wrong-checksum", "1.3", "A frame with a wrong checksum", ZSTD, flipped);
    add(
        "zstd-bomb",
        "9",
        "A frame of a megabyte where the chunk has 40 bytes",
        ZSTD,
        frame(&vec![0; 1 << 20]),
    );
    for (id, comment, frame) in [
        ("size-more", "A frame that states a byte more than it holds", stored(new, 0x20, &[], new.len() + 1)),
        ("size-less", "A frame that states a byte less than it holds", stored(new, 0x20, &[], new.len() - 1)),
        ("dictionary", "A frame that needs a dictionary", stored(new, 0x21, &[7], new.len())),
        ("reserved", "A frame whose reserved bit is set", stored(new, 0x28, &[], new.len())),
        (
            "skippable",
            "A skippable frame before the frame",
            [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &framed[..]].concat(),
        ),
        (
            "skippable-last",
            "A skippable frame after the frame",
            [&framed[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat(),
        ),
    ] {
        add(&format!("zstd-{id}"), "1.3", comment, ZSTD, frame);
    }
    let block = |head: u32, bytes: &[u8]| {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, new.len() as u8];
        [&frame[..], &head.to_le_bytes()[..3], bytes].concat()
    };
    let size = (new.len() as u32) << 3;
    add("zstd-block-reserved", "1.3", "A block of the reserved type", ZSTD, block(size | 3 << 1 | 1, new));
    add("zstd-block-not-last", "1.3", "A frame without a last block", ZSTD, block(size, new));
    // A frame as version 0.7 of zstd wrote it: a block as it is, and the mark of the end.
    let of_0_7 = [&[0x27, 0xb5, 0x2f, 0xfd, 0x20, 40, 0x40, 0, 40], &new[..], &[0xc0, 0, 0]].concat();
    assert_eq!(new.len(), 40);
    add("zstd-0-7", "1.3", "A frame of zstd 0.7, which began otherwise", ZSTD, of_0_7);
    add(
        "zstd-two-frames",
        "9",
        "Two frames, of half the chunk each",
        ZSTD,
        [frame(&new[..20]), frame(&new[20..])].concat(),
    );

    let planes = |mode| xor(old, new, 2, move |_| mode);
    let raw_planes = planes(Plane::Raw);
    add("xor-none", "encodings/xor", "No planes", XOR, vec![]);
    add("xor-mode", "encodings/xor", "An unknown mode", XOR, [&[3], &raw_planes[1..]].concat());
    add("xor-cut", "encodings/xor", "A plane cut short", XOR, cut(&raw_planes));
    add(
        "xor-plane-missing",
        "encodings/xor",
        "One plane where there should be two",
        XOR,
        raw_planes[..21].to_vec(),
    );
    add("xor-followed", "encodings/xor", "A byte after the last plane", XOR, more(&raw_planes));
    let of_len = |bytes: &[u8]| {
        let frame = frame(bytes);
        [vec![2], varint(frame.len() as u64), frame, vec![0]].concat()
    };
    add(
        "xor-frame-short",
        "encodings/xor",
        "A frame that holds one byte less than a plane",
        XOR,
        of_len(&[1; 19]),
    );
    add(
        "xor-frame-long",
        "encodings/xor",
        "A frame that holds one byte more than a plane",
        XOR,
        of_len(&[1; 21]),
    );
    let mut long = of_len(&[1; 20]);
    long[1] += 1;
    add(
        "xor-frame-followed",
        "encodings/xor",
        "A frame with a byte after it, which its length counts",
        XOR,
        [long, vec![0]].concat(),
    );
    add(
        "xor-frame-over",
        "encodings/xor",
        "A frame that runs over the end of the payload",
        XOR,
        vec![0, 2, 100],
    );
    add(
        "xor-varint",
        "encodings/xor",
        "A length that is not in its shortest form",
        XOR,
        vec![0, 2, 0x80, 0x00],
    );

    let good = scatter(old, new, 2, 3, Plane::Raw);
    // count 3, k 3, length 3, positions, then two planes of 1 and 3 bytes each.
    let rice_len = usize::from(good[2]);
    assert_eq!((good[0], good[1], good.len()), (3, 3, 3 + rice_len + 8));
    let changed = |at: usize, byte: u8| {
        let mut payload = good.clone();
        payload[at] = byte;
        payload
    };
    let at = positions(old, new, 2);
    let with_positions = |rice: Vec<u8>, values: usize| {
        let planes = [vec![1], vec![7; values]].concat();
        [varint(values as u64), vec![3], varint(rice.len() as u64), rice, planes.clone(), planes].concat()
    };
    add("scatter-none", "encodings/scatter", "No bytes", SCATTER, vec![]);
    add("scatter-count-0", "encodings/scatter", "No changed elements", SCATTER, changed(0, 0));
    add(
        "scatter-count-over",
        "encodings/scatter",
        "More changed elements than there are",
        SCATTER,
        changed(0, 21),
    );
    add(
        "scatter-count-huge",
        "encodings/scatter",
        "2^60 changed elements",
        SCATTER,
        [varint(1 << 60), good[1..].to_vec()].concat(),
    );
    add("scatter-k-24", "encodings/scatter", "The Rice parameter 24", SCATTER, changed(1, 24));
    add(
        "scatter-length-over",
        "encodings/scatter",
        "Positions that run over the end of the payload",
        SCATTER,
        changed(2, 200),
    );
    let more_rice = [rice(&at, 3), vec![0]].concat();
    add(
        "scatter-positions-over",
        "encodings/scatter",
        "A byte after the positions",
        SCATTER,
        with_positions(more_rice, 3),
    );
    add(
        "scatter-positions-cut",
        "encodings/scatter",
        "Positions for two elements where three are counted",
        SCATTER,
        with_positions(rice(&at[..2], 3), 3),
    );
    add(
        "scatter-position-outside",
        "encodings/scatter",
        "A position beyond the last element",
        SCATTER,
        with_positions(rice(&[0, 5, 20], 3), 3),
    );
    add(
        "scatter-zeros",
        "encodings/scatter",
        "A Rice code that never ends",
        SCATTER,
        with_positions(vec![0; 40], 3),
    );
    let mut filled = rice(&at, 3);
    *filled.last_mut().expect("positions") |= 0x80;
    let one_bit_free = rice(&at, 3).last().expect("positions") & 0x80 == 0;
    assert!(one_bit_free, "the last byte has filling bits");
    add(
        "scatter-filling",
        "encodings/scatter",
        "A filling bit that is not zero",
        SCATTER,
        with_positions(filled, 3),
    );
    add(
        "scatter-nothing",
        "encodings/scatter",
        "No changed elements, and nothing else that is wrong",
        SCATTER,
        vec![0, 3, 0, 0, 0],
    );
    let with_k = |k: u8| {
        let (rice, planes) = (rice(&at, usize::from(k)), [1, 7, 7, 7]);
        [vec![3, k], varint(rice.len() as u64), rice, planes.to_vec(), planes.to_vec()].concat()
    };
    add(
        "scatter-k-24-coded",
        "encodings/scatter",
        "The Rice parameter 24, with positions coded by it",
        SCATTER,
        with_k(24),
    );
    add("scatter-k-255", "encodings/scatter", "The Rice parameter 255", SCATTER, changed(1, 255));
    add("scatter-values-cut", "encodings/scatter", "Values cut short", SCATTER, cut(&good));
    add("scatter-followed", "encodings/scatter", "A byte after the values", SCATTER, more(&good));
    add("scatter-mode", "encodings/scatter", "An unknown mode of a plane", SCATTER, changed(3 + rice_len, 3));
    for (id, comment, plane) in [
        ("frame-short", "A frame that holds one byte less than there are changed elements", frame(&[7, 7])),
        ("frame-long", "A frame that holds one byte more than there are changed elements", frame(&[7; 4])),
        ("frame-followed", "A frame with a byte after it, which its length counts", more(&frame(&[7; 3]))),
    ] {
        let planes = [vec![2], varint(plane.len() as u64), plane, vec![1, 7, 7, 7]].concat();
        let payload = [&good[..3 + rice_len], &planes].concat();
        add(&format!("scatter-{id}"), "encodings/scatter", comment, SCATTER, payload);
    }
    add(
        "scatter-plane-missing",
        "encodings/scatter",
        "One plane where there should be two",
        SCATTER,
        [&good[..3 + rice_len], &[1, 7, 7, 7]].concat(),
    );
    all
}
