//! A slow decoder of tensorpatch patches, in the order of `spec/format.md`.
//!
//! It is written from the specification alone and shares no code with the other crates, so that the
//! conformance vectors and the fuzzer can hold the fast decoder against it. It keeps everything in memory,
//! reads one byte after the other, and does each thing where the specification speaks of it. Nobody should
//! use it for anything else.
//!
//! ```
//! use tensorpatch_reference::{Code, decode};
//!
//! let error = decode(b"no patch", None).unwrap_err();
//! assert_eq!((error.code, error.offset), (Code::NotAPatch, 0));
//! ```

// Long because a reader goes through it beside the specification, from its first section to its last.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

// Section 1: conventions

/// Bytes of a file with the offset at which they lie in it.
#[derive(Debug, Clone, Copy)]
struct Input<'a> {
    rest: &'a [u8],
    at: u64,
    /// Whether the bytes were decompressed: then every offset is that of the frame.
    fixed: bool,
}

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8], at: u64) -> Self {
        Self { rest: bytes, at, fixed: false }
    }

    /// What a frame at `at` decodes to.
    fn unpacked(bytes: &'a [u8], at: u64) -> Self {
        Self { rest: bytes, at, fixed: true }
    }

    fn at(&self) -> u64 {
        self.at
    }

    fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    /// The next `len` bytes. A field that runs over the end is invalid, at the field.
    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = split else {
            return refuse(Code::Invalid, self.at, "a field runs over the end of what holds it");
        };
        self.rest = rest;
        if !self.fixed {
            self.at = self.at.saturating_add(len);
        }
        Ok(head)
    }

    /// The next `len` bytes as an input of their own.
    fn part(&mut self, len: u64) -> Result<Self> {
        let at = self.at;
        Ok(Self { rest: self.take(len)?, at, fixed: self.fixed })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.at;
        match self.take(N as u64)?.try_into() {
            Ok(array) => Ok(array),
            Err(_) => refuse(Code::Invalid, at, "a field is cut short"),
        }
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Section 1: unsigned LEB128 in its shortest form, at most 64 bits. All errors are at its first byte.
    fn varint(&mut self) -> Result<u64> {
        let at = self.at;
        let mut value = 0_u128;
        for place in 0..10_u32 {
            let Ok(byte) = self.u8() else {
                return refuse(Code::Invalid, at, "a varint runs over the end of what holds it");
            };
            value |= u128::from(byte & 0x7f) << place.saturating_mul(7);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return refuse(Code::Invalid, at, "a varint is not in its shortest form");
                }
                return match u64::try_from(value) {
                    Ok(value) => Ok(value),
                    Err(_) => refuse(Code::Invalid, at, "a varint does not fit 64 bits"),
                };
            }
        }
        refuse(Code::Invalid, at, "a varint has more than ten bytes")
    }

    /// Nothing may be left over.
    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { refuse(Code::Invalid, self.at, "bytes are left over") }
    }
}

/// A zstd frame as section 1 has it, which must decode to exactly `len` bytes. `None` if it is anything else.
pub fn unpack_frame(frame: &[u8], len: u64) -> Option<Vec<u8>> {
    use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    // RFC 8878, 3.1.1.1.1: whether the frame states its content size, and the reserved bit.
    let descriptor = *frame.get(4)?;
    let states_size = descriptor & 0b1110_0000 != 0;
    if descriptor & 0b1000 != 0 {
        return None;
    }
    let mut source = frame;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(1 << 27);
    decoder.init(&mut source).ok()?;
    if states_size && decoder.content_size() != len {
        return None;
    }
    let mut out = Vec::new();
    while !decoder.is_finished() {
        decoder.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
        out.extend(decoder.collect().unwrap_or_default());
        if out.len() as u64 > len {
            return None;
        }
    }
    let checksum_holds = match decoder.get_checksum_from_data() {
        Some(stated) => decoder.get_calculated_checksum() == Some(stated),
        None => true,
    };
    (source.is_empty() && out.len() as u64 == len && checksum_holds).then_some(out)
}

// Section 2: the model

const CHUNK: u64 = 1_048_576;

/// One tensor of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype, as safetensors files spell it.
    pub dtype: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// One tensor of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    byte_len: u64,
}

impl Spec {
    fn of(tensor: &Tensor) -> Self {
        let Tensor { name, dtype, shape, bytes } = tensor;
        let byte_len = bytes.len() as u64;
        Self { name: name.clone(), dtype: dtype.clone(), shape: shape.clone(), byte_len }
    }

    fn chunk_count(&self) -> u64 {
        self.byte_len.div_ceil(CHUNK)
    }

    /// The length of a chunk that the tensor has.
    fn chunk_len(&self, chunk: u64) -> u64 {
        self.byte_len.saturating_sub(chunk.saturating_mul(CHUNK)).min(CHUNK)
    }
}

// Sections 2.1 and 2.2: canonical bytes

/// Section 2.1: the canonical bytes of a schema.
fn schema_bytes(specs: &[Spec]) -> Vec<u8> {
    let mut out = (specs.len() as u64).to_le_bytes().to_vec();
    for Spec { name, dtype, shape, byte_len } in specs {
        out.extend(u32_len(name.len()));
        out.extend(name.as_bytes());
        out.extend(u32_len(dtype.len()));
        out.extend(dtype.as_bytes());
        out.extend(u32_len(shape.len()));
        for dim in shape {
            out.extend(dim.to_le_bytes());
        }
        out.extend(byte_len.to_le_bytes());
    }
    out
}

/// Names, dtypes and ranks are far shorter than this could cut off; longer ones would only change a digest.
fn u32_len(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// Section 2.1: reads the canonical bytes of a schema.
fn parse_schema(mut input: Input<'_>) -> Result<Vec<Spec>> {
    let start = input.at();
    let count = input.u64()?;
    if count > MOST_TENSORS {
        return refuse(Code::Limit, start, "more tensors than this reader takes");
    }
    if count > input.left() / 21 {
        return refuse(Code::Invalid, start, "more tensors than there is room for");
    }
    let mut specs: Vec<Spec> = Vec::new();
    let mut total = 0_u128;
    for _ in 0..count {
        let tensor_at = input.at();
        let name_len = input.u32()?;
        if name_len > 65_535 {
            return refuse(Code::Invalid, tensor_at, "a name has at most 65535 bytes");
        }
        let name = text(input.take(name_len.into())?, tensor_at)?;
        let dtype_at = input.at();
        let dtype_len = input.u32()?;
        if dtype_len == 0 || dtype_len > 32 {
            return refuse(Code::Invalid, dtype_at, "a dtype has 1 to 32 bytes");
        }
        let dtype = text(input.take(dtype_len.into())?, dtype_at)?;
        if !dtype.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')) {
            return refuse(Code::Invalid, dtype_at, "a dtype is made of A-Z, 0-9 and _");
        }
        let rank_at = input.at();
        let rank = input.u32()?;
        if rank > 64 {
            return refuse(Code::Invalid, rank_at, "a rank is at most 64");
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(input.u64()?);
        }
        let byte_len = input.u64()?;
        let spec = Spec { name, dtype, shape, byte_len };
        if !size_is_right(&spec) {
            return refuse(Code::Invalid, tensor_at, "the byte length is not that of the shape");
        }
        if spec.chunk_count() > u64::from(u32::MAX) {
            return refuse(Code::Invalid, tensor_at, "a tensor has too many chunks");
        }
        if specs.last().is_some_and(|last| last.name.as_bytes() >= spec.name.as_bytes()) {
            return refuse(Code::Invalid, tensor_at, "the names are not strictly ascending");
        }
        // No tensor has more than 2^52 bytes, so that 2^20 of them fit easily.
        total = total.saturating_add(byte_len.into());
        specs.push(spec);
    }
    input.end()?;
    if total >= 1 << 63 {
        return refuse(Code::Invalid, start, "all tensors together are too large");
    }
    if total > MOST_STATE {
        return refuse(Code::Limit, start, "more bytes of tensors than this reader takes");
    }
    Ok(specs)
}

fn text(bytes: &[u8], at: u64) -> Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => refuse(Code::Invalid, at, "a string is not UTF-8"),
    }
}

/// Section 2.1: whether `byte_len` is what dtype and shape ask for.
fn size_is_right(spec: &Spec) -> bool {
    let Some(bits) = bits(&spec.dtype) else {
        return true;
    };
    let elements = if spec.shape.contains(&0) {
        Some(0)
    } else {
        spec.shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim))
    };
    // 2^64 elements of 64 bits fit 128 bits.
    let total = elements.and_then(|elements| u128::from(elements).checked_mul(bits.into()));
    total == u128::from(spec.byte_len).checked_mul(8)
}

/// Section 2.2: checks the canonical bytes of a layout.
fn check_layout(mut input: Input<'_>) -> Result<()> {
    let start = input.at();
    let count = input.u32()?;
    if count == 0 {
        return refuse(Code::Invalid, start, "a layout has at least one file");
    }
    if u64::from(count) > MOST_FILES {
        return refuse(Code::Limit, start, "more files than this reader takes");
    }
    if u64::from(count) > input.left() / 13 {
        return refuse(Code::Invalid, start, "more files than there is room for");
    }
    let mut last: Option<String> = None;
    for _ in 0..count {
        let file_at = input.at();
        let name_len = input.u32()?;
        if name_len > 255 {
            return refuse(Code::Invalid, file_at, "a file name has at most 255 bytes");
        }
        let name = text(input.take(name_len.into())?, file_at)?;
        let header_at = input.at();
        let header_len = input.u64()?;
        if header_len > MOST_HEADER {
            return refuse(Code::Invalid, header_at, "a header has at most 100000008 bytes");
        }
        input.take(header_len)?;
        // An empty name does not end as it must.
        let is_plain = !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
            && !name.starts_with('.')
            && name.ends_with(".safetensors");
        if !is_plain {
            return refuse(Code::Invalid, file_at, "not a plain file name");
        }
        if last.is_some_and(|last| last.as_bytes() >= name.as_bytes()) {
            return refuse(Code::Invalid, file_at, "the file names are not strictly ascending");
        }
        last = Some(name);
    }
    let has_index_at = input.at();
    match input.u8()? {
        0 => {}
        1 => {
            let index_at = input.at();
            let index_len = input.u64()?;
            if index_len > MOST_HEADER {
                return refuse(Code::Limit, index_at, "a longer index than this reader takes");
            }
            input.take(index_len)?;
        }
        _ => return refuse(Code::Invalid, has_index_at, "has_index is 0 or 1"),
    }
    input.end()
}

// Section 3: dtypes

/// Section 3: the bits of an element, for the dtypes that the table names.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BF16" | "F16" | "I16" | "U16" => 16,
        "F32" | "I32" | "U32" => 32,
        "F8_E4M3" | "F8_E4M3FNUZ" | "F8_E5M2" | "F8_E5M2FNUZ" | "BOOL" | "U8" | "I8" | "F8_E8M0" => 8,
        "F64" | "I64" | "U64" | "C64" => 64,
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        _ => return None,
    })
}

/// Section 3: what the chunk encodings see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Bf16,
    F16,
    F32,
    E4m3,
    E5m2,
    W8,
    W16,
    W32,
    W64,
}

impl Format {
    fn of(dtype: &str) -> Self {
        match dtype {
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F32" => Self::F32,
            "F8_E4M3" | "F8_E4M3FNUZ" => Self::E4m3,
            "F8_E5M2" | "F8_E5M2FNUZ" => Self::E5m2,
            "I16" | "U16" => Self::W16,
            "I32" | "U32" => Self::W32,
            "F64" | "I64" | "U64" | "C64" => Self::W64,
            _ => Self::W8,
        }
    }

    /// The bytes of an element.
    fn width(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::W8 => 1,
            Self::Bf16 | Self::F16 | Self::W16 => 2,
            Self::F32 | Self::W32 => 4,
            Self::W64 => 8,
        }
    }
}

// Section 4: digests

/// How the bytes of a chunk are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafHash {
    /// XXH3-128
    Xxh3,
    /// BLAKE3
    Blake3,
}

/// The leaf digest of a chunk.
pub fn leaf(hash: LeafHash, chunk: &[u8]) -> Vec<u8> {
    match hash {
        // The canonical form is big endian.
        LeafHash::Xxh3 => twox_hash::XxHash3_128::oneshot(chunk).to_be_bytes().to_vec(),
        LeafHash::Blake3 => blake3::hash(chunk).as_bytes().to_vec(),
    }
}

fn code(hash: LeafHash) -> u8 {
    match hash {
        LeafHash::Xxh3 => 1,
        LeafHash::Blake3 => 2,
    }
}

fn tensor_digest(hash: LeafHash, bytes: &[u8]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.tensor\0".to_vec();
    input.push(code(hash));
    input.extend((bytes.len() as u64).to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a chunk has a million bytes")]
    for chunk in bytes.chunks(CHUNK as usize) {
        input.extend(leaf(hash, chunk));
    }
    *blake3::hash(&input).as_bytes()
}

/// The digest of the schema of a state, whose tensors are in the order of their names.
pub fn schema_digest(state: &[Tensor]) -> [u8; 32] {
    let specs: Vec<Spec> = state.iter().map(Spec::of).collect();
    digest_of_schema(&specs)
}

/// The canonical bytes of the schema of a state, whose tensors are in the order of their names.
pub fn canonical_schema(state: &[Tensor]) -> Vec<u8> {
    let specs: Vec<Spec> = state.iter().map(Spec::of).collect();
    schema_bytes(&specs)
}

fn digest_of_schema(specs: &[Spec]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.schema\0".to_vec();
    input.extend(schema_bytes(specs));
    *blake3::hash(&input).as_bytes()
}

/// The digest of a layout, given its canonical bytes.
pub fn layout_digest(canonical: &[u8]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.layout\0".to_vec();
    input.extend(canonical);
    *blake3::hash(&input).as_bytes()
}

/// The digest of a state, whose tensors are in the order of their names.
pub fn state_digest(hash: LeafHash, state: &[Tensor]) -> [u8; 32] {
    let mut input = b"tensorpatch.v1.state\0".to_vec();
    input.extend(schema_digest(state));
    for tensor in state {
        input.extend(tensor_digest(hash, &tensor.bytes));
    }
    *blake3::hash(&input).as_bytes()
}

/// A state digest as people read it.
pub fn tagged(hash: LeafHash, digest: &[u8; 32]) -> String {
    let name = match hash {
        LeafHash::Xxh3 => "xxh3",
        LeafHash::Blake3 => "blake3",
    };
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{hex}")
}

// Section 5: the structure of a file

/// A file in which everything holds that can be told without a base.
#[derive(Debug)]
struct File<'a> {
    header: Header,
    /// `None`: that of the base.
    schema: Option<Vec<Spec>>,
    /// `None`: that of the base.
    layout: Option<Vec<u8>>,
    records: Vec<Record<'a>>,
    index_at: u64,
    trailer: Trailer,
}

/// Section 5.
fn parse(bytes: &[u8]) -> Result<File<'_>> {
    let mut input = Input::new(bytes, 0);
    let header_bytes: &[u8] = bytes.get(..28).unwrap_or(bytes);
    let header = parse_header(&mut input)?;
    let mut schema = None;
    let mut layout = None;
    let mut blocks = Vec::new();
    let mut next = SCHEMA;
    loop {
        let section = section(&mut input, next, header.kind)?;
        match section.kind {
            SCHEMA => {
                let due = match header.kind {
                    Kind::Delta => None,
                    Kind::Full => Some(1),
                    Kind::Empty => Some(0),
                };
                schema = parse_listing(section.payload, due)?
                    .map(|listed| parse_schema(listed.input()))
                    .transpose()?;
                next = LAYOUT;
            }
            LAYOUT => {
                let must_list = header.kind == Kind::Full || schema.is_some();
                layout = parse_listing(section.payload, must_list.then_some(1))?;
                if let Some(listed) = &layout {
                    check_layout(listed.input())?;
                }
                next = BLOCK;
            }
            BLOCK => blocks.push(Block {
                at: section.at,
                len: section.payload.left().saturating_add(HEAD),
                records: parse_block(section.payload)?,
            }),
            INDEX => {
                parse_index(section.payload, section.at, &mut blocks, header.hash)?;
                let layout = layout.map(|listed| listed.bytes);
                let listed = Listed {
                    schema: schema.as_deref().map(digest_of_schema),
                    layout: layout.as_deref().map(layout_digest),
                };
                let trailer = parse_trailer(&mut input, header_bytes, section.at, &header, &listed)?;
                let records = blocks.into_iter().flat_map(|block| block.records).collect();
                return Ok(File { header, schema, layout, records, index_at: section.at, trailer });
            }
            _ => {} // Ancillary: its checksum holds, and that is all there is to know.
        }
    }
}

// Section 6: the header

const MAGIC: &[u8; 8] = b"\x89TPATCH\n";
const END_MAGIC: &[u8; 8] = b"\nhctapt\x89";
const HEADER: u64 = 32;
const HEAD: u64 = 16;
const TRAILER: u64 = 192;
const SCHEMA: u8 = 1;
const LAYOUT: u8 = 2;
const BLOCK: u8 = 3;
const INDEX: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delta,
    Full,
    Empty,
}

/// Section 6.
#[derive(Debug, Clone, Copy)]
struct Header {
    kind: Kind,
    direct: bool,
    hash: LeafHash,
}

/// Section 6.
fn parse_header(input: &mut Input<'_>) -> Result<Header> {
    let bytes = input.rest();
    if bytes.iter().zip(MAGIC).any(|(a, b)| a != b) {
        return refuse(Code::NotAPatch, 0, "the magic is another");
    }
    if input.left() < HEADER {
        return refuse(Code::Truncated, 0, "the header is not all there");
    }
    input.take(8)?;
    let major = input.u16()?;
    let _minor = input.u16()?;
    let required = input.u32()?;
    let _optional = input.u32()?;
    let (kind, profile, hash) = (input.u8()?, input.u8()?, input.u8()?);
    let reserved = input.array::<5>()?;
    let crc = input.u32()?;
    if major != 1 {
        return refuse(Code::UnsupportedVersion, 8, "the major version is not 1");
    }
    if crc != crc32fast::hash(bytes.get(..28).unwrap_or_default()) {
        return refuse(Code::Checksum, 28, "the header's checksum does not match");
    }
    if required != 0 {
        return refuse(Code::UnsupportedFeature, 12, "a required feature is unknown");
    }
    let kind = match kind {
        1 => Kind::Delta,
        2 => Kind::Full,
        3 => Kind::Empty,
        _ => return refuse(Code::Invalid, 20, "an unknown kind"),
    };
    let direct = match profile {
        1 => false,
        2 => true,
        _ => return refuse(Code::Invalid, 21, "an unknown profile"),
    };
    let hash = match hash {
        1 => LeafHash::Xxh3,
        2 => LeafHash::Blake3,
        _ => return refuse(Code::Invalid, 22, "an unknown leaf hash"),
    };
    if reserved != [0; 5] {
        return refuse(Code::Invalid, 23, "reserved bytes are not zero");
    }
    Ok(Header { kind, direct, hash })
}

// Section 7: sections

struct Section<'a> {
    at: u64,
    kind: u8,
    payload: Input<'a>,
}

/// Section 7. `due` is the type that must come next; `BLOCK` stands for that or INDEX.
fn section<'a>(input: &mut Input<'a>, due: u8, file: Kind) -> Result<Section<'a>> {
    let at = input.at();
    let start = input.rest();
    if input.left() < HEAD {
        return refuse(Code::Truncated, at, "a section head is not all there");
    }
    let kind = input.u8()?;
    let reserved = input.array::<3>()?;
    let crc = input.u32()?;
    let len = input.u64()?;
    let ancillary = kind >= 128;
    if !ancillary && !matches!(kind, SCHEMA | LAYOUT | BLOCK | INDEX) {
        return refuse(Code::UnsupportedFeature, at, "an unknown type of section");
    }
    if reserved != [0; 3] {
        return refuse(Code::Invalid, at.saturating_add(1), "reserved bytes are not zero");
    }
    let most = if matches!(kind, SCHEMA | LAYOUT | INDEX) { MOST_METADATA } else { MOST_BLOCK };
    if len > most {
        return refuse(Code::Limit, at.saturating_add(8), "a section is longer than this reader takes");
    }
    let in_place = match due {
        SCHEMA | LAYOUT => kind == due,
        _ => kind == INDEX || (kind == BLOCK && file != Kind::Empty),
    };
    if !ancillary && !in_place {
        return refuse(Code::Invalid, at, "a section is out of place");
    }
    if len > input.left() {
        return refuse(Code::Truncated, input.at(), "a payload is not all there");
    }
    let payload = input.part(len)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(start.get(..4).unwrap_or_default());
    hasher.update(start.get(8..16).unwrap_or_default());
    hasher.update(payload.rest());
    if hasher.finalize() != crc {
        return refuse(Code::Checksum, at.saturating_add(4), "a section's checksum does not match");
    }
    Ok(Section { at, kind, payload })
}

// Sections 7.1 to 7.3: schema, layout, packed blocks

/// Sections 7.1 and 7.2: the mode, and what is listed. `due` is the mode if this patch may have no other.
fn parse_listing(mut input: Input<'_>, due: Option<u8>) -> Result<Option<Unpacked>> {
    let at = input.at();
    let mode = input.u8()?;
    let packed = match mode {
        0 => {
            input.end()?;
            None
        }
        1 => Some(packing(&mut input)?),
        _ => return refuse(Code::Invalid, at, "an unknown mode"),
    };
    if due.is_some_and(|due| due != mode) {
        return refuse(Code::Invalid, at, "this patch may not have this mode");
    }
    packed.map(|packed| unpack(input, packed)).transpose()
}

/// Section 7.1: whether a tensor of the target is continued.
fn continues(base: &Tensor, target: &Spec) -> bool {
    base.dtype == target.dtype && base.bytes.len() as u64 == target.byte_len
}

/// The contents of a packed block.
struct Unpacked {
    bytes: Vec<u8>,
    at: u64,
    is_frame: bool,
}

impl Unpacked {
    fn input(&self) -> Input<'_> {
        if self.is_frame { Input::unpacked(&self.bytes, self.at) } else { Input::new(&self.bytes, self.at) }
    }
}

/// Section 7.3: what stands before the bytes.
struct Packing {
    code: u8,
    len: u64,
}

fn packing(input: &mut Input<'_>) -> Result<Packing> {
    let code_at = input.at();
    let code = input.u8()?;
    if code > 1 {
        return refuse(Code::Invalid, code_at, "an unknown packing");
    }
    let len_at = input.at();
    let len = input.varint()?;
    if len > MOST_METADATA {
        return refuse(Code::Limit, len_at, "more bytes than this reader takes");
    }
    if code == 0 && len != input.left() {
        return refuse(Code::Invalid, len_at, "not the number of bytes that follow");
    }
    Ok(Packing { code, len })
}

fn unpack(input: Input<'_>, Packing { code, len }: Packing) -> Result<Unpacked> {
    let at = input.at();
    if code == 0 {
        return Ok(Unpacked { bytes: input.rest().to_vec(), at, is_frame: false });
    }
    match unpack_frame(input.rest(), len) {
        Some(bytes) => Ok(Unpacked { bytes, at, is_frame: true }),
        None => refuse(Code::Invalid, at, "not a zstd frame of the stated length"),
    }
}

// Section 7.4: blocks

/// Section 7.4: one chunk that is in the file.
#[derive(Debug)]
struct Record<'a> {
    /// Of its `tensor_step`.
    at: u64,
    tensor: u64,
    chunk: u64,
    encoding_at: u64,
    encoding: u8,
    payload: Input<'a>,
    /// From the index, with its offset.
    leaf: &'a [u8],
    leaf_at: u64,
}

struct Block<'a> {
    at: u64,
    len: u64,
    records: Vec<Record<'a>>,
}

/// A number that counts tensors or the chunks of one.
fn index(value: Option<u64>, at: u64) -> Result<u64> {
    match value {
        Some(value) if value <= u64::from(u32::MAX) => Ok(value),
        _ => refuse(Code::Invalid, at, "a number is over 2^32 - 1"),
    }
}

/// Section 7.4: one address, after the last one of the same block.
fn parse_address(input: &mut Input<'_>, last: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let step_at = input.at();
    let step = input.varint()?;
    let tensor = match last {
        None => index(Some(step), step_at)?,
        Some((tensor, _)) => index(tensor.checked_add(step), step_at)?,
    };
    let chunk_at = input.at();
    let coded = input.varint()?;
    let chunk = match last {
        Some((_, chunk)) if step == 0 => {
            index(chunk.checked_add(1).and_then(|next| next.checked_add(coded)), chunk_at)?
        }
        _ => index(Some(coded), chunk_at)?,
    };
    Ok((tensor, chunk))
}

/// Section 7.4, but for what needs the schema.
fn parse_block(mut input: Input<'_>) -> Result<Vec<Record<'_>>> {
    let count_at = input.at();
    let count = input.varint()?;
    // Section 11: the least that a record takes here.
    if count == 0 || count > input.left() / 4 {
        return refuse(Code::Invalid, count_at, "a block has at least one record, and room for them");
    }
    let mut records = Vec::new();
    let mut lengths = Vec::new();
    let mut last = None;
    for _ in 0..count {
        let at = input.at();
        let (tensor, chunk) = parse_address(&mut input, last)?;
        last = Some((tensor, chunk));
        let encoding_at = input.at();
        let encoding = input.u8()?;
        if !(1..=5).contains(&encoding) {
            return refuse(Code::Invalid, encoding_at, "an unknown encoding");
        }
        lengths.push(input.varint()?);
        records.push(Record {
            at,
            tensor,
            chunk,
            encoding_at,
            encoding,
            payload: Input::new(&[], 0),
            leaf: &[],
            leaf_at: 0,
        });
    }
    let sum = lengths.iter().try_fold(0_u64, |sum, len| sum.checked_add(*len));
    if sum != Some(input.left()) {
        return refuse(Code::Invalid, input.at(), "the payloads do not fill the section");
    }
    for (record, len) in records.iter_mut().zip(lengths) {
        record.payload = input.part(len)?;
    }
    Ok(records)
}

/// Section 7.4: what needs the schema.
fn check_records(file: &File<'_>, schema: &[Spec], continued: &[Option<&Tensor>]) -> Result<()> {
    // The chunks that must be in the file, in the order of the grid.
    let mut fresh = (0_u64..)
        .zip(schema.iter().zip(continued))
        .filter(|(_, (_, old))| old.is_none())
        .flat_map(|(number, (spec, _))| (0..spec.chunk_count()).map(move |chunk| (number, chunk)))
        .peekable();
    let mut last = None;
    for record in &file.records {
        let here = (record.tensor, record.chunk);
        let spec = usize::try_from(record.tensor).ok().and_then(|tensor| schema.get(tensor));
        if spec.is_none_or(|spec| record.chunk >= spec.chunk_count()) {
            return refuse(Code::Invalid, record.at, "a record lies outside the grid");
        }
        if last.is_some_and(|last| here <= last) {
            return refuse(Code::Invalid, record.at, "the records are not strictly ascending");
        }
        last = Some(here);
        let is_fresh = match fresh.peek() {
            Some(due) if *due < here => {
                return refuse(Code::Invalid, record.at, "a record passes over a fresh chunk");
            }
            Some(due) => *due == here,
            None => false,
        };
        if is_fresh {
            fresh.next();
        }
        let needs_base = matches!(record.encoding, 1 | 3);
        let for_continued = matches!(record.encoding, 1..=3);
        if (needs_base && file.header.direct) || (for_continued && is_fresh) {
            return refuse(Code::Invalid, record.encoding_at, "an encoding is not allowed here");
        }
    }
    if fresh.peek().is_some() {
        return refuse(Code::Invalid, file.index_at, "fresh chunks are missing");
    }
    Ok(())
}

// Section 7.5: the index

/// Section 7.5: checks the index against the blocks, and gives each record its leaf digest.
fn parse_index<'a>(
    mut input: Input<'a>,
    index_at: u64,
    blocks: &mut [Block<'a>],
    hash: LeafHash,
) -> Result<()> {
    let digest_len = match hash {
        LeafHash::Xxh3 => 16,
        LeafHash::Blake3 => 32_u64,
    };
    // Section 11: the least that a record takes here.
    let record_len = digest_len.saturating_add(2);
    let count_at = input.at();
    let count = input.varint()?;
    if count.saturating_mul(record_len.saturating_add(3)) > input.left() || count != blocks.len() as u64 {
        return refuse(Code::Invalid, count_at, "not the number of blocks");
    }
    let mut end = HEADER;
    let mut all_records = 0_u64;
    for block in blocks.iter() {
        let gap_at = input.at();
        let gap = input.varint()?;
        let len_at = input.at();
        let len = input.varint()?;
        let start = end.checked_add(gap);
        end = match start.and_then(|start| start.checked_add(len)) {
            Some(end) if len >= HEAD && end <= index_at => end,
            _ => return refuse(Code::Invalid, len_at, "a block lies outside the file"),
        };
        let records_at = input.at();
        let records = input.varint()?;
        all_records = all_records.saturating_add(records);
        if records == 0 || all_records.saturating_mul(record_len) > input.left() {
            return refuse(Code::Invalid, records_at, "a block has at least one record, and room for them");
        }
        if start != Some(block.at) || len != block.len || records != block.records.len() as u64 {
            return refuse(Code::Invalid, gap_at, "an entry is not that of its block");
        }
    }
    for block in blocks.iter() {
        let mut last = None;
        for record in &block.records {
            let at = input.at();
            let address = parse_address(&mut input, last)?;
            if address != (record.tensor, record.chunk) {
                return refuse(Code::Invalid, at, "an address is not that of its record");
            }
            last = Some(address);
        }
    }
    for record in blocks.iter_mut().flat_map(|block| &mut block.records) {
        record.leaf_at = input.at();
        record.leaf = input.take(digest_len)?;
    }
    input.end()
}

// Section 8: the trailer

/// Section 8.
#[derive(Debug)]
struct Trailer {
    at: u64,
    base_state: [u8; 32],
    target_state: [u8; 32],
    target_schema: [u8; 32],
}

/// The digests of what the patch lists.
struct Listed {
    schema: Option<[u8; 32]>,
    layout: Option<[u8; 32]>,
}

fn parse_trailer(
    input: &mut Input<'_>,
    header_bytes: &[u8],
    index_at: u64,
    header: &Header,
    listed: &Listed,
) -> Result<Trailer> {
    let at = input.at();
    let bytes = input.rest();
    if input.left() < TRAILER {
        return refuse(Code::Truncated, at, "the trailer is not all there");
    }
    let base_state = input.array::<32>()?;
    let target_state = input.array::<32>()?;
    let target_schema = input.array::<32>()?;
    let base_layout = input.array::<32>()?;
    let target_layout = input.array::<32>()?;
    let stated_index_at = input.u64()?;
    let file_len = input.u64()?;
    let reserved = input.u32()?;
    let crc = input.u32()?;
    let end_magic = input.array::<8>()?;
    let field = |offset: u64| at.saturating_add(offset);
    if &end_magic != END_MAGIC {
        return refuse(Code::Truncated, field(184), "the file does not end with the end magic");
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header_bytes);
    hasher.update(bytes.get(..180).unwrap_or_default());
    if hasher.finalize() != crc {
        return refuse(Code::Checksum, field(180), "the trailer's checksum does not match");
    }
    if reserved != 0 {
        return refuse(Code::Invalid, field(176), "reserved bytes are not zero");
    }
    if file_len != input.at() {
        return refuse(Code::Invalid, field(168), "not the length of the file");
    }
    if stated_index_at != index_at {
        return refuse(Code::Invalid, field(160), "not the offset of the index");
    }
    let is_full = header.kind == Kind::Full;
    if is_full && base_state != [0; 32] {
        return refuse(Code::Invalid, at, "a full patch has no base");
    }
    let must_be_equal = header.kind == Kind::Empty;
    if !is_full && (base_state == target_state) != must_be_equal {
        return refuse(Code::Invalid, field(32), "the two states are equal in empty patches and no others");
    }
    if listed.schema.is_some_and(|listed| listed != target_schema) {
        return refuse(Code::Invalid, field(64), "not the digest of the listed schema");
    }
    if is_full && base_layout != [0; 32] {
        return refuse(Code::Invalid, field(96), "a full patch has no base");
    }
    if target_layout != listed.layout.unwrap_or(base_layout) {
        return refuse(Code::Invalid, field(128), "not the digest of the listed layout, or of the same");
    }
    input.end()?;
    Ok(Trailer { at, base_state, target_state, target_schema })
}

// Section 9: chunk encodings

/// The chunk of `len` bytes that a payload decodes to. `base` is the base's, unless the chunk is fresh.
fn decode_chunk(
    encoding: u8,
    format: Format,
    payload: Input<'_>,
    base: Option<&[u8]>,
    len: usize,
) -> Result<Vec<u8>> {
    let at = payload.at();
    let decoded = match (encoding, base) {
        (1, Some(base)) => sparse::decode(format, payload, base),
        (2, Some(base)) => scatter::decode(format, payload, base),
        (3, Some(base)) => xor(format, payload, base),
        (4, _) if payload.rest().len() == len => Ok(payload.rest().to_vec()),
        (5, _) => match unpack_frame(payload.rest(), len as u64) {
            Some(chunk) => Ok(chunk),
            None => refuse(Code::Invalid, at, "not a zstd frame of the chunk's length"),
        },
        _ => refuse(Code::Invalid, at, "the payload is not one for this chunk"),
    };
    // Whatever is wrong in a payload, the error carries the offset of the payload.
    decoded.map_err(|error| Error { offset: at, ..error })
}

/// The chunk of `len` bytes, of a tensor of this dtype, that a payload alone decodes to. `base` is the
/// base's, unless the chunk is fresh.
///
/// # Errors
/// If it does not decode, at offset 0.
pub fn decode_payload(
    encoding: u8,
    dtype: &str,
    payload: &[u8],
    base: Option<&[u8]>,
    len: usize,
) -> Result<Vec<u8>> {
    decode_chunk(encoding, Format::of(dtype), Input::new(payload, 0), base, len)
}

/// `encodings/sparse.md`, in its order.
mod sparse {
    use super::{Code, Error, Format, Input, Result};

    /// What can be wrong has no place of its own.
    type Maybe<T> = std::result::Result<T, &'static str>;

    pub(super) fn decode(format: Format, payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
        let width = format.width();
        let mut elements: Vec<u64> = base.chunks(width).map(integer).collect();
        match decode_elements(format, payload.rest(), &mut elements) {
            Ok(()) => Ok(elements
                .iter()
                .flat_map(|element| element.to_le_bytes().into_iter().take(width))
                .collect()),
            Err(what) => Err(Error { code: Code::Invalid, offset: payload.at(), what }),
        }
    }

    fn integer(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn decode_elements(format: Format, payload: &[u8], elements: &mut [u64]) -> Maybe<()> {
        let mut ends = Ends::new(payload);
        let model = Model::read(&mut ends, 8_u64.saturating_mul(format.width() as u64))?;
        let states = (0..model.lanes).map(|_| state(&mut ends)).collect::<Maybe<_>>()?;
        let mut chunk = Chunk { format, model, ends, states };
        let per_block = 65_536_usize.checked_div(format.width()).ok_or("a format has no width")?;
        let count = elements.chunks(per_block).len();
        for (i, block) in elements.chunks_mut(per_block).enumerate() {
            chunk.block(block, i.saturating_add(1) == count)?;
        }
        chunk.ends.meet()
    }

    // 1. Classes

    fn key(format: Format, v: u64) -> u64 {
        match format {
            Format::Bf16 => v >> 7 & 255,
            Format::F16 => v >> 10 & 31,
            Format::F32 => v >> 23 & 255,
            Format::E4m3 => v >> 3 & 15,
            Format::E5m2 => v >> 2 & 31,
            Format::W8 | Format::W16 | Format::W32 | Format::W64 => 0,
        }
    }

    struct Class {
        rate: u64,
        reach: u64,
        hot: bool,
        /// Section 3: each symbol with its first slot and the slot after its last.
        symbols: Vec<(Symbol, u64, u64)>,
    }

    impl Class {
        fn is_cold(&self) -> bool {
            !self.hot && self.rate > 0
        }
    }

    struct Model {
        lanes: usize,
        first_key: u64,
        classes: Vec<Class>,
        bits: u64,
    }

    // 2. Payload

    /// A payload that is read from both ends.
    struct Ends<'a> {
        payload: &'a [u8],
        /// Bytes of words that were read.
        p: usize,
        /// Bits before those that were read.
        q: usize,
    }

    impl<'a> Ends<'a> {
        fn new(payload: &'a [u8]) -> Self {
            Self { payload, p: 0, q: payload.len().saturating_mul(8) }
        }

        fn word(&mut self) -> Maybe<u64> {
            let end = self.p.saturating_add(2);
            let word = self.payload.get(self.p..end).ok_or("the words run over the end")?;
            self.p = end;
            Ok(integer(word))
        }

        fn bit(&mut self) -> Maybe<u64> {
            self.q = self.q.checked_sub(1).ok_or("the bits run over the start")?;
            let byte = self.payload.get(self.q / 8).copied().unwrap_or(0);
            Ok(u64::from(byte >> (self.q % 8) & 1))
        }

        fn number(&mut self, bits: u64) -> Maybe<u64> {
            let mut value = 0;
            for _ in 0..bits {
                value = value << 1 | self.bit()?;
            }
            Ok(value)
        }

        /// A number coded against an expected one.
        fn near(&mut self, expected: u64, bits: u64) -> Maybe<u64> {
            let mut zeros = 0_u64;
            while self.bit()? == 0 {
                zeros = zeros.saturating_add(1);
                if zeros > 8 {
                    return Err("more than eight zero bits");
                }
            }
            if zeros == 8 {
                return self.number(bits);
            }
            let d = zeros.saturating_mul(2).saturating_add(self.bit()?);
            if d.is_multiple_of(2) {
                Ok(expected.saturating_add(d / 2))
            } else {
                expected.checked_sub(d.saturating_add(1) / 2).ok_or("a number is below zero")
            }
        }

        fn meet(mut self) -> Maybe<()> {
            let between = self.q.checked_sub(self.p.saturating_mul(8)).ok_or("words and bits overlap")?;
            if between < 8 && self.number(between as u64)? == 0 {
                Ok(())
            } else {
                Err("something is left between words and bits")
            }
        }
    }

    impl Model {
        fn read(ends: &mut Ends<'_>, bits: u64) -> Maybe<Self> {
            let lanes = match ends.number(2)? {
                0 => 1,
                1 => 8,
                2 => 16,
                _ => 32,
            };
            let hot_from = match ends.number(2)? {
                0 => 0,
                1 => 68,
                2 => 72,
                _ => 76,
            };
            let count = ends.number(5)?.saturating_add(1);
            let reaching = if ends.number(1)? == 1 { ends.number(5)?.saturating_add(1) } else { 0 };
            let first_key = ends.number(8)?;
            if reaching > count {
                return Err("more reaches than classes");
            }
            let mut rates: Vec<u64> = Vec::new();
            for _ in 0..count {
                let rate = match rates.last() {
                    None => ends.number(7)?,
                    Some(before) => ends.near(before.saturating_sub(4).max(1), 7)?,
                };
                if rate > 95 {
                    return Err("a rate is over 95");
                }
                rates.push(rate);
            }
            // From the last to the first.
            let mut reaches: Vec<u64> = Vec::new();
            for _ in 0..reaching {
                let reach = match reaches.last() {
                    None => ends.number(8)?,
                    Some(before) => ends.near(before.saturating_add(5).min(255), 8)?,
                };
                if reach > 255 {
                    return Err("a reach is over 255");
                }
                reaches.push(reach);
            }
            reaches.reverse();
            let reaches = reaches.into_iter().chain(std::iter::repeat(0));
            let classes = rates
                .into_iter()
                .zip(reaches)
                .map(|(rate, reach)| {
                    let hot = rate >= hot_from;
                    Class { rate, reach, hot, symbols: symbols(rate, reach, hot, bits) }
                })
                .collect();
            Ok(Self { lanes, first_key, classes, bits })
        }

        fn class(&self, key: u64) -> Maybe<&Class> {
            let beyond = usize::try_from(key.saturating_sub(self.first_key)).unwrap_or(usize::MAX);
            let number = beyond.min(self.classes.len().saturating_sub(1));
            self.classes.get(number).ok_or("there are no classes")
        }
    }

    fn state(ends: &mut Ends<'_>) -> Maybe<u64> {
        let bits = ends.number(4)?.saturating_add(16);
        Ok(1 << bits | ends.number(bits)?)
    }

    // 3. Symbols

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Symbol {
        Unchanged,
        Moved(u64),
        Escape,
    }

    fn symbols(rate: u64, reach: u64, hot: bool, bits: u64) -> Vec<(Symbol, u64, u64)> {
        let most = if reach == 0 { 4094 } else { 4092 };
        let unchanged = match (hot, rate) {
            (false, _) => 0,
            (true, 0) => 4096,
            (true, _) => (survival(rate) / 32).max(1).saturating_mul(2).min(most),
        };
        let mut out = vec![(Symbol::Unchanged, 0, unchanged)];
        if reach == 0 {
            out.push((Symbol::Moved(0), unchanged, 4096));
            return out;
        }
        let mut from = unchanged;
        for b in 0..bits {
            let index = b.saturating_mul(5).saturating_add(96);
            let p = index.checked_sub(reach).map_or(65_536, survival);
            let room = 4094_u64.saturating_sub(unchanged) / 2;
            let part = room.saturating_mul(65_536_u64.saturating_sub(p)) / 65_536;
            let to = unchanged.saturating_add(part.saturating_mul(2));
            out.push((Symbol::Moved(b), from, to));
            from = to;
        }
        out.push((Symbol::Escape, from, 4096));
        out
    }

    fn survival(index: u64) -> u64 {
        usize::try_from(index).ok().and_then(|index| SURVIVAL.get(index)).copied().unwrap_or(0)
    }

    #[rustfmt::skip]
    const SURVIVAL: [u64; 96] = [
        65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536, 65536,
        65536, 65536, 65536, 65535, 65535, 65535, 65535, 65535, 65535, 65534, 65534, 65534,
        65533, 65533, 65532, 65531, 65530, 65529, 65528, 65527, 65525, 65523, 65520, 65517,
        65514, 65510, 65505, 65499, 65492, 65483, 65473, 65461, 65447, 65431, 65411, 65387,
        65359, 65325, 65286, 65238, 65182, 65115, 65036, 64942, 64830, 64697, 64540, 64353,
        64132, 63869, 63559, 63192, 62757, 62245, 61641, 60931, 60097, 59120, 57978, 56650,
        55109, 53331, 51292, 48968, 46341, 43400, 40144, 36589, 32768, 28740, 24590, 20427,
        16384, 12604,  9227,  6367,  4096,  2424,  1299,   619,   256,    90,    26,     6,
    ];

    fn moved(old: u64, t: u64, down: bool, bits: u64) -> u64 {
        let by = t.wrapping_add(1);
        let new = if down { old.wrapping_sub(by) } else { old.wrapping_add(by) };
        if bits == 64 { new } else { low(new, bits) }
    }

    // 4. Lanes and phases

    struct Chunk<'a> {
        format: Format,
        model: Model,
        ends: Ends<'a>,
        states: Vec<u64>,
    }

    impl Chunk<'_> {
        fn slot(&self, lane: usize, s: u64) -> u64 {
            self.states.get(lane).map_or(0, |x| low(*x, s))
        }

        fn take(&mut self, lane: usize, s: u64, f: u64, o: u64) -> Maybe<()> {
            let x = self.states.get_mut(lane).ok_or("there is no such lane")?;
            // f is at most 2^s, and o less than f.
            *x = (*x >> s).wrapping_mul(f).wrapping_add(o);
            if *x < 1 << 16 {
                *x = *x << 16 | self.ends.word()?;
            }
            Ok(())
        }

        fn block(&mut self, block: &mut [u64], is_last: bool) -> Maybe<()> {
            let classes = block.iter().map(|old| self.model.class(key(self.format, *old)));
            let classes = classes.collect::<Maybe<Vec<&Class>>>()?;
            let is = |of: &dyn Fn(&Class) -> bool| -> Vec<bool> {
                classes.iter().map(|class| of(class)).collect()
            };
            let hot = is(&|class| class.hot);
            let reaches = is(&|class| class.reach > 0);
            let lengths = lengths(&self.model, &classes);
            let changed = self.cold_changes(&lengths)?;
            let (reaching, by_one): (Vec<usize>, Vec<usize>) =
                changed.into_iter().partition(|element| reaches.get(*element) == Some(&true));
            let mut moving: Vec<usize> = (0..).zip(hot).filter(|(_, hot)| *hot).map(|(i, _)| i).collect();
            moving.extend(reaching);
            self.moves(block, &moving)?;
            self.directions(block, &by_one, is_last)
        }

        fn moves(&mut self, block: &mut [u64], elements: &[usize]) -> Maybe<()> {
            let bits = self.model.bits;
            for row in elements.chunks(self.model.lanes) {
                // Of each element its symbol, t as far as it is known, and the direction.
                let mut found = Vec::new();
                for (lane, element) in row.iter().enumerate() {
                    let old = block.get(*element).copied().unwrap_or(0);
                    let slot = self.slot(lane, 12);
                    let class = self.model.class(key(self.format, old))?;
                    let symbol = class.symbols.iter().find(|(_, from, to)| (*from..*to).contains(&slot));
                    let (symbol, from, to) = *symbol.ok_or("a slot has no symbol")?;
                    let (slots, place) = (to.saturating_sub(from), slot.saturating_sub(from));
                    if symbol == Symbol::Unchanged {
                        self.take(lane, 12, slots, place)?;
                    } else {
                        self.take(lane, 12, slots / 2, place / 2)?;
                    }
                    found.push((symbol, 0_u64, place % 2 == 1));
                }
                for j in 0..5_u64 {
                    let has = |symbol| matches!(symbol, Symbol::Moved(b @ 2..=6) if b >= j.saturating_add(2));
                    let count = found.iter().filter(|(symbol, _, _)| has(*symbol)).count();
                    let mut number = self.ends.number(count as u64)?;
                    for (_, t, _) in found.iter_mut().filter(|(symbol, _, _)| has(*symbol)) {
                        *t |= (number & 1) << j;
                        number >>= 1;
                    }
                }
                for (symbol, t, _) in &mut found {
                    if *symbol == Symbol::Escape {
                        let b = self.ends.number(6)?;
                        if b >= bits {
                            return Err("an element has not so many bits");
                        }
                        *symbol = Symbol::Moved(b);
                        *t = self.ends.number(b.saturating_sub(1))?;
                    } else if matches!(symbol, Symbol::Moved(7..)) {
                        let Symbol::Moved(b) = *symbol else { continue };
                        *t = self.ends.number(b.saturating_sub(1))?;
                    }
                }
                for (element, (symbol, t, down)) in row.iter().zip(found) {
                    if let (Symbol::Moved(b), Some(value)) = (symbol, block.get_mut(*element)) {
                        let leading = b.checked_sub(1).map_or(0, |below| 1_u64 << below);
                        *value = moved(*value, leading | t, down, bits);
                    }
                }
            }
            Ok(())
        }

        fn directions(&mut self, block: &mut [u64], elements: &[usize], is_last: bool) -> Maybe<()> {
            let bits = self.model.bits;
            let mut move_all = |elements: &[usize], mut number: u64| {
                for element in elements {
                    if let Some(value) = block.get_mut(*element) {
                        *value = moved(*value, 0, number & 1 == 1, bits);
                    }
                    number >>= 1;
                }
                number == 0
            };
            let mut left = elements;
            if is_last {
                for x in &self.states {
                    let v = x.checked_sub(1 << 16).filter(|v| *v < 1 << 16).ok_or("a state is left over")?;
                    let (own, others) = left.split_at(left.len().min(16));
                    left = others;
                    if !move_all(own, v) {
                        return Err("a state holds more than directions");
                    }
                }
            }
            for own in left.chunks(32) {
                let number = self.ends.number(own.len() as u64)?;
                move_all(own, number);
            }
            Ok(())
        }

        // 5. Cold changes

        fn cold_changes(&mut self, lengths: &[u64]) -> Maybe<Vec<usize>> {
            let m = highest_cold_rate(&self.model);
            let mut changed = Vec::new();
            if m == 0 {
                return Ok(changed);
            }
            // Of each group its first element, all of its elements' lengths, and how many are passed.
            let mut groups: Vec<(usize, &[u64], usize)> =
                lengths.chunks(32).enumerate().map(|(i, group)| (i.saturating_mul(32), group, 0)).collect();
            while !groups.is_empty() {
                let mut with_more = Vec::new();
                for (lane, group) in (0..self.model.lanes).cycle().zip(groups) {
                    let f = unchanged(group.1.iter().skip(group.2).sum(), m);
                    let slot = self.slot(lane, 12);
                    if slot < f {
                        self.take(lane, 12, f, slot)?;
                    } else {
                        self.take(lane, 12, 4096_u64.saturating_sub(f), slot.saturating_sub(f))?;
                        with_more.push(group);
                    }
                }
                groups = with_more;
                for (lane, (start, group, first)) in (0..self.model.lanes).cycle().zip(&mut groups) {
                    let slot = self.slot(lane, 16);
                    let total: u64 = group.iter().skip(*first).sum();
                    let k = u64::from(u32::MAX).checked_div(total).ok_or("nothing in a group can change")?;
                    let before = |sum: u64| sum.wrapping_mul(k) >> 16;
                    let (mut e, mut found) = (0_u64, None);
                    for (number, length) in group.iter().enumerate().skip(*first) {
                        let next = e.saturating_add(*length);
                        if (before(e)..before(next)).contains(&slot) {
                            found = Some((number, before(e), before(next)));
                        }
                        e = next;
                    }
                    let (number, from, to) = found.ok_or("a place is beyond its group")?;
                    self.take(lane, 16, to.saturating_sub(from), slot.saturating_sub(from))?;
                    changed.push(start.saturating_add(number));
                    *first = number.saturating_add(1);
                }
            }
            Ok(changed)
        }
    }

    fn highest_cold_rate(model: &Model) -> u64 {
        model.classes.iter().filter(|class| class.is_cold()).map(|class| class.rate).max().unwrap_or(0)
    }

    fn lengths(model: &Model, classes: &[&Class]) -> Vec<u64> {
        let m = highest_cold_rate(model);
        let length = |rate: u64| {
            let h = (m / 4).saturating_add(5).saturating_sub(rate / 4);
            let q: u64 = match rate % 4 {
                0 => 32_768,
                1 => 38_968,
                2 => 46_341,
                _ => 55_109,
            };
            (q.saturating_add(1_u64 << h.saturating_sub(1)) >> h).max(1)
        };
        classes.iter().map(|class| if class.is_cold() { length(class.rate) } else { 0 }).collect()
    }

    /// The slots, of 4096, that say that nothing changes.
    fn unchanged(t: u64, m: u64) -> u64 {
        if t == 0 {
            return 4096;
        }
        let factor = (5678_u64 << (m / 4)) >> 15;
        let eighth = (t.saturating_mul(factor) >> 16).min(16_383);
        let mut u = 65_535_u64.saturating_sub(eighth.saturating_mul(2));
        for _ in 0..3 {
            u = u.saturating_mul(u) >> 16;
        }
        u / 16
    }

    /// The lowest `k` bits, `k` below 64.
    fn low(x: u64, k: u64) -> u64 {
        x & (1_u64 << k).wrapping_sub(1)
    }
}

/// `encodings/scatter.md`
mod scatter {
    use super::{Code, Format, Input, Result, planes, refuse};

    pub(super) fn decode(format: Format, mut payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
        let width = format.width();
        let n = base.len().checked_div(width).unwrap_or(0);
        let count_at = payload.at();
        let count = payload.varint()?;
        if count == 0 || count > n as u64 {
            return refuse(Code::Invalid, count_at, "the count is from 1 to the number of elements");
        }
        let k_at = payload.at();
        let k = payload.u8()?;
        if k > 23 {
            return refuse(Code::Invalid, k_at, "k is from 0 to 23");
        }
        let len = payload.varint()?;
        let positions = payload.part(len)?;
        let elements = read_positions(positions, count, k, n as u64)?;
        let values = planes::read(&mut payload, width, elements.len())?;
        payload.end()?;

        let mut target = base.to_vec();
        for (element, value) in elements.iter().zip(values.chunks(width)) {
            let old =
                usize::try_from(*element).ok().and_then(|element| target.chunks_mut(width).nth(element));
            if let Some(old) = old {
                old.copy_from_slice(value);
            }
        }
        Ok(target)
    }

    /// The numbers of the changed elements.
    fn read_positions(input: Input<'_>, count: u64, k: u8, n: u64) -> Result<Vec<u64>> {
        let refused = |what| refuse(Code::Invalid, input.at(), what);
        let bytes = input.rest();
        let mut bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| u64::from(byte >> bit & 1)));
        let mut used = 0_u64;
        let mut next = || {
            used = used.saturating_add(1);
            bits.next()
        };
        let mut elements = Vec::new();
        let mut at = 0_u64;
        for _ in 0..count {
            let mut high = 0_u64;
            loop {
                match next() {
                    Some(0) => high = high.saturating_add(1),
                    Some(_) => break,
                    None => return refused("the positions run over their end"),
                }
            }
            let mut gap = high << k;
            for bit in 0..k {
                match next() {
                    Some(value) => gap |= value << bit,
                    None => return refused("the positions run over their end"),
                }
            }
            at = at.saturating_add(gap);
            if at >= n {
                return refused("a position is outside the chunk");
            }
            elements.push(at);
            at = at.saturating_add(1);
        }
        if used.div_ceil(8) != bytes.len() as u64 {
            return refused("the positions leave bytes over");
        }
        if bits.any(|bit| bit != 0) {
            return refused("the bits that fill the last byte are not zero");
        }
        Ok(elements)
    }
}

/// `encodings/xor.md`
fn xor(format: Format, mut payload: Input<'_>, base: &[u8]) -> Result<Vec<u8>> {
    let width = format.width();
    let count = base.len().checked_div(width).unwrap_or(0);
    let planes = planes::read(&mut payload, width, count)?;
    payload.end()?;
    Ok(planes.iter().zip(base).map(|(new, old)| new ^ old).collect())
}

/// `encodings/xor.md`: byte planes.
mod planes {
    use super::{Code, Input, Result, refuse, unpack_frame};

    /// Reads `width` planes of `count` bytes each, and returns the `count` elements of `width` bytes.
    pub(super) fn read(input: &mut Input<'_>, width: usize, count: usize) -> Result<Vec<u8>> {
        let planes = (0..width).map(|_| read_plane(input, count)).collect::<Result<Vec<_>>>()?;
        let mut elements = Vec::new();
        for element in 0..count {
            for plane in &planes {
                elements.push(plane.get(element).copied().unwrap_or(0));
            }
        }
        Ok(elements)
    }

    fn read_plane(input: &mut Input<'_>, count: usize) -> Result<Vec<u8>> {
        let mode_at = input.at();
        match input.u8()? {
            0 => Ok(vec![0; count]),
            1 => Ok(input.take(count as u64)?.to_vec()),
            2 => {
                let len = input.varint()?;
                let frame = input.part(len)?;
                match unpack_frame(frame.rest(), count as u64) {
                    Some(plane) => Ok(plane),
                    None => refuse(Code::Invalid, frame.at(), "not a zstd frame of a plane's length"),
                }
            }
            _ => refuse(Code::Invalid, mode_at, "an unknown mode of a plane"),
        }
    }
}

// Section 10: applying a patch

/// What a patch makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The target state, which has the digest that the patch gives for it.
    pub state: Vec<Tensor>,
    /// With which leaf hash.
    pub leaf_hash: LeafHash,
    /// The canonical bytes of the target layout; `None` if it is that of the base.
    pub layout: Option<Vec<u8>>,
}

/// Decodes a patch. `base` is the state that it is for, its tensors in the order of their names; `None` for a
/// full patch. A base given to a full patch is ignored.
///
/// # Errors
///
/// With the class and the offset that the specification gives. What can be checked without the base comes
/// first, then the base, then what needs it.
pub fn decode(patch: &[u8], base: Option<&[Tensor]>) -> Result<Decoded> {
    let file = parse(patch)?;
    let hash = file.header.hash;
    let base = if file.header.kind == Kind::Full { Some(&[][..]) } else { base };
    let Some(base) = base else {
        return refuse(Code::WrongBase, file.trailer.at, "the patch needs a base");
    };
    let schema = match &file.schema {
        Some(schema) => schema.clone(),
        None => base.iter().map(Spec::of).collect(),
    };
    if digest_of_schema(&schema) != file.trailer.target_schema {
        return refuse(Code::WrongBase, file.trailer.at.saturating_add(64), "the base has another schema");
    }
    if file.header.kind != Kind::Full && state_digest(hash, base) != file.trailer.base_state {
        return refuse(Code::WrongBase, file.trailer.at, "not the base that the patch is for");
    }
    let by_name: BTreeMap<&str, &Tensor> = base.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let continued: Vec<Option<&Tensor>> = schema
        .iter()
        .map(|spec| by_name.get(spec.name.as_str()).copied().filter(|b| continues(b, spec)))
        .collect();
    check_records(&file, &schema, &continued)?;

    let mut records: BTreeMap<(u64, u64), &Record<'_>> =
        file.records.iter().map(|record| ((record.tensor, record.chunk), record)).collect();
    let mut state = Vec::new();
    for ((number, spec), old) in (0_u64..).zip(&schema).zip(continued) {
        let mut bytes = Vec::new();
        for chunk in 0..spec.chunk_count() {
            let len = as_usize(spec.chunk_len(chunk));
            let start = as_usize(chunk.saturating_mul(CHUNK));
            let old = old.and_then(|old| old.bytes.get(start..start.saturating_add(len)));
            match (records.remove(&(number, chunk)), old) {
                (Some(record), old) => {
                    let new =
                        decode_chunk(record.encoding, Format::of(&spec.dtype), record.payload, old, len)?;
                    if leaf(hash, &new) != record.leaf {
                        return refuse(
                            Code::TargetMismatch,
                            record.leaf_at,
                            "a chunk has another leaf digest",
                        );
                    }
                    bytes.extend(new);
                }
                (None, Some(old)) => bytes.extend(old),
                (None, None) => return refuse(Code::Invalid, file.index_at, "fresh chunks are missing"),
            }
        }
        let Spec { name, dtype, shape, .. } = spec.clone();
        state.push(Tensor { name, dtype, shape, bytes });
    }
    if state_digest(hash, &state) != file.trailer.target_state {
        let at = file.trailer.at.saturating_add(32);
        return refuse(Code::TargetMismatch, at, "the result has another state digest");
    }
    Ok(Decoded { state, leaf_hash: hash, layout: file.layout })
}

/// Lengths of what lies in memory.
fn as_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

// Section 11: limits. What a reader should accept at least is all that this one accepts.

const MOST_TENSORS: u64 = 1_048_576;
const MOST_FILES: u64 = 65_536;
const MOST_STATE: u128 = 64 << 40;
const MOST_METADATA: u64 = 256 << 20;
const MOST_BLOCK: u64 = 64 << 20;
/// Of a header (section 2.2), and of an index.
const MOST_HEADER: u64 = 100_000_008;

// Section 12: error classes

/// The classes of section 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// `truncated`
    Truncated,
    /// `not_a_patch`
    NotAPatch,
    /// `unsupported_version`
    UnsupportedVersion,
    /// `unsupported_feature`
    UnsupportedFeature,
    /// `limit`
    Limit,
    /// `checksum`
    Checksum,
    /// `invalid`
    Invalid,
    /// `wrong_base`
    WrongBase,
    /// `target_mismatch`
    TargetMismatch,
}

impl Code {
    /// The code as section 12 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotAPatch => "not_a_patch",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnsupportedFeature => "unsupported_feature",
            Self::Limit => "limit",
            Self::Checksum => "checksum",
            Self::Invalid => "invalid",
            Self::WrongBase => "wrong_base",
            Self::TargetMismatch => "target_mismatch",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a patch was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} at {offset}: {what}")]
pub struct Error {
    /// The class.
    pub code: Code,
    /// The offset in the file of the field it is about.
    pub offset: u64,
    /// The rule, in words.
    pub what: &'static str,
}

type Result<T> = std::result::Result<T, Error>;

fn refuse<T>(code: Code, offset: u64, what: &'static str) -> Result<T> {
    Err(Error { code, offset, what })
}
