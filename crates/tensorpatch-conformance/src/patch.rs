//! A patch as what it says: from here to its parts.

use tensorpatch_reference::{
    LeafHash, Tensor, canonical_schema, layout_digest, leaf, schema_digest, state_digest,
};

use crate::raw::{Raw, Section, varint};
use crate::state::State;

pub(crate) const CHUNK: usize = 1 << 20;

pub(crate) const SPARSE: u8 = 1;
pub(crate) const SCATTER: u8 = 2;
pub(crate) const XOR: u8 = 3;
pub(crate) const RAW: u8 = 4;
pub(crate) const ZSTD: u8 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Delta = 1,
    Full = 2,
    Empty = 3,
}

/// A chunk in the file.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) tensor: u64,
    pub(crate) chunk: u64,
    pub(crate) encoding: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) leaf: Vec<u8>,
}

/// A schema or layout as it is listed.
#[derive(Debug, Clone)]
pub(crate) enum Listing {
    Same,
    Plain(Vec<u8>),
    Zstd(Vec<u8>),
}

/// What a patch says.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    pub(crate) kind: Kind,
    pub(crate) direct: bool,
    pub(crate) hash: LeafHash,
    pub(crate) minor: u16,
    pub(crate) optional: u32,
    pub(crate) schema: Listing,
    pub(crate) layout: Listing,
    pub(crate) blocks: Vec<Vec<Record>>,
    pub(crate) base_state: [u8; 32],
    pub(crate) target: Vec<Tensor>,
    pub(crate) base_layout: [u8; 32],
    pub(crate) target_layout: [u8; 32],
}

impl Patch {
    /// A delta without records, between states of the same schema and layout. States with other schemas are
    /// listed.
    pub(crate) fn delta(base: &State, target: &State, hash: LeafHash) -> Self {
        let layout = layout_digest(&layout_of(&base.tensors, ""));
        let mut patch = Self {
            kind: Kind::Delta,
            direct: false,
            hash,
            minor: 0,
            optional: 0,
            schema: Listing::Same,
            layout: Listing::Same,
            blocks: Vec::new(),
            base_state: state_digest(hash, &base.tensors),
            target: target.tensors.clone(),
            base_layout: layout,
            target_layout: layout,
        };
        if schema_digest(&base.tensors) != schema_digest(&target.tensors) {
            patch.list_schema();
        }
        patch
    }

    /// A full patch, each chunk raw, one block.
    pub(crate) fn full(target: &State, hash: LeafHash) -> Self {
        let mut patch = Self::delta(target, target, hash);
        patch.kind = Kind::Full;
        patch.base_state = [0; 32];
        patch.base_layout = [0; 32];
        patch.list_schema();
        let mut records = Vec::new();
        for (number, tensor) in (0..).zip(&target.tensors) {
            for (chunk, bytes) in (0..).zip(tensor.bytes.chunks(CHUNK)) {
                records.push(patch.record(number, chunk, RAW, bytes.to_vec()));
            }
        }
        patch.blocks = if records.is_empty() { Vec::new() } else { vec![records] };
        patch
    }

    /// Equal states.
    pub(crate) fn empty(state: &State, hash: LeafHash) -> Self {
        Self { kind: Kind::Empty, ..Self::delta(state, state, hash) }
    }

    pub(crate) fn list_schema(&mut self) {
        self.schema = Listing::Plain(canonical_schema(&self.target));
        self.list_layout(layout_of(&self.target, ""));
    }

    pub(crate) fn list_layout(&mut self, layout: Vec<u8>) {
        self.target_layout = layout_digest(&layout);
        self.layout = Listing::Plain(layout);
    }

    /// A record with the leaf digest of the target's chunk.
    pub(crate) fn record(&self, tensor: u64, chunk: u64, encoding: u8, payload: Vec<u8>) -> Record {
        let bytes = self.chunk(tensor, chunk);
        Record { tensor, chunk, encoding, payload, leaf: leaf(self.hash, bytes) }
    }

    /// The target's bytes of a chunk.
    pub(crate) fn chunk(&self, tensor: u64, chunk: u64) -> &[u8] {
        self.target[tensor as usize].bytes.chunks(CHUNK).nth(chunk as usize).expect("a chunk of the target")
    }

    /// Puts a record into a block of its own.
    pub(crate) fn with(mut self, tensor: u64, chunk: u64, encoding: u8, payload: Vec<u8>) -> Self {
        let record = self.record(tensor, chunk, encoding, payload);
        self.blocks.push(vec![record]);
        self
    }

    pub(crate) fn raw(&self) -> Raw {
        let mut header = b"\x89TPATCH\n\x01\x00".to_vec();
        header.extend(self.minor.to_le_bytes());
        header.extend([0; 4]);
        header.extend(self.optional.to_le_bytes());
        let hash = match self.hash {
            LeafHash::Xxh3 => 1,
            LeafHash::Blake3 => 2,
        };
        header.extend([self.kind as u8, if self.direct { 2 } else { 1 }, hash, 0, 0, 0, 0, 0]);

        let mut sections =
            vec![Section::new(1, listing(&self.schema)), Section::new(2, listing(&self.layout))];
        sections.extend(self.blocks.iter().map(|records| Section::new(3, block(records))));
        sections.push(Section::new(4, Vec::new()));
        let mut raw = Raw {
            header,
            sections,
            digests: [
                self.base_state,
                state_digest(self.hash, &self.target),
                schema_digest(&self.target),
                self.base_layout,
                self.target_layout,
            ],
            trailer_reserved: 0,
            false_index_offset: 0,
            false_file_len: 0,
            end_magic: *b"\nhctapt\x89",
        };
        self.index(&mut raw);
        raw
    }

    /// Writes the index anew, for sections that have been put between others.
    pub(crate) fn index(&self, raw: &mut Raw) {
        let places: Vec<usize> =
            (0..raw.sections.len()).filter(|section| raw.sections[*section].kind == 3).collect();
        assert_eq!(places.len(), self.blocks.len());
        let mut payload = varint(self.blocks.len() as u64);
        let mut end = 32;
        for (records, place) in self.blocks.iter().zip(places) {
            let len = 16 + raw.sections[place].payload.len() as u64;
            payload.extend(varint(raw.at(place) - end));
            payload.extend(varint(len));
            payload.extend(varint(records.len() as u64));
            end = raw.at(place) + len;
        }
        for records in &self.blocks {
            payload.extend(addresses(records).concat());
        }
        payload.extend(self.blocks.iter().flatten().flat_map(|record| record.leaf.iter()));
        let index = raw.index();
        raw.sections[index].payload = payload;
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        self.raw().file()
    }
}

fn listing(listing: &Listing) -> Vec<u8> {
    match listing {
        Listing::Same => vec![0],
        Listing::Plain(bytes) => [vec![1, 0], varint(bytes.len() as u64), bytes.clone()].concat(),
        Listing::Zstd(bytes) => [vec![1, 1], varint(bytes.len() as u64), frame(bytes)].concat(),
    }
}

/// A zstd frame.
pub(crate) fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 19).expect("compresses")
}

/// The coded addresses of the records of a block.
fn addresses(records: &[Record]) -> Vec<Vec<u8>> {
    let mut last: Option<&Record> = None;
    let coded = records.iter().map(|record| {
        let step = record.tensor - last.map_or(0, |last| last.tensor);
        let chunk = match last {
            Some(last) if step == 0 => record.chunk - last.chunk - 1,
            _ => record.chunk,
        };
        last = Some(record);
        [varint(step), varint(chunk)].concat()
    });
    coded.collect()
}

/// The payload of a BLOCK section.
pub(crate) fn block(records: &[Record]) -> Vec<u8> {
    let mut out = varint(records.len() as u64);
    for (record, address) in records.iter().zip(addresses(records)) {
        out.extend(address);
        out.push(record.encoding);
        out.extend(varint(record.payload.len() as u64));
    }
    out.extend(records.iter().flat_map(|record| record.payload.iter()));
    out
}

/// The canonical bytes of the layout of a single file, whose header says `note` if it says anything.
pub(crate) fn layout_of(tensors: &[Tensor], note: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    if !note.is_empty() {
        entries.push(format!(r#""__metadata__":{{"note":"{note}"}}"#));
    }
    let mut at = 0;
    for tensor in tensors {
        let (end, name) = (at + tensor.bytes.len(), serde_json::Value::from(tensor.name.as_str()));
        let shape = serde_json::Value::from(tensor.shape.clone());
        entries.push(format!(
            r#"{name}:{{"dtype":"{}","shape":{shape},"data_offsets":[{at},{end}]}}"#,
            tensor.dtype
        ));
        at = end;
    }
    layout(&[("model.safetensors", &safetensors_header(&format!("{{{}}}", entries.join(","))))], None)
}

pub(crate) fn safetensors_header(json: &str) -> Vec<u8> {
    let spaces = json.len().next_multiple_of(8) - json.chars().count();
    let padded = format!("{json}{}", " ".repeat(spaces));
    [&(padded.len() as u64).to_le_bytes()[..], padded.as_bytes()].concat()
}

/// The canonical bytes of a layout.
pub(crate) fn layout(files: &[(&str, &[u8])], index: Option<&[u8]>) -> Vec<u8> {
    let mut out = (files.len() as u32).to_le_bytes().to_vec();
    for (name, header) in files {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend((header.len() as u64).to_le_bytes());
        out.extend(*header);
    }
    match index {
        None => out.push(0),
        Some(index) => {
            out.push(1);
            out.extend((index.len() as u64).to_le_bytes());
            out.extend(index);
        }
    }
    out
}
