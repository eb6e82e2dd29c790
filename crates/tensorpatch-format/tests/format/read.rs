//! Every way to read a patch, each told as the list of its parts.

use tensorpatch_format::*;

/// The parts of a patch, in words.
pub(crate) type Story = Vec<String>;

/// Reads a whole file in one slice.
pub(crate) fn whole(file: &[u8], grid: &Grid) -> Result<Story, Error> {
    let patch = PatchView::parse(file, &Limits::default())?;
    patch.check_grid(grid)?;
    let mut story = vec![
        format!("{:?}", patch.header()),
        format!("{:?}", patch.schema()),
        format!("{:?}", patch.layout()),
    ];
    story.extend(patch.blocks().iter().map(block_story));
    story.push(format!("{:?}", patch.index()));
    story.push(format!("{:?}", patch.trailer()));
    Ok(story)
}

fn block_story(block: &Block<'_>) -> String {
    format!("{} {} {:?}", block.offset(), block.section_len(), block.records().collect::<Vec<_>>())
}

/// Reads a file that arrives in these pieces.
pub(crate) fn forward<'f>(pieces: impl IntoIterator<Item = &'f [u8]>, grid: &Grid) -> Result<Story, Error> {
    let mut reader = ForwardReader::new(&Limits::default());
    let mut arrivals = Arrivals::new();
    let mut story = Vec::new();
    for piece in pieces {
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
            story.extend(part.map(|part| match part {
                PatchPart::Header(part) => format!("{part:?}"),
                PatchPart::Schema(part) | PatchPart::Layout(part) => format!("{part:?}"),
                PatchPart::Block(part) => block_story(&part),
                PatchPart::Index(part) => format!("{part:?}"),
                PatchPart::Trailer(part) => format!("{part:?}"),
                other => panic!("{other:?}"),
            }));
        }
    }
    reader.finish(arrivals.rest(reader.offset()))?;
    Ok(story)
}

/// Opens a file by its ends.
pub(crate) fn open(file: &[u8], grid: &Grid) -> Result<RandomAccess, Error> {
    let mut reader = RandomReader::new(file.len() as u64, &Limits::default());
    while let Need::Bytes(want) = reader.need() {
        reader.feed(cut(file, want))?;
    }
    reader.with_grid(grid.clone())
}

/// What a range request would give.
pub(crate) fn cut(file: &[u8], want: Want) -> &[u8] {
    let end = (want.end().min(file.len() as u64)) as usize;
    file.get(want.offset as usize..end).unwrap_or_default()
}

/// Reads all of a file by its ends, the blocks last to first.
pub(crate) fn random(file: &[u8], grid: &Grid) -> Result<Story, Error> {
    let access = open(file, grid)?;
    let mut blocks = Vec::new();
    for at in (0..access.index().blocks().len()).rev() {
        let want = access.block_want(at).unwrap();
        blocks.push(block_story(&access.block(at, cut(file, want))?.unwrap()));
    }
    let layout = access.layout(cut(file, access.layout_want()))?;
    let mut story = vec![format!("{:?}", access.header()), format!("{layout:?}")];
    story.extend(blocks.into_iter().rev());
    story.push(format!("{:?}", access.index()));
    story.push(format!("{:?}", access.trailer()));
    Ok(story)
}
