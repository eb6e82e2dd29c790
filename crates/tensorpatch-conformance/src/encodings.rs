//! Every chunk encoding but `sparse`, made by hand.

use tensorpatch_codec::{ChunkContext, ChunkEncoder};
use tensorpatch_format::{Dtype, ElementFormat, LeafHash as WireHash, Profile};
use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::patch::{CHUNK, Patch, RAW, SCATTER, XOR, ZSTD, frame};
use crate::raw::varint;
use crate::state::State;
use crate::states::name;
use crate::vector::States;

pub(crate) fn format_of(dtype: &str) -> ElementFormat {
    Dtype::new(dtype).expect("a dtype").element_format()
}

/// The chunks of a tensor that differ, with those of the base.
fn differing<'a>(base: &'a State, patch: &'a Patch) -> impl Iterator<Item = (u64, u64, &'a [u8], &'a [u8])> {
    let tensors = (0..).zip(base.tensors.iter().zip(&patch.target));
    tensors.flat_map(|(number, (base, target))| {
        assert_eq!(base.name, target.name);
        let chunks = (0..).zip(base.bytes.chunks(CHUNK).zip(target.bytes.chunks(CHUNK)));
        chunks.filter(|(_, (old, new))| old != new).map(move |(chunk, (old, new))| (number, chunk, old, new))
    })
}

/// Adds a record for each chunk that differs, in the smallest encoding, one block for each tensor.
pub(crate) fn best(mut patch: Patch, base: &State) -> Patch {
    let profile = if patch.direct { Profile::Direct } else { Profile::Compact };
    let mut records = Vec::new();
    for (tensor, chunk, old, new) in differing(base, &patch) {
        let format = format_of(&base.tensors[tensor as usize].dtype);
        let context = ChunkContext { format, profile, leaf_hash: WireHash::Xxh3 };
        let mut payload = Vec::new();
        let encoded = ChunkEncoder::new().encode(context, old, new, None, &mut payload);
        let encoding = encoded.encoding.expect("something has changed").code();
        records.push((tensor, chunk, encoding, payload));
    }
    for (tensor, chunk, encoding, payload) in records {
        let record = patch.record(tensor, chunk, encoding, payload);
        patch.blocks.push(vec![record]);
    }
    patch
}

/// As [`best`], in an encoding made by hand.
pub(crate) fn changed(mut patch: Patch, base: &State, encoding: u8) -> Patch {
    let mut records = Vec::new();
    for (tensor, chunk, old, new) in differing(base, &patch) {
        let width = format_of(&base.tensors[tensor as usize].dtype).width();
        let payload = match encoding {
            SCATTER => scatter(old, new, width, 3, Plane::Raw),
            XOR => xor(old, new, width, |_| Plane::Raw),
            RAW => new.to_vec(),
            ZSTD => frame(new),
            _ => panic!("not by hand"),
        };
        records.push((tensor, chunk, payload));
    }
    for (tensor, chunk, payload) in records {
        let record = patch.record(tensor, chunk, encoding, payload);
        patch.blocks.push(vec![record]);
    }
    patch
}

/// How a byte plane is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plane {
    Zero,
    Raw,
    Zstd,
}

fn plane(bytes: &[u8], how: Plane) -> Vec<u8> {
    match how {
        Plane::Zero => {
            assert!(bytes.iter().all(|byte| *byte == 0));
            vec![0]
        }
        Plane::Raw => [&[1], bytes].concat(),
        Plane::Zstd => {
            let frame = frame(bytes);
            [vec![2], varint(frame.len() as u64), frame].concat()
        }
    }
}

pub(crate) fn xor(old: &[u8], new: &[u8], width: usize, how: impl Fn(usize) -> Plane) -> Vec<u8> {
    let difference: Vec<u8> = old.iter().zip(new).map(|(old, new)| old ^ new).collect();
    let planes = (0..width).map(|byte| {
        let bytes: Vec<u8> = difference.iter().skip(byte).step_by(width).copied().collect();
        plane(&bytes, how(byte))
    });
    planes.flatten().collect()
}

/// The numbers of the elements that differ.
pub(crate) fn positions(old: &[u8], new: &[u8], width: usize) -> Vec<usize> {
    let pairs = old.chunks(width).zip(new.chunks(width)).enumerate();
    pairs.filter(|(_, (old, new))| old != new).map(|(element, _)| element).collect()
}

/// The positions as Rice codes.
pub(crate) fn rice(positions: &[usize], k: usize) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut next = 0;
    for position in positions {
        let gap = position - next;
        bits.extend(std::iter::repeat_n(0, gap >> k));
        bits.push(1);
        bits.extend((0..k).map(|bit| (gap >> bit & 1) as u8));
        next = position + 1;
    }
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |value, bit| value << 1 | bit)).collect()
}

pub(crate) fn scatter(old: &[u8], new: &[u8], width: usize, k: usize, how: Plane) -> Vec<u8> {
    scatter_at(&positions(old, new, width), new, width, k, how)
}

fn scatter_at(positions: &[usize], new: &[u8], width: usize, k: usize, how: Plane) -> Vec<u8> {
    let rice = rice(positions, k);
    let mut out = [varint(positions.len() as u64), vec![k as u8], varint(rice.len() as u64), rice].concat();
    for byte in 0..width {
        let values: Vec<u8> = positions.iter().map(|element| new[element * width + byte]).collect();
        out.extend(plane(&values, how));
    }
    out
}

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let mut all = by_hand(states);
    for format in ["bf16", "f16", "f32", "f64"] {
        let base = states.get(name(&["special", format, "base"]));
        let target = states.get(name(&["special", format, "target"]));
        for (encoding, label) in [(SCATTER, "scatter"), (XOR, "xor"), (RAW, "raw"), (ZSTD, "zstd")] {
            let patch = changed(Patch::delta(base, target, Xxh3), base, encoding);
            let comment =
                format!("Zeros of both signs, infinities and NaNs with payloads in {format} by {label}");
            let id = format!("special-{format}-{label}");
            all.push(Vector::valid(id, "3", comment, Some(base), target, patch.file()));
        }
    }
    all
}

fn by_hand(states: &States) -> Vec<Vector> {
    let base = states.get("numbers");
    let (three, every) = (states.get("numbers-three-changed"), states.get("numbers-all-changed"));
    let old = &base.tensors[0].bytes;
    let mut all = Vec::new();
    let mut add = |id: &str, section, comment: &str, target: &State, encoding, payload| {
        let patch = Patch::delta(base, target, Xxh3).with(0, 0, encoding, payload);
        all.push(Vector::valid(id, section, comment, Some(base), target, patch.file()));
    };
    let (new, new_every) = (&three.tensors[0].bytes, &every.tensors[0].bytes);
    add("raw", "9", "The bytes of the chunk", three, RAW, new.clone());
    add("zstd", "9", "A zstd frame", three, ZSTD, frame(new));
    add(
        "zstd-checksum",
        "1.3",
        "A zstd frame with a checksum and without its content size",
        three,
        ZSTD,
        streamed(new, true),
    );
    add("zstd-no-size", "1.3", "A zstd frame that states no content size", three, ZSTD, streamed(new, false));
    add(
        "zstd-dictionary-0",
        "1.3",
        "A zstd frame with a dictionary ID of 0, which is none",
        three,
        ZSTD,
        stored(new, 0x21, &[0], new.len()),
    );
    add(
        "zstd-unused-bit",
        "1.3",
        "A zstd frame whose unused bit is set, which means nothing",
        three,
        ZSTD,
        stored(new, 0x30, &[], new.len()),
    );
    // The window descriptor stands where the content size would.
    for (id, window, comment) in [
        ("least", 0x00, "A zstd frame with the smallest window"),
        ("most", 0x88, "A zstd frame with a window of 2^27 bytes"),
    ] {
        let framed = stored(new, 0x00, &[], window);
        add(&format!("zstd-window-{id}"), "1.3", comment, three, ZSTD, framed);
    }
    add(
        "zstd-stored",
        "9",
        "A zstd frame of one block as it is",
        three,
        ZSTD,
        stored(new, 0x20, &[], new.len()),
    );
    let planes = |how: [Plane; 2]| xor(old, new, 2, move |byte| how[byte]);
    add("xor-raw", "encodings/xor", "Byte planes as they are", three, XOR, planes([Plane::Raw, Plane::Raw]));
    add(
        "xor-zstd",
        "encodings/xor",
        "Byte planes as zstd frames",
        three,
        XOR,
        planes([Plane::Zstd, Plane::Zstd]),
    );
    add(
        "xor-mixed",
        "encodings/xor",
        "One byte plane as it is and one as a zstd frame",
        three,
        XOR,
        planes([Plane::Raw, Plane::Zstd]),
    );
    let zero_plane = xor(old, &states.get("numbers-low-changed").tensors[0].bytes, 2, |byte| {
        [Plane::Zstd, Plane::Zero][byte]
    });
    add(
        "xor-zero-plane",
        "encodings/xor",
        "A byte plane of zeros",
        states.get("numbers-low-changed"),
        XOR,
        zero_plane,
    );
    add(
        "xor-all",
        "encodings/xor",
        "Every element changes",
        every,
        XOR,
        xor(old, new_every, 2, |_| Plane::Raw),
    );
    for k in [0, 1, 3, 8, 23] {
        let comment = format!("Positions with the Rice parameter {k}");
        let payload = scatter(old, new, 2, k, Plane::Raw);
        add(&format!("scatter-rice-{k}"), "encodings/scatter", &comment, three, SCATTER, payload);
    }
    add(
        "scatter-zstd",
        "encodings/scatter",
        "Values as zstd frames",
        three,
        SCATTER,
        scatter(old, new, 2, 2, Plane::Zstd),
    );
    add(
        "scatter-all",
        "encodings/scatter",
        "Every element changes",
        every,
        SCATTER,
        scatter(old, new_every, 2, 0, Plane::Raw),
    );
    let listed: Vec<usize> = (0..20).collect();
    let payload = scatter_at(&listed, new, 2, 0, Plane::Raw);
    add(
        "scatter-unchanged-listed",
        "encodings/scatter",
        "Elements are listed that keep their value",
        three,
        SCATTER,
        payload,
    );
    let first = scatter_at(&[0, 5, 19], new, 2, 4, Plane::Raw);
    add("scatter-ends", "encodings/scatter", "The first and the last element change", three, SCATTER, first);
    all
}

/// A frame of one block as it is, with this descriptor (RFC 8878, 3.1.1.1.1), the dictionary ID that it calls
/// for, and this content size.
pub(crate) fn stored(bytes: &[u8], descriptor: u8, dictionary: &[u8], stated: usize) -> Vec<u8> {
    assert!(stated < 256, "one byte for the content size");
    let block = ((bytes.len() as u32) << 3 | 1).to_le_bytes();
    let head = [0x28, 0xb5, 0x2f, 0xfd, descriptor];
    [&head[..], dictionary, &[stated as u8], &block[..3], bytes].concat()
}

/// A frame written by a stream, which knows no content size.
pub(crate) fn streamed(bytes: &[u8], checksum: bool) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("a stream");
    encoder.include_checksum(checksum).expect("a stream");
    std::io::Write::write_all(&mut encoder, bytes).expect("memory");
    encoder.finish().expect("memory")
}
