//! Sections 5 to 8: the parts of a file, as far as they can be checked without a base.

use crate::digest::{digest_of_schema, layout_digest};
use crate::input::{Code, Input, Result, refuse, unpack_frame};
use crate::metadata::{LeafHash, Spec, check_layout, parse_schema};

const MAGIC: &[u8; 8] = b"\x89TPATCH\n";
const END_MAGIC: &[u8; 8] = b"\nhctapt\x89";
const HEADER: u64 = 32;
const HEAD: u64 = 16;
const TRAILER: u64 = 192;
const SCHEMA: u8 = 1;
const LAYOUT: u8 = 2;
const BLOCK: u8 = 3;
const INDEX: u8 = 4;

/// Section 11: what a reader should accept at least.
const MOST_METADATA: u64 = 256 << 20;
const MOST_BLOCK: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Delta,
    Full,
    Empty,
}

/// Section 6.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) direct: bool,
    pub(crate) hash: LeafHash,
}

/// Section 7.4: one chunk that is in the file.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// Of its `tensor_step`.
    pub(crate) at: u64,
    pub(crate) tensor: u64,
    pub(crate) chunk: u64,
    pub(crate) encoding_at: u64,
    pub(crate) encoding: u8,
    pub(crate) payload: Input<'a>,
    /// From the index, with its offset.
    pub(crate) leaf: &'a [u8],
    pub(crate) leaf_at: u64,
}

struct Block<'a> {
    at: u64,
    len: u64,
    records: Vec<Record<'a>>,
}

/// Section 8.
#[derive(Debug)]
pub(crate) struct Trailer {
    pub(crate) at: u64,
    pub(crate) base_state: [u8; 32],
    pub(crate) target_state: [u8; 32],
    pub(crate) target_schema: [u8; 32],
}

/// A file in which everything holds that can be told without a base.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) header: Header,
    /// `None`: that of the base.
    pub(crate) schema: Option<Vec<Spec>>,
    /// `None`: that of the base.
    pub(crate) layout: Option<Vec<u8>>,
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) index_at: u64,
    pub(crate) trailer: Trailer,
}

/// Section 5.
pub(crate) fn parse(bytes: &[u8]) -> Result<File<'_>> {
    let mut input = Input::new(bytes, 0);
    let header_bytes: &[u8] = bytes.get(..28).unwrap_or(bytes);
    let header = parse_header(&mut input)?;
    let mut schema = None;
    let mut layout = None;
    let mut blocks = Vec::new();
    let mut due = SCHEMA;
    loop {
        let section = section(&mut input, due, header.kind)?;
        match section.kind {
            SCHEMA => {
                schema = parse_listing(section.payload, header.kind, false)?
                    .map(|listed| parse_schema(listed.input()))
                    .transpose()?;
                due = LAYOUT;
            }
            LAYOUT => {
                layout = parse_listing(section.payload, header.kind, schema.is_some())?;
                if let Some(listed) = &layout {
                    check_layout(listed.input())?;
                }
                due = BLOCK;
            }
            BLOCK => blocks.push(Block {
                at: section.at,
                len: section.payload.left().saturating_add(HEAD),
                records: parse_block(section.payload)?,
            }),
            INDEX => {
                parse_index(section.payload, section.at, &mut blocks, header.hash)?;
                let layout = layout.map(|listed| listed.bytes);
                let same_layout = layout.is_none();
                let trailer = parse_trailer(&mut input, header_bytes, section.at, &header, same_layout)?;
                if let Some(schema) = &schema
                    && digest_of_schema(schema) != trailer.0.target_schema
                {
                    return refuse(Code::Invalid, trailer.0.at.saturating_add(64), "not the schema's digest");
                }
                if let Some(layout) = &layout
                    && layout_digest(layout) != trailer.1
                {
                    return refuse(
                        Code::Invalid,
                        trailer.0.at.saturating_add(128),
                        "not the layout's digest",
                    );
                }
                let records = blocks.into_iter().flat_map(|block| block.records).collect();
                return Ok(File {
                    header,
                    schema,
                    layout,
                    records,
                    index_at: section.at,
                    trailer: trailer.0,
                });
            }
            _ => {} // Ancillary: its checksum holds, and that is all there is to know.
        }
    }
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

/// Sections 7.1 and 7.2: the mode, and what is listed.
fn parse_listing(mut input: Input<'_>, kind: Kind, must_list: bool) -> Result<Option<Unpacked>> {
    let at = input.at();
    let is_schema_of_empty = kind == Kind::Empty && input.at() == HEADER.saturating_add(HEAD);
    match input.u8()? {
        0 if kind == Kind::Full || must_list => refuse(Code::Invalid, at, "the mode must be `listed`"),
        0 => {
            input.end()?;
            Ok(None)
        }
        1 if is_schema_of_empty => refuse(Code::Invalid, at, "the schema of an empty patch is the base's"),
        1 => Ok(Some(unpack(input)?)),
        _ => refuse(Code::Invalid, at, "an unknown mode"),
    }
}

/// Section 7.3.
fn unpack(mut input: Input<'_>) -> Result<Unpacked> {
    let packing_at = input.at();
    let packing = input.u8()?;
    if packing > 1 {
        return refuse(Code::Invalid, packing_at, "an unknown packing");
    }
    let len_at = input.at();
    let len = input.varint()?;
    if len > MOST_METADATA {
        return refuse(Code::Limit, len_at, "more bytes than this reader takes");
    }
    let at = input.at();
    if packing == 0 {
        if len != input.left() {
            return refuse(Code::Invalid, len_at, "not the number of bytes that follow");
        }
        return Ok(Unpacked { bytes: input.rest().to_vec(), at, is_frame: false });
    }
    match unpack_frame(input.rest(), len) {
        Some(bytes) => Ok(Unpacked { bytes, at, is_frame: true }),
        None => refuse(Code::Invalid, at, "not a zstd frame of the stated length"),
    }
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

/// Section 8. Returns the digest of the target layout beside the rest.
fn parse_trailer(
    input: &mut Input<'_>,
    header_bytes: &[u8],
    index_at: u64,
    header: &Header,
    same_layout: bool,
) -> Result<(Trailer, [u8; 32])> {
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
    if is_full && base_layout != [0; 32] {
        return refuse(Code::Invalid, field(96), "a full patch has no base");
    }
    if same_layout && base_layout != target_layout {
        return refuse(Code::Invalid, field(128), "the layout is not the same");
    }
    input.end()?;
    Ok((Trailer { at, base_state, target_state, target_schema }, target_layout))
}
