//! The ends of a patch first, then only the blocks that are wanted.

use crate::grid::GridWalk;
use crate::{
    Block, Error, Grid, Index, LimitKind, Limits, Listing, Need, PatchHeader, SectionHead, SectionKind,
    Trailer, Violation, Want,
};

/// A header, two sections of one byte, an index of one byte, and a trailer.
const MIN_FILE_LEN: u64 = 32 + 3 * 17 + 192;

/// Opens a patch of known length by its header, trailer, index and schema: some small ranges, whatever the
/// size of the file.
///
/// Ask [`need`](Self::need) what comes next and [`feed`](Self::feed) it the bytes that it wants, until it
/// needs the grid; then [`with_grid`](Self::with_grid) gives access to the blocks. Where a request is dear,
/// fetch the first and the last kilobytes of the file at once and serve what is wanted from them.
///
/// ```
/// use tensorpatch_format::{Error, Grid, Limits, Listing, Need, RandomAccess, RandomReader, Schema};
///
/// /// Opens a delta whose schema is that of its base. `fetch` makes a range request.
/// fn open(len: u64, base: &Schema, fetch: impl Fn(u64, u64) -> Vec<u8>) -> Result<RandomAccess, Error> {
///     let mut reader = RandomReader::new(len, &Limits::default());
///     while let Need::Bytes(want) = reader.need() {
///         reader.feed(&fetch(want.offset, want.len))?;
///     }
///     reader.with_grid(Grid::new(base, Some(base)))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct RandomReader {
    limits: Limits,
    file_len: u64,
    header: Option<PatchHeader>,
    trailer: Option<Trailer>,
    index: Option<Index>,
    /// Where the next section head is, on the way to the schema and the layout.
    walk: u64,
    schema_head: Option<SectionHead>,
    listed_schema: Option<bool>,
    layout_head: Option<SectionHead>,
}

/// A patch whose blocks can be read in any order.
#[derive(Debug, Clone)]
pub struct RandomAccess {
    limits: Limits,
    header: PatchHeader,
    trailer: Trailer,
    index: Index,
    grid: Grid,
    listed_schema: bool,
    layout_head: SectionHead,
}

/// What is missing first.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Header,
    Trailer(PatchHeader),
    Index(PatchHeader, Trailer),
    Head(Trailer),
    Schema(PatchHeader, SectionHead),
    Nothing,
}

impl RandomReader {
    /// A reader of a file of `file_len` bytes.
    pub fn new(file_len: u64, limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            file_len,
            header: None,
            trailer: None,
            index: None,
            walk: PatchHeader::LEN as u64,
            schema_head: None,
            listed_schema: None,
            layout_head: None,
        }
    }

    /// The header, once it has been read.
    pub fn header(&self) -> Option<&PatchHeader> {
        self.header.as_ref()
    }

    /// The trailer, once it has been read: a wrong base is found out here.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    fn missing(&self) -> Missing {
        let Some(header) = self.header else { return Missing::Header };
        let Some(trailer) = self.trailer else { return Missing::Trailer(header) };
        if self.index.is_none() {
            return Missing::Index(header, trailer);
        }
        match (self.schema_head, self.listed_schema, self.layout_head) {
            (Some(head), None, _) => Missing::Schema(header, head),
            (_, _, None) => Missing::Head(trailer),
            (_, _, Some(_)) => Missing::Nothing,
        }
    }

    /// What the reader needs to go on; at last the grid.
    pub fn need(&self) -> Need {
        self.want().map_or(Need::Grid, Need::Bytes)
    }

    fn want(&self) -> Option<Want> {
        Some(match self.missing() {
            Missing::Header => Want { offset: 0, len: self.file_len.min(PatchHeader::LEN as u64) },
            Missing::Trailer(_) => {
                let len = Trailer::LEN as u64;
                Want { offset: self.file_len.saturating_sub(len), len }
            }
            Missing::Index(_, trailer) => {
                let len = trailer.offset().saturating_sub(trailer.index_offset);
                Want { offset: trailer.index_offset, len }
            }
            Missing::Head(_) => Want { offset: self.walk, len: SectionHead::LEN as u64 },
            Missing::Schema(_, head) => Want { offset: head.payload_offset(), len: head.payload_len },
            Missing::Nothing => return None,
        })
    }

    /// Takes the wanted bytes off the start of `bytes`; gives out the schema when it has come.
    ///
    /// Where the reader needs no bytes, this does nothing.
    ///
    /// # Errors
    /// If the bytes break a rule of the format. Nothing has changed then, and the same bytes of the file,
    /// fetched again, may be fed.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Listing<'a>>, Error> {
        let Some(want) = self.want() else { return Ok(None) };
        match self.missing() {
            Missing::Header => {
                let header = PatchHeader::from_bytes(want.cut(bytes, "header")?)?;
                if self.file_len < MIN_FILE_LEN {
                    let needed = MIN_FILE_LEN.saturating_sub(self.file_len);
                    return Err(Error::new(Violation::Truncated { needed }, "file", self.file_len));
                }
                self.header = Some(header);
            }
            Missing::Trailer(header) => {
                let trailer = Trailer::from_bytes(want.cut_array(bytes, "trailer")?, want.offset, &header)?;
                // Of a layout that is the same, the digests are checked when it is read.
                trailer.check_ends(&header, false)?;
                self.check_index_bounds(&trailer)?;
                self.trailer = Some(trailer);
            }
            Missing::Index(header, trailer) => {
                self.index = Some(self.read_index(&header, &trailer, want.cut(bytes, "INDEX")?)?);
            }
            Missing::Head(trailer) => {
                let head = SectionHead::from_bytes(
                    want.cut_array(bytes, "section head")?,
                    want.offset,
                    &self.limits,
                )?;
                self.pass(head, trailer.index_offset)?;
            }
            Missing::Schema(header, head) => {
                let payload = want.cut(bytes, "SCHEMA")?;
                head.check_crc(payload)?;
                let schema = Listing::schema(payload, want.offset, &self.limits, header.kind)?;
                self.listed_schema = Some(schema.is_listed());
                return Ok(Some(schema));
            }
            Missing::Nothing => {}
        }
        Ok(None)
    }

    /// Checks that what the trailer says of the index can be, before that is fetched.
    fn check_index_bounds(&self, trailer: &Trailer) -> Result<(), Error> {
        let head_len = SectionHead::LEN as u64;
        let len = trailer.offset().checked_sub(trailer.index_offset);
        let payload_len = len.and_then(|len| len.checked_sub(head_len));
        let Some(payload_len) = payload_len.filter(|_| trailer.index_offset >= PatchHeader::LEN as u64)
        else {
            let message = format!("{}: no index can be there", trailer.index_offset);
            let at = trailer.offset().saturating_add(160);
            return Err(Error::invalid(message, "index offset", at));
        };
        // The offset where the length stands in the section.
        let at = trailer.index_offset.saturating_add(8);
        self.limits.check(LimitKind::MetadataBytes, payload_len, "length", at)
    }

    fn read_index(&self, header: &PatchHeader, trailer: &Trailer, section: &[u8]) -> Result<Index, Error> {
        let offset = trailer.index_offset;
        let (head, payload) = split_section(section, offset, SectionKind::Index, &self.limits)?;
        Index::parse(&head, payload, header.leaf_hash, &self.limits, None)
    }

    /// Goes past the section with this head, or stays for its payload.
    fn pass(&mut self, head: SectionHead, index_offset: u64) -> Result<(), Error> {
        let due = match self.schema_head {
            None => SectionKind::Schema,
            Some(_) => SectionKind::Layout,
        };
        if head.kind != due && !matches!(head.kind, SectionKind::Ancillary(_)) {
            let message = format!("{} where {} is due", head.kind.name(), due.name());
            return Err(Error::invalid(message, "type", head.offset));
        }
        let Some(end) = head.end().filter(|end| *end <= index_offset) else {
            let at = head.offset.saturating_add(8);
            return Err(Error::invalid("a section that runs into the index", "length", at));
        };
        self.walk = end;
        match head.kind {
            SectionKind::Schema => self.schema_head = Some(head),
            SectionKind::Layout => self.layout_head = Some(head),
            _ => {}
        }
        Ok(())
    }

    /// Opens the blocks with the grid that the reader [needs](Need::Grid).
    ///
    /// # Errors
    /// [`Violation::WrongBase`] if the patch says that the target has the base's schema and the grid's is
    /// another; otherwise if the grid's is not the schema of the trailer, the index names chunks that the
    /// grid has not, out of order, or not all of a fresh tensor; or if not all bytes that the reader wants
    /// were fed.
    pub fn with_grid(self, grid: Grid) -> Result<RandomAccess, Error> {
        let want = self.want();
        let (Some(header), Some(trailer), Some(index), Some(listed_schema), Some(layout_head)) =
            (self.header, self.trailer, self.index, self.listed_schema, self.layout_head)
        else {
            let (offset, needed) = want.map_or((0, 0), |want| (want.offset, want.len));
            return Err(Error::new(Violation::Truncated { needed }, "file", offset));
        };
        trailer.check_schema(grid.digest(), listed_schema)?;
        GridWalk::new(header.profile).index(&grid, &index, trailer.index_offset)?;
        let limits = self.limits;
        Ok(RandomAccess { limits, header, trailer, index, grid, listed_schema, layout_head })
    }
}

impl RandomAccess {
    /// The header.
    pub fn header(&self) -> &PatchHeader {
        &self.header
    }

    /// The trailer.
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// Where the blocks are, what they cover, and the leaves of their chunks in the target.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The grid of the target.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The bytes to give to [`layout`](Self::layout).
    pub fn layout_want(&self) -> Want {
        Want { offset: self.layout_head.payload_offset(), len: self.layout_head.payload_len }
    }

    /// Reads the layout off the bytes of [`layout_want`](Self::layout_want).
    ///
    /// # Errors
    /// If they break a rule of the format, or the patch cannot have a layout that is the base's.
    pub fn layout<'a>(&self, bytes: &'a [u8]) -> Result<Listing<'a>, Error> {
        let want = self.layout_want();
        let payload = want.cut(bytes, "LAYOUT")?;
        self.layout_head.check_crc(payload)?;
        let kind = self.header.kind;
        let layout = Listing::layout(payload, want.offset, &self.limits, kind, self.listed_schema)?;
        self.trailer.check_ends(&self.header, !layout.is_listed())?;
        Ok(layout)
    }

    /// The bytes to give to [`block`](Self::block), or `None` if there is no such block.
    pub fn block_want(&self, block: usize) -> Option<Want> {
        let entry = self.index.blocks().get(block)?;
        Some(Want { offset: entry.offset, len: entry.len })
    }

    /// Reads one of the blocks of the [index](Self::index) off the bytes of [`block_want`](Self::block_want);
    /// `None` if there is no such block.
    ///
    /// # Errors
    /// If the bytes break a rule of the format, or the block is not the one in the index.
    pub fn block<'a>(&self, block: usize, bytes: &'a [u8]) -> Result<Option<Block<'a>>, Error> {
        let (Some(want), Some(entry)) = (self.block_want(block), self.index.blocks().get(block)) else {
            return Ok(None);
        };
        let section = want.cut(bytes, "BLOCK")?;
        let (head, payload) = split_section(section, want.offset, SectionKind::Block, &self.limits)?;
        let block = Block::parse(&head, payload)?;
        let walk = GridWalk::new(self.header.profile);
        let mut expected = self.index.addresses_of(entry).iter();
        for record in &block {
            if expected.next() != Some(&record.address) {
                return Err(Error::invalid("not the chunk that the index has", "tensor_step", record.offset));
            }
            walk.encoding(&self.grid, record.address, record.encoding)
                .map_err(|fault| fault.at(record.encoding_offset))?;
        }
        if expected.next().is_some() {
            let at = head.payload_offset();
            return Err(Error::invalid("fewer chunks than the index has", "record_count", at));
        }
        Ok(Some(block))
    }
}

/// Takes a whole section of known place, kind and length apart.
fn split_section<'a>(
    section: &'a [u8],
    offset: u64,
    kind: SectionKind,
    limits: &Limits,
) -> Result<(SectionHead, &'a [u8]), Error> {
    let want = Want { offset, len: section.len() as u64 };
    let head = SectionHead::from_bytes(want.cut_array(section, "section head")?, offset, limits)?;
    if head.kind != kind {
        let message = format!("{} where {} is due", head.kind.name(), kind.name());
        return Err(Error::invalid(message, "type", offset));
    }
    let payload = section.get(SectionHead::LEN..).unwrap_or_default();
    if head.payload_len != payload.len() as u64 {
        let message = format!("{}, but there is room for {}", head.payload_len, payload.len());
        return Err(Error::invalid(message, "length", offset.saturating_add(8)));
    }
    head.check_crc(payload)?;
    Ok((head, payload))
}
