//! One pass over a patch while it arrives.

use crate::grid::GridWalk;
use crate::scan::Scanner;
use crate::{Error, Grid, Limits, Need, PatchPart, Violation};

/// Reads a patch from its first byte to its last and checks all of it but the contents of the payloads.
///
/// Ask [`need`](Self::need) what comes next, and [`feed`](Self::feed) it the bytes that it wants. After the
/// schema the reader needs the grid; nothing of a block is given out before it has been checked against that.
/// What was given out is only known to be of one piece with the digests once the trailer has come, so keep
/// results apart until then, and call [`finish`](Self::finish) where the file ends.
///
/// ```
/// use tensorpatch_format::{Arrivals, Error, ForwardReader, Grid, Limits, Need, PatchPart, Schema, Trailer};
///
/// /// Reads a delta whose schema is that of its base.
/// fn read(pieces: &[&[u8]], base: &Schema) -> Result<Option<Trailer>, Error> {
///     let mut reader = ForwardReader::new(&Limits::default());
///     let mut arrivals = Arrivals::new();
///     let mut trailer = None;
///     for piece in pieces {
///         arrivals.push(piece);
///         loop {
///             let part = match reader.need() {
///                 Need::Grid => {
///                     reader.provide_grid(Grid::new(base, Some(base)));
///                     continue;
///                 }
///                 Need::Bytes(want) => match arrivals.window(want) {
///                     Some(window) => reader.feed(window)?,
///                     None => break,
///                 },
///                 Need::Nothing => break,
///             };
///             match part {
///                 Some(PatchPart::Block(block)) => println!("{} chunks", block.record_count()),
///                 Some(PatchPart::Trailer(part)) => trailer = Some(part),
///                 _ => {}
///             }
///         }
///     }
///     reader.finish(arrivals.rest(reader.offset()))?;
///     Ok(trailer)
/// }
/// # let schema = Schema::new(Vec::new()).unwrap();
/// # let cut_short = read(&[b"\x89TPA", b"TCH\n"], &schema).unwrap_err();
/// # assert_eq!(cut_short.class().code(), "truncated");
/// ```
#[derive(Debug, Clone)]
pub struct ForwardReader {
    scanner: Scanner,
    stage: Stage,
    /// A fault of the file that no other bytes would mend; nothing is read after it.
    fault: Option<Error>,
}

#[derive(Debug, Clone)]
enum Stage {
    BeforeSchema,
    SchemaRead { is_listed: bool },
    Checked { grid: Grid, walk: GridWalk, is_listed: bool },
}

impl ForwardReader {
    /// A reader at the start of a file.
    pub fn new(limits: &Limits) -> Self {
        Self { scanner: Scanner::new(limits), stage: Stage::BeforeSchema, fault: None }
    }

    /// What the reader needs to go on.
    pub fn need(&self) -> Need {
        match (&self.stage, self.scanner.want()) {
            (Stage::SchemaRead { .. }, _) => Need::Grid,
            (_, Some(want)) => Need::Bytes(want),
            (_, None) => Need::Nothing,
        }
    }

    /// How far the file has been read.
    pub fn offset(&self) -> u64 {
        self.scanner.offset()
    }

    /// Takes the wanted bytes off the start of `bytes`, and gives out the part that they complete.
    ///
    /// Where the reader needs something else, this does nothing.
    ///
    /// # Errors
    /// If the bytes break a rule of the format. After an error of the classes `truncated` and `checksum`
    /// nothing has changed, and the same bytes of the file, fetched again, may be fed.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<PatchPart<'a>>, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if !matches!(self.need(), Need::Bytes(_)) {
            return Ok(None);
        }
        let part = self.scanner.feed(bytes)?;
        match part.map(|part| self.check(part)).transpose() {
            Ok(part) => Ok(part),
            Err(fault) => {
                self.fault = Some(fault.clone());
                Err(fault)
            }
        }
    }

    fn check<'a>(&mut self, part: PatchPart<'a>) -> Result<PatchPart<'a>, Error> {
        match (&part, &mut self.stage) {
            (PatchPart::Schema(schema), stage) => {
                *stage = Stage::SchemaRead { is_listed: schema.is_listed() }
            }
            (PatchPart::Block(block), Stage::Checked { grid, walk, .. }) => walk.block(grid, block)?,
            (PatchPart::Index(_), Stage::Checked { grid, walk, .. }) => {
                walk.finish(grid).map_err(|fault| fault.at(self.scanner.index_offset()))?;
            }
            (PatchPart::Trailer(trailer), Stage::Checked { grid, is_listed, .. }) => {
                trailer.check_schema(grid.digest(), *is_listed)?;
            }
            _ => {}
        }
        Ok(part)
    }

    /// Gives the reader the grid that it [needs](Need::Grid); at any other time this does nothing.
    pub fn provide_grid(&mut self, grid: Grid) {
        if let (Stage::SchemaRead { is_listed }, Some(header)) = (&self.stage, self.scanner.header()) {
            let walk = GridWalk::new(header.profile);
            self.stage = Stage::Checked { grid, walk, is_listed: *is_listed };
        }
    }

    /// Says that the file ends. `unread` are the bytes that have arrived after [`offset`](Self::offset).
    ///
    /// # Errors
    /// If the trailer has not been read, or bytes follow it.
    pub fn finish(&self, unread: &[u8]) -> Result<(), Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.scanner.want().is_none() {
            return self.scanner.nothing_follows(unread);
        }
        // A part that is complete would have been fed before.
        self.scanner.clone().feed(unread)?;
        let needed = 1;
        Err(Error::new(Violation::Truncated { needed }, "file", self.offset()))
    }
}
