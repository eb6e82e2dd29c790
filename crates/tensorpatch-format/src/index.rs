//! Where the blocks are and what they cover (section 7.5).

use std::ops::Range;

use crate::address::{AddressSteps, MIN_ADDRESS_BYTES};
use crate::bytes::{Reader, put_varint};
use crate::{Block, ChunkAddress, Error, LeafDigest, LeafHash, LimitKind, Limits, PatchHeader, SectionHead};

/// The least bytes of a block's entry: gap, length, record count.
const MIN_ENTRY_BYTES: u64 = 3;

/// The footer of a patch: its blocks, the chunks in them, and the digests of those chunks in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    contents: Contents,
    leaf_hash: LeafHash,
    leaves: Vec<u8>,
}

/// One BLOCK section.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockEntry {
    /// Where the section starts in the file.
    pub offset: u64,
    /// Bytes of the whole section.
    pub len: u64,
    /// Which of [`Index::addresses`] are in it; never empty.
    pub records: Range<usize>,
}

/// The blocks and the chunks in them, as read off the blocks themselves or off an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    blocks: Vec<BlockEntry>,
    addresses: Vec<ChunkAddress>,
}

impl Contents {
    /// Adds a block that has just been read.
    pub(crate) fn push(&mut self, block: &Block<'_>) {
        self.push_block(block.offset(), block.section_len(), block.records().map(|record| record.address));
    }

    /// Adds a block of these chunks.
    pub(crate) fn push_block(
        &mut self,
        offset: u64,
        len: u64,
        addresses: impl IntoIterator<Item = ChunkAddress>,
    ) {
        let start = self.addresses.len();
        self.addresses.extend(addresses);
        self.blocks.push(BlockEntry { offset, len, records: start..self.addresses.len() });
    }

    /// The last chunk of all.
    pub(crate) fn last(&self) -> Option<ChunkAddress> {
        self.addresses.last().copied()
    }
}

impl Index {
    /// An index of these blocks. There must be one leaf for each address.
    pub(crate) fn new(contents: Contents, leaf_hash: LeafHash, leaves: Vec<u8>) -> Self {
        Self { contents, leaf_hash, leaves }
    }

    /// Reads the payload of the INDEX section, which must agree with the blocks `seen` if all have been.
    pub(crate) fn parse(
        head: &SectionHead,
        payload: &[u8],
        leaf_hash: LeafHash,
        limits: &Limits,
        seen: Option<&Contents>,
    ) -> Result<Self, Error> {
        let mut reader = Reader::new(payload, head.payload_offset());
        let record_bytes = MIN_ADDRESS_BYTES.saturating_add(leaf_hash.digest_len() as u64);
        let blocks = read_blocks(&mut reader, head.offset, record_bytes, limits, seen)?;
        let addresses = read_addresses(&mut reader, &blocks, seen)?;
        // Each address is in memory, so this does not overflow.
        let mut leaves = Vec::new();
        for _ in &addresses {
            leaves.extend_from_slice(reader.take(leaf_hash.digest_len() as u64, "leaf digest")?);
        }
        reader.finish("leaf digest")?;
        Ok(Self { contents: Contents { blocks, addresses }, leaf_hash, leaves })
    }

    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.blocks().len() as u64);
        let mut end = PatchHeader::LEN as u64;
        for block in self.blocks() {
            put_varint(&mut out, block.offset.saturating_sub(end));
            put_varint(&mut out, block.len);
            put_varint(&mut out, block.records.len() as u64);
            end = block.offset.saturating_add(block.len);
        }
        for block in self.blocks() {
            let mut steps = AddressSteps::default();
            for address in self.addresses_of(block) {
                // Whoever made the contents has put the same addresses into a block.
                let ascends = steps.put(*address, &mut out);
                debug_assert!(ascends, "{address:?}");
            }
        }
        out.extend_from_slice(&self.leaves);
        out
    }

    /// The blocks, in the order of the file.
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.contents.blocks
    }

    /// The chunks that have a record, in grid order.
    pub fn addresses(&self) -> &[ChunkAddress] {
        &self.contents.addresses
    }

    /// The chunks that have a record in `block`.
    pub fn addresses_of(&self, block: &BlockEntry) -> &[ChunkAddress] {
        self.contents.addresses.get(block.records.clone()).unwrap_or_default()
    }

    /// The digest in the target of the chunk at this place in [`addresses`](Self::addresses).
    pub fn leaf(&self, record: usize) -> Option<LeafDigest> {
        let len = self.leaf_hash.digest_len();
        let start = record.checked_mul(len)?;
        LeafDigest::from_bytes(self.leaf_hash, self.leaves.get(start..start.checked_add(len)?)?)
    }

    /// The place of `address` in [`addresses`](Self::addresses), if the chunk has a record.
    pub fn find(&self, address: ChunkAddress) -> Option<usize> {
        self.contents.addresses.binary_search(&address).ok()
    }

    /// The place in [`blocks`](Self::blocks) of the block with this record.
    pub fn block_of(&self, record: usize) -> Option<usize> {
        let at = self.contents.blocks.partition_point(|block| block.records.end <= record);
        (at < self.contents.blocks.len()).then_some(at)
    }
}

fn read_blocks(
    reader: &mut Reader<'_>,
    index_offset: u64,
    record_bytes: u64,
    limits: &Limits,
    seen: Option<&Contents>,
) -> Result<Vec<BlockEntry>, Error> {
    let at = reader.offset();
    let count = reader.varint("block_count")?;
    let least = MIN_ENTRY_BYTES.saturating_add(record_bytes);
    reader.check_count(count, least, "block_count", at)?;
    if let Some(seen) = seen
        && seen.blocks.len() as u64 != count
    {
        let message = format!("{count} blocks, but the file has {}", seen.blocks.len());
        return Err(Error::invalid(message, "block_count", at));
    }
    let mut blocks: Vec<BlockEntry> = Vec::new();
    let mut end = PatchHeader::LEN as u64;
    for _ in 0..count {
        let entry_at = reader.offset();
        let gap = reader.varint("gap")?;
        let length_at = reader.offset();
        let len = reader.varint("length")?;
        let bounds = end.checked_add(gap).and_then(|offset| Some((offset, offset.checked_add(len)?)));
        let Some((offset, block_end)) = bounds.filter(|(_, block_end)| *block_end <= index_offset) else {
            return Err(Error::invalid("a block that does not end before the index", "length", length_at));
        };
        let Some(payload_len) = len.checked_sub(SectionHead::LEN as u64) else {
            return Err(Error::invalid("a block shorter than its head", "length", length_at));
        };
        limits.check(LimitKind::SectionBytes, payload_len, "length", length_at)?;
        let count_at = reader.offset();
        let records = reader.varint("record_count")?;
        let start = blocks.last().map_or(0, |block| block.records.end);
        let all = (start as u64).saturating_add(records);
        reader.check_count(all, record_bytes, "record_count", count_at)?;
        // Within the bytes present, so it fits.
        let records = start..usize::try_from(all).unwrap_or(usize::MAX);
        if records.is_empty() {
            return Err(Error::invalid("a block without a record", "record_count", count_at));
        }
        let block = BlockEntry { offset, len, records };
        if let Some(seen) = seen
            && seen.blocks.get(blocks.len()) != Some(&block)
        {
            return Err(Error::invalid("not what the block in the file is", "gap", entry_at));
        }
        end = block_end;
        blocks.push(block);
    }
    Ok(blocks)
}

fn read_addresses(
    reader: &mut Reader<'_>,
    blocks: &[BlockEntry],
    seen: Option<&Contents>,
) -> Result<Vec<ChunkAddress>, Error> {
    let mut addresses: Vec<ChunkAddress> = Vec::new();
    for block in blocks {
        let mut steps = AddressSteps::default();
        for _ in block.records.clone() {
            let at = reader.offset();
            let address = steps.read(reader)?;
            if let Some(seen) = seen
                && seen.addresses.get(addresses.len()) != Some(&address)
            {
                return Err(Error::invalid("not the chunk that the block has", "tensor_step", at));
            }
            addresses.push(address);
        }
    }
    Ok(addresses)
}
