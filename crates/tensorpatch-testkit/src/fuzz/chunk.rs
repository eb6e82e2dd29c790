//! Payloads of single chunks.

use tensorpatch_codec::{Changes, ChunkContext, ChunkDecoder, ChunkEncoder, leaf_digest};
use tensorpatch_format::{ElementFormat, Encoding, LeafHash, Profile};

use crate::{Change, Fill, Rng};

const FORMATS: [ElementFormat; 9] = [
    ElementFormat::Bf16,
    ElementFormat::F16,
    ElementFormat::F32,
    ElementFormat::E4m3,
    ElementFormat::E5m2,
    ElementFormat::W8,
    ElementFormat::W16,
    ElementFormat::W32,
    ElementFormat::W64,
];

/// What the first byte of an input chooses.
fn context(choice: u8) -> ChunkContext {
    let format = FORMATS[usize::from(choice) % FORMATS.len()];
    let rest = usize::from(choice) / FORMATS.len();
    let profile = if rest & 1 == 0 { Profile::Compact } else { Profile::Direct };
    let leaf_hash = if rest & 2 == 0 { LeafHash::Xxh3 } else { LeafHash::Blake3 };
    ChunkContext { format, profile, leaf_hash }
}

/// An input of the targets that decode chunks: the choice of the context, the encoding, two bytes of the
/// number of elements, a seed for the base, and the payload.
pub(super) struct Input<'a> {
    pub(super) context: ChunkContext,
    pub(super) encoding: Encoding,
    pub(super) base: Vec<u8>,
    pub(super) payload: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let ([choice, encoding, low, high, seed], payload) = bytes.split_first_chunk()?;
        let context = context(*choice);
        let encoding = Encoding::ALL[usize::from(*encoding) % Encoding::ALL.len()];
        // Some thousand elements reach every path, and small chunks are tried faster.
        let len = usize::from(u16::from_le_bytes([*low, *high]) % 4096) * context.format.width();
        Some(Self { context, encoding, base: base(context.format, len, *seed), payload })
    }
}

/// A dtype of a format.
pub(super) fn dtype(format: ElementFormat) -> &'static str {
    match format {
        ElementFormat::Bf16 => "BF16",
        ElementFormat::F16 => "F16",
        ElementFormat::F32 => "F32",
        ElementFormat::E4m3 => "F8_E4M3",
        ElementFormat::E5m2 => "F8_E5M2",
        ElementFormat::W16 => "I16",
        ElementFormat::W32 => "I32",
        ElementFormat::W64 => "I64",
        _ => "U8",
    }
}

/// Any payload on any base is refused at an offset in it, or gives a whole chunk, the same in place and
/// beside, whose single changes tell the same.
pub fn decode_chunk(bytes: &[u8]) {
    let Some(Input { context: cx, encoding, base, payload }) = Input::new(bytes) else { return };
    let len = base.len();
    let mut decoder = ChunkDecoder::new();
    let mut target = vec![0x55; len];
    let leaf = decoder.decode(cx, encoding, payload, Some(&base), &mut target);
    let mut chunk = base.clone();
    assert_eq!(decoder.decode_in_place(cx, encoding, payload, &mut chunk), leaf);
    let mut changes = Changes::default();
    let listed = decoder.changes(cx, encoding, payload, &base, &mut changes);
    match leaf {
        Ok(leaf) => {
            assert_eq!(chunk, target);
            assert_eq!(leaf, leaf_digest(cx.leaf_hash, &target));
            if listed.is_ok() {
                let width = cx.format.width();
                let mut scattered = base;
                for (position, value) in changes.positions.iter().zip(changes.values.chunks_exact(width)) {
                    let at = *position as usize * width;
                    scattered[at..at + width].copy_from_slice(value);
                }
                assert_eq!(scattered, target);
            }
        }
        Err(error) => {
            assert!(error.offset <= payload.len(), "{error}");
            assert!(listed.is_err());
        }
    }
}

fn base(format: ElementFormat, len: usize, seed: u8) -> Vec<u8> {
    let fill = [Fill::Weights, Fill::Noise, Fill::Extremes, Fill::Zeros][usize::from(seed) % 4];
    fill.bytes(format, len, &mut Rng::new(u64::from(seed)))
}

/// Whatever base and target are, decoding what was encoded gives the target; and the payload is never much
/// larger than the chunk.
///
/// An input is the choice of the context, then base and target, half and half.
pub fn round_trip(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let cx = context(*choice);
    let len = rest.len() / 2 / cx.format.width() * cx.format.width();
    let (base, target) = (&rest[..len], &rest[len..2 * len]);
    let (mut payload, mut fresh) = (Vec::new(), Vec::new());
    let mut encoder = ChunkEncoder::new();
    let encoded = encoder.encode(cx, base, target, None, &mut payload);
    let encoded_fresh = encoder.encode_fresh(cx, target, &mut fresh);
    assert_eq!(encoded.leaf, leaf_digest(cx.leaf_hash, target));
    let width = cx.format.width();
    let changed = base.chunks_exact(width).zip(target.chunks_exact(width)).filter(|(a, b)| a != b).count();
    assert_eq!(encoded.changed_elements, changed as u64);
    assert_eq!(encoded.encoding.is_none(), changed == 0);
    let mut decoder = ChunkDecoder::new();
    if let Some(encoding) = encoded.encoding {
        assert!(encoding.allowed_in(cx.profile));
        assert!(payload.len() <= target.len());
        let mut rebuilt = vec![0x55; len];
        assert_eq!(decoder.decode(cx, encoding, &payload, Some(base), &mut rebuilt), Ok(encoded.leaf));
        assert_eq!(rebuilt, target);
    } else {
        assert!(payload.is_empty());
    }
    let encoding = encoded_fresh.encoding.unwrap();
    let mut rebuilt = vec![0x55; len];
    assert_eq!(decoder.decode(cx, encoding, &fresh, None, &mut rebuilt), Ok(encoded.leaf));
    assert_eq!(rebuilt, target);
}

/// Base and target of several formats and changes, and how they were made.
fn changed() -> impl Iterator<Item = (&'static str, u8, u8, Vec<u8>, Vec<u8>)> {
    let cases = [
        ("bf16", 0, 0, Change::Ulp, 20),
        ("f16-direct", 10, 0, Change::Few, 50),
        ("f32-noise", 2, 1, Change::Noise, 1000),
        ("e4m3-dense", 3, 0, Change::Few, 900),
        ("w64", 8, 3, Change::Ulp, 10),
        ("bf16-blake3-sign", 18, 2, Change::Sign, 200),
    ];
    cases.into_iter().map(|(name, choice, seed, change, density)| {
        let format = context(choice).format;
        let base = base(format, 500 * format.width(), seed);
        let mut target = base.clone();
        change.apply(format, density, &mut target, &mut Rng::new(7));
        (name, choice, seed, base, target)
    })
}

pub(super) fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    changed()
        .map(|(name, choice, seed, base, target)| {
            let mut payload = Vec::new();
            let encoded = ChunkEncoder::new().encode(context(choice), &base, &target, None, &mut payload);
            let code = Encoding::ALL.iter().position(|&e| Some(e) == encoded.encoding).unwrap();
            let [low, high] = 500_u16.to_le_bytes();
            (name, [&[choice, code as u8, low, high, seed], payload.as_slice()].concat())
        })
        .collect()
}

pub(super) fn pairs() -> Vec<(&'static str, Vec<u8>)> {
    changed().map(|(name, choice, _, base, target)| (name, [&[choice], &*base, &*target].concat())).collect()
}
