//! A whole patch in memory.

use crate::grid::GridWalk;
use crate::scan::Scanner;
use crate::{Block, Error, Grid, Index, Limits, Listing, PatchHeader, PatchPart, Trailer, Violation};

/// A patch file in one slice, read and checked as far as its bytes alone allow.
///
/// What needs more is checked in two more steps, as soon as the caller has it:
/// [`check_grid`](Self::check_grid) with the schemas of target and base, [`check_layout`](Self::check_layout)
/// with an unpacked layout. The payloads are not looked at.
///
/// ```
/// use tensorpatch_format::{
///     BlockBuilder, ChunkAddress, ChunkIndex, Dtype, Encoding, Ends, FileLayout, Grid, Kind, Layout,
///     LayoutDigest, LeafDigest, LeafHash, Limits, Listing, Packed, PatchHeader, PatchView, PatchWriter,
///     Profile, Schema, StateDigest, TensorIndex, TensorSpec,
/// };
///
/// // A full patch of one tensor with two elements.
/// let schema = Schema::new(vec![TensorSpec::new("w", Dtype::new("BF16").unwrap(), vec![2])?])?;
/// let layout = Layout::new(vec![FileLayout { name: Layout::SINGLE_FILE.into(), header: vec![] }], None)?;
/// let ends = Ends {
///     base_state: StateDigest::NONE,
///     target_state: StateDigest::from_bytes([7; 32]),
///     target_schema: schema.digest(),
///     base_layout: LayoutDigest::NONE,
///     target_layout: layout.digest(),
/// };
/// let header = PatchHeader::new(Kind::Full, Profile::Compact, LeafHash::Xxh3);
/// let mut block = BlockBuilder::new(&header);
/// let address = ChunkAddress { tensor: TensorIndex(0), chunk: ChunkIndex(0) };
/// block.push(address, Encoding::Raw, &[0x80, 0x3f, 0, 0], LeafDigest::Xxh3([9; 16]))?;
///
/// let (schema_bytes, layout_bytes) = (schema.to_bytes(), layout.to_bytes());
/// let (writer, mut file) = PatchWriter::start(&header);
/// let (writer, bytes) = writer.schema(&Listing::Listed(Packed::plain(&schema_bytes)))?;
/// file.extend(bytes);
/// let (mut writer, bytes) = writer.layout(&Listing::Listed(Packed::plain(&layout_bytes)))?;
/// file.extend(bytes);
/// file.extend(writer.block(block.finish()?)?);
/// let (_, bytes) = writer.finish(&ends)?;
/// file.extend(bytes);
///
/// let limits = Limits::default();
/// let patch = PatchView::parse(&file, &limits)?;
/// let Listing::Listed(packed) = patch.schema() else { panic!("a full patch lists its schema") };
/// let target = packed.schema(&limits, |_frame, _len| Err("not compressed"))?;
/// patch.check_grid(&Grid::new(&target, None))?;
/// patch.check_layout(layout.digest())?;
/// assert_eq!(patch.blocks()[0].records().next().unwrap().payload, [0x80, 0x3f, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PatchView<'a> {
    header: PatchHeader,
    schema: Listing<'a>,
    layout: Listing<'a>,
    blocks: Vec<Block<'a>>,
    index: Index,
    trailer: Trailer,
}

impl<'a> PatchView<'a> {
    /// Reads a whole patch file.
    ///
    /// # Errors
    /// If the bytes are not one, or not all of one, or ask for more than `limits` allow.
    pub fn parse(file: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let mut scanner = Scanner::new(limits);
        let (mut header, mut schema, mut layout, mut index, mut trailer) = (None, None, None, None, None);
        let mut blocks = Vec::new();
        while let Some(want) = scanner.want() {
            let rest = usize::try_from(want.offset).ok().and_then(|offset| file.get(offset..));
            match scanner.feed(rest.unwrap_or_default())? {
                Some(PatchPart::Header(part)) => header = Some(part),
                Some(PatchPart::Schema(part)) => schema = Some(part),
                Some(PatchPart::Layout(part)) => layout = Some(part),
                Some(PatchPart::Block(part)) => blocks.push(part),
                Some(PatchPart::Index(part)) => index = Some(part),
                Some(PatchPart::Trailer(part)) => trailer = Some(part),
                None => {}
            }
        }
        let (Some(header), Some(schema), Some(layout), Some(index), Some(trailer)) =
            (header, schema, layout, index, trailer)
        else {
            // The scanner ends with the trailer, which comes after all others.
            return Err(Error::new(Violation::NoTrailer, "trailer", file.len() as u64));
        };
        let rest = usize::try_from(trailer.file_len).ok().and_then(|len| file.get(len..));
        scanner.nothing_follows(rest.unwrap_or_default())?;
        Ok(Self { header, schema, layout, blocks, index, trailer })
    }

    /// The header.
    pub fn header(&self) -> &PatchHeader {
        &self.header
    }

    /// The target's schema, maybe packed.
    pub fn schema(&self) -> &Listing<'a> {
        &self.schema
    }

    /// The target's layout, maybe packed.
    pub fn layout(&self) -> &Listing<'a> {
        &self.layout
    }

    /// The blocks, in grid order.
    pub fn blocks(&self) -> &[Block<'a>] {
        &self.blocks
    }

    /// The index. It agrees with the blocks.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where the leaf digest of this record of the index stands, if it has so many.
    pub fn leaf_offset(&self, record: usize) -> Option<u64> {
        // They are the last thing in the index, which ends where the trailer begins.
        let later = self.index.addresses().len().checked_sub(record).filter(|later| *later > 0)?;
        let len = later.checked_mul(self.header.leaf_hash.digest_len())?;
        self.trailer.offset().checked_sub(len as u64)
    }

    /// The trailer.
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// Checks every record against the grid of the target, and the schema behind the grid against the
    /// trailer.
    ///
    /// # Errors
    /// [`Violation::WrongBase`] if the patch says that the target has the base's schema and this one is
    /// another; otherwise if a record is outside the grid, out of order, of an encoding that it may not have,
    /// or missing for a fresh chunk.
    pub fn check_grid(&self, grid: &Grid) -> Result<(), Error> {
        self.trailer.check_schema(grid.digest(), self.schema.is_listed())?;
        let mut walk = GridWalk::new(self.header.profile);
        for block in &self.blocks {
            walk.block(grid, block)?;
        }
        walk.finish(grid).map_err(|fault| fault.at(self.trailer.index_offset))
    }

    /// Checks the digest of an unpacked layout against the trailer. Nothing is to be checked where the layout
    /// is the base's.
    ///
    /// # Errors
    /// If it is another.
    pub fn check_layout(&self, found: crate::LayoutDigest) -> Result<(), Error> {
        self.trailer.check_layout(found)
    }
}
