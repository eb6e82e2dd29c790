//! The bytes of a patch on their way out.

use std::io::Write;

use tensorpatch_format::{
    Ends, FinishedBlock, Kind, Layout, LeafHash, Listing, PatchHeader, PatchWriter, Profile, Schema,
};

use crate::DiffError;
use crate::packing::Packable;

/// What is known of a patch before its first chunk is encoded.
pub(crate) struct Head<'a> {
    pub(crate) full: bool,
    pub(crate) profile: Profile,
    pub(crate) leaf_hash: LeafHash,
    /// The target's schema, unless it is the base's.
    pub(crate) schema: Option<&'a Schema>,
    /// The target's layout, unless it is the base's.
    pub(crate) layout: Option<&'a Layout>,
}

/// Writes a patch as its blocks come.
///
/// Whether a patch is empty stands in its header, so that nothing is written before the first block, or the
/// end, tells.
pub(crate) struct Emitter<'a> {
    head: Head<'a>,
    out: &'a mut dyn Write,
    writer: Option<PatchWriter>,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(head: Head<'a>, out: &'a mut dyn Write) -> Self {
        Self { head, out, writer: None }
    }

    /// Writes the next block.
    pub(crate) fn block(&mut self, block: FinishedBlock) -> Result<(), DiffError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.start(self.head.header(true))?,
        };
        self.out.write_all(&writer.block(block)?)?;
        self.writer = Some(writer);
        Ok(())
    }

    /// Writes the rest, and returns what the patch became and how many bytes it has.
    pub(crate) fn finish(mut self, ends: &Ends) -> Result<(Kind, u64), DiffError> {
        let header = self.head.header(ends.base_state != ends.target_state);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.start(header)?,
        };
        let (trailer, bytes) = writer.finish(ends)?;
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        Ok((header.kind, trailer.file_len))
    }

    fn start(&mut self, header: PatchHeader) -> Result<PatchWriter, DiffError> {
        let schema = self.head.schema.map(|schema| Packable::new(schema.to_bytes()));
        let layout = self.head.layout.map(|layout| Packable::new(layout.to_bytes()));
        let (writer, bytes) = PatchWriter::start(&header);
        self.out.write_all(&bytes)?;
        let (writer, bytes) = writer.schema(&listing(schema.as_ref()))?;
        self.out.write_all(&bytes)?;
        let (writer, bytes) = writer.layout(&listing(layout.as_ref()))?;
        self.out.write_all(&bytes)?;
        Ok(writer)
    }
}

fn listing(packable: Option<&Packable>) -> Listing<'_> {
    packable.map_or(Listing::Same, |packable| Listing::Listed(packable.packed()))
}

impl Head<'_> {
    /// The header of the patch if its target differs from its base, or does not.
    pub(crate) fn header(&self, changed: bool) -> PatchHeader {
        let kind = match (self.full, changed) {
            (true, _) => Kind::Full,
            (false, true) => Kind::Delta,
            (false, false) => Kind::Empty,
        };
        PatchHeader::new(kind, self.profile, self.leaf_hash)
    }
}
