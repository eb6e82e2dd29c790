//! Patches that arrive in pieces.

use tensorpatch_format::{Arrivals, Error, ForwardReader, Grid, Listing, Need, PatchPart, PatchView};

use super::{limits, patch};
use crate::repair_checksums;

/// In whatever pieces a patch arrives, its reader tells the same parts and ends with the same error; and if
/// it has none, the whole file has none.
///
/// An input is the sizes of the pieces (their number, then a byte each, taken in turn), and the patch.
pub fn parse_pieces(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Some((sizes, file)) = rest.split_at_checked(usize::from(count % 8) + 1) else { return };
    let mut repaired = file.to_vec();
    repair_checksums(&mut repaired);
    for file in [file, &repaired] {
        let whole = read(file, &[0]);
        assert_eq!(read(file, sizes), whole);
        if let (_, Ok(())) = whole {
            PatchView::parse(file, &limits()).unwrap();
        }
    }
}

/// Reads a file in pieces of these sizes, 0 for all that is left, and tells its parts.
fn read(file: &[u8], sizes: &[u8]) -> (Vec<String>, Result<(), Error>) {
    let mut parts = Vec::new();
    let result = read_into(file, sizes, &mut parts);
    (parts, result)
}

fn read_into(mut file: &[u8], sizes: &[u8], parts: &mut Vec<String>) -> Result<(), Error> {
    let limits = limits();
    let base = patch::base();
    let mut grid = Grid::new(base.schema(), Some(base.schema()));
    let mut reader = ForwardReader::new(&limits);
    let mut arrivals = Arrivals::new();
    let mut sizes = sizes.iter().cycle();
    while !file.is_empty() {
        let size = sizes.next().map_or(0, |size| usize::from(*size));
        let (piece, rest) = file.split_at(if size == 0 { file.len() } else { size.min(file.len()) });
        file = rest;
        arrivals.push(piece);
        loop {
            let part = match reader.need() {
                Need::Grid => {
                    reader.provide_grid(grid.clone());
                    continue;
                }
                Need::Bytes(want) => match arrivals.window(want) {
                    Some(window) => reader.feed(window)?,
                    None => break,
                },
                Need::Nothing => break,
            };
            if let Some(PatchPart::Schema(Listing::Listed(packed))) = &part {
                let schema = packed.schema(&limits, reference_unpack)?;
                grid = Grid::new(&schema, Some(base.schema()));
            }
            parts.extend(part.map(|part| match part {
                PatchPart::Block(block) => {
                    let records: Vec<_> = block.records().collect();
                    format!("{} {} {records:?}", block.offset(), block.section_len())
                }
                part => format!("{part:?}"),
            }));
        }
    }
    reader.finish(arrivals.rest(reader.offset()))
}

fn reference_unpack(frame: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    tensorpatch_reference::unpack_frame(frame, len as u64).ok_or("not a frame")
}

/// Real patches, and the conformance vectors.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let files = super::differential::patches().into_iter();
    files.map(|(name, file)| (name, [&[2, 1, 40, 7], file.as_slice()].concat())).collect()
}
