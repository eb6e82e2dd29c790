//! Writing a patch part by part, none of which needs to know what follows (section 5).

use crate::address::AddressSteps;
use crate::bytes::put_varint;
use crate::index::Contents;
use crate::packed::{check_layout_mode, check_schema_mode};
use crate::section::seal;
use crate::{
    ChunkAddress, Encoding, Ends, Index, Kind, LeafDigest, Listing, PatchHeader, SectionKind, Trailer,
};

/// What a patch cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A chunk that does not come after the one before.
    #[error("the chunk {0:?} does not come after the one before")]
    Order(ChunkAddress),
    /// An encoding that the profile of the patch does not allow.
    #[error("the encoding {0} is not allowed in the profile of the patch")]
    Encoding(Encoding),
    /// A leaf digest of another hash than the header's.
    #[error("the leaf digest {0:?} is not of the hash in the header")]
    LeafHash(LeafDigest),
    /// A block without a record.
    #[error("a block needs at least one record")]
    NoRecord,
    /// A block that was built for a patch with another header.
    #[error("the block was built for another header")]
    OtherHeader,
    /// A combination of kind, modes and digests that the format does not have.
    #[error("{field}: {message}")]
    Rule {
        /// The field, by its name in the specification.
        field: &'static str,
        /// What is wrong.
        message: &'static str,
    },
}

/// Collects the records of one block. Blocks do not depend on each other, so that many may be built at once.
#[derive(Debug, Clone)]
pub struct BlockBuilder {
    header: PatchHeader,
    steps: AddressSteps,
    heads: Vec<u8>,
    payloads: Vec<u8>,
    addresses: Vec<ChunkAddress>,
    leaves: Vec<u8>,
}

/// A finished BLOCK section, not yet given a place in a file.
#[derive(Debug, Clone)]
pub struct FinishedBlock {
    header: PatchHeader,
    section: Vec<u8>,
    addresses: Vec<ChunkAddress>,
    leaves: Vec<u8>,
}

/// Makes the bytes of a patch. Each call returns what comes next in the file; the type says what may come
/// next.
///
/// [`PatchView`](crate::PatchView) has an example.
#[derive(Debug, Clone)]
pub struct PatchWriter {
    header: PatchHeader,
    offset: u64,
    same_layout: bool,
    contents: Contents,
    leaves: Vec<u8>,
}

/// A [`PatchWriter`] whose SCHEMA section is due.
#[derive(Debug, Clone)]
pub struct SchemaDue {
    header: PatchHeader,
    offset: u64,
}

/// A [`PatchWriter`] whose LAYOUT section is due.
#[derive(Debug, Clone)]
pub struct LayoutDue {
    header: PatchHeader,
    offset: u64,
    listed_schema: bool,
}

impl BlockBuilder {
    /// An empty block of a patch with this header.
    pub fn new(header: &PatchHeader) -> Self {
        Self {
            header: *header,
            steps: AddressSteps::default(),
            heads: Vec::new(),
            payloads: Vec::new(),
            addresses: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Adds the record of a chunk: its encoding, its payload, and the digest of the chunk in the target.
    ///
    /// # Errors
    /// If the chunk does not come after the one before, or the header does not allow the encoding or the
    /// digest. The block is as before then.
    pub fn push(
        &mut self,
        address: ChunkAddress,
        encoding: Encoding,
        payload: &[u8],
        leaf: LeafDigest,
    ) -> Result<(), WriteError> {
        self.push_with(address, |out| {
            out.extend_from_slice(payload);
            Some((encoding, leaf))
        })
    }

    /// Adds the record of a chunk whose payload `encode` appends to the buffer that it is given; none if it
    /// returns `None`. This spares a copy of the payload.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_with(
        &mut self,
        address: ChunkAddress,
        encode: impl FnOnce(&mut Vec<u8>) -> Option<(Encoding, LeafDigest)>,
    ) -> Result<(), WriteError> {
        let start = self.payloads.len();
        let added = encode(&mut self.payloads).map(|(encoding, leaf)| {
            let payload_len = self.payloads.len().saturating_sub(start);
            self.push_head(address, encoding, payload_len as u64, leaf)
        });
        match added {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                self.payloads.truncate(start);
                Err(error)
            }
            None => {
                self.payloads.truncate(start);
                Ok(())
            }
        }
    }

    fn push_head(
        &mut self,
        address: ChunkAddress,
        encoding: Encoding,
        payload_len: u64,
        leaf: LeafDigest,
    ) -> Result<(), WriteError> {
        if !encoding.allowed_in(self.header.profile) {
            return Err(WriteError::Encoding(encoding));
        }
        if leaf.hash() != self.header.leaf_hash {
            return Err(WriteError::LeafHash(leaf));
        }
        if !self.steps.put(address, &mut self.heads) {
            return Err(WriteError::Order(address));
        }
        self.heads.push(encoding.code());
        put_varint(&mut self.heads, payload_len);
        self.addresses.push(address);
        self.leaves.extend_from_slice(leaf.as_bytes());
        Ok(())
    }

    /// The section with all records.
    ///
    /// # Errors
    /// If there is none.
    pub fn finish(self) -> Result<FinishedBlock, WriteError> {
        if self.is_empty() {
            return Err(WriteError::NoRecord);
        }
        let mut count = Vec::new();
        put_varint(&mut count, self.addresses.len() as u64);
        let section = seal(SectionKind::Block, &[&count, &self.heads, &self.payloads]);
        Ok(FinishedBlock { header: self.header, section, addresses: self.addresses, leaves: self.leaves })
    }
}

impl FinishedBlock {
    /// Bytes of the section.
    pub fn section_len(&self) -> usize {
        self.section.len()
    }

    /// The number of records.
    pub fn record_count(&self) -> usize {
        self.addresses.len()
    }
}

impl PatchWriter {
    /// Starts a patch: returns the bytes of its header, and what writes the rest.
    pub fn start(header: &PatchHeader) -> (SchemaDue, Vec<u8>) {
        let bytes = header.to_bytes().to_vec();
        (SchemaDue { header: *header, offset: bytes.len() as u64 }, bytes)
    }

    /// The bytes of the next BLOCK section.
    ///
    /// Whether the chunks are in the target's grid is not checked here:
    /// [`PatchView::check_grid`](crate::PatchView::check_grid) does.
    ///
    /// # Errors
    /// If the block does not come after the one before, or the patch can have none. The writer is as before
    /// then.
    pub fn block(&mut self, block: FinishedBlock) -> Result<Vec<u8>, WriteError> {
        if block.header != self.header {
            return Err(WriteError::OtherHeader);
        }
        if self.header.kind == Kind::Empty {
            return Err(WriteError::Rule { field: "kind", message: "an empty patch has no block" });
        }
        if let (Some(last), Some(first)) = (self.contents.last(), block.addresses.first())
            && *first <= last
        {
            return Err(WriteError::Order(*first));
        }
        let len = block.section.len() as u64;
        self.contents.push_block(self.offset, len, block.addresses);
        self.leaves.extend_from_slice(&block.leaves);
        self.offset = self.offset.saturating_add(len);
        Ok(block.section)
    }

    /// The bytes of all that follows the blocks: the INDEX section and the trailer.
    ///
    /// # Errors
    /// If the ends do not fit the kind of the patch or its layout.
    pub fn finish(self, ends: &Ends) -> Result<(Trailer, Vec<u8>), WriteError> {
        ends.check(self.header.kind, self.same_layout)
            .map_err(|fault| WriteError::Rule { field: fault.field, message: fault.message })?;
        let index = Index::new(self.contents, self.header.leaf_hash, self.leaves);
        let mut bytes = seal(SectionKind::Index, &[&index.to_payload()]);
        let trailer_offset = self.offset.saturating_add(bytes.len() as u64);
        let trailer = Trailer::new(*ends, self.offset, trailer_offset.saturating_add(Trailer::LEN as u64));
        bytes.extend_from_slice(&trailer.to_bytes(&self.header));
        Ok((trailer, bytes))
    }
}

impl SchemaDue {
    /// The bytes of the SCHEMA section.
    ///
    /// # Errors
    /// If a patch of this kind cannot have that mode.
    pub fn schema(self, schema: &Listing<'_>) -> Result<(LayoutDue, Vec<u8>), WriteError> {
        let listed_schema = schema.is_listed();
        check_schema_mode(self.header.kind, listed_schema).map_err(mode)?;
        let bytes = seal(SectionKind::Schema, &[&schema.to_payload()]);
        let offset = self.offset.saturating_add(bytes.len() as u64);
        Ok((LayoutDue { header: self.header, offset, listed_schema }, bytes))
    }
}

impl LayoutDue {
    /// The bytes of the LAYOUT section.
    ///
    /// # Errors
    /// If a patch of this kind, with this schema, cannot have that mode.
    pub fn layout(self, layout: &Listing<'_>) -> Result<(PatchWriter, Vec<u8>), WriteError> {
        let listed = layout.is_listed();
        check_layout_mode(self.header.kind, self.listed_schema, listed).map_err(mode)?;
        let bytes = seal(SectionKind::Layout, &[&layout.to_payload()]);
        let writer = PatchWriter {
            header: self.header,
            offset: self.offset.saturating_add(bytes.len() as u64),
            same_layout: !listed,
            contents: Contents::default(),
            leaves: Vec::new(),
        };
        Ok((writer, bytes))
    }
}

fn mode(message: &'static str) -> WriteError {
    WriteError::Rule { field: "mode", message }
}
