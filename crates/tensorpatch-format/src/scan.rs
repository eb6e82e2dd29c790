//! One pass over the parts of a patch, from the header to the trailer (section 5).

use crate::index::Contents;
use crate::{
    Block, Error, Index, Kind, Limits, Listing, PatchHeader, SectionHead, SectionKind, Trailer, Violation,
};

/// The bytes of a patch that a reader needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Where they start in the file.
    pub offset: u64,
    /// How many they are.
    pub len: u64,
}

impl Want {
    /// Where they end in the file.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// The wanted bytes at the start of `bytes`, which begin at the wanted offset.
    pub(crate) fn cut<'a>(&self, bytes: &'a [u8], field: &'static str) -> Result<&'a [u8], Error> {
        let wanted = usize::try_from(self.len).ok().and_then(|len| bytes.get(..len));
        wanted.ok_or_else(|| {
            let needed = self.len.saturating_sub(bytes.len() as u64);
            Error::new(Violation::Truncated { needed }, field, self.offset)
        })
    }

    /// The same for a part of fixed size, of which [`len`](Self::len) must be.
    pub(crate) fn cut_array<'a, const N: usize>(
        &self,
        bytes: &'a [u8],
        field: &'static str,
    ) -> Result<&'a [u8; N], Error> {
        bytes.first_chunk().ok_or_else(|| {
            let needed = (N as u64).saturating_sub(bytes.len() as u64);
            Error::new(Violation::Truncated { needed }, field, self.offset)
        })
    }
}

/// A part of a patch, as it comes by.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PatchPart<'a> {
    /// The header.
    Header(PatchHeader),
    /// The SCHEMA section.
    Schema(Listing<'a>),
    /// The LAYOUT section. If it lists one, its digest is for [`Trailer::check_layout`] to check.
    Layout(Listing<'a>),
    /// A BLOCK section.
    Block(Block<'a>),
    /// The INDEX section.
    Index(Index),
    /// The trailer; nothing follows.
    Trailer(Trailer),
}

/// Reads parts one after the other and checks all that needs neither decompression nor a schema. A failed
/// step changes nothing, so the same bytes, fetched again, may be fed once more.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    limits: Limits,
    offset: u64,
    body: Option<Body>,
}

/// What is known once the header has been read.
#[derive(Debug, Clone)]
struct Body {
    header: PatchHeader,
    next: Next,
    /// What the blocks so far hold, for the index to agree with.
    seen: Contents,
    listed_schema: bool,
    listed_layout: bool,
    index_offset: u64,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Head(Due),
    Payload(SectionHead, Due),
    Trailer,
    Nothing,
}

/// The section that must come now, ancillary ones aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Schema,
    Layout,
    BlockOrIndex,
}

impl Scanner {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), offset: 0, body: None }
    }

    pub(crate) fn header(&self) -> Option<&PatchHeader> {
        self.body.as_ref().map(|body| &body.header)
    }

    /// How far the file has been read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the INDEX section starts, once it has been read.
    pub(crate) fn index_offset(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.index_offset)
    }

    /// What must be fed next, or `None` after the trailer.
    pub(crate) fn want(&self) -> Option<Want> {
        let len = match self.body.as_ref().map(|body| body.next) {
            None => PatchHeader::LEN as u64,
            Some(Next::Head(_)) => SectionHead::LEN as u64,
            Some(Next::Payload(head, _)) => head.payload_len,
            Some(Next::Trailer) => Trailer::LEN as u64,
            Some(Next::Nothing) => return None,
        };
        Some(Want { offset: self.offset, len })
    }

    /// Takes what [`want`](Self::want) asks for, off the start of `bytes`.
    pub(crate) fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<PatchPart<'a>>, Error> {
        let Some(want) = self.want() else {
            return self.nothing_follows(bytes).map(|()| None);
        };
        let part = match &mut self.body {
            None => {
                let header = PatchHeader::from_bytes(bytes)?;
                self.body = Some(Body::new(header));
                Some(PatchPart::Header(header))
            }
            Some(body) => body.feed(want, bytes, &self.limits)?,
        };
        self.offset = want.end();
        Ok(part)
    }

    /// Says that the file ends with the trailer.
    pub(crate) fn nothing_follows(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("bytes after the trailer", "file length", self.offset))
    }
}

impl Body {
    fn new(header: PatchHeader) -> Self {
        Self {
            header,
            next: Next::Head(Due::Schema),
            seen: Contents::default(),
            listed_schema: false,
            listed_layout: false,
            index_offset: 0,
        }
    }

    fn feed<'a>(
        &mut self,
        want: Want,
        bytes: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<PatchPart<'a>>, Error> {
        match self.next {
            Next::Head(due) => {
                let head = self.head(&want, bytes, due, limits)?;
                self.next = Next::Payload(head, due);
                Ok(None)
            }
            Next::Payload(head, due) => self.payload(&head, due, want.cut(bytes, head.kind.name())?, limits),
            Next::Trailer => {
                let trailer = self.trailer(&want, bytes)?;
                self.next = Next::Nothing;
                Ok(Some(PatchPart::Trailer(trailer)))
            }
            Next::Nothing => Ok(None),
        }
    }

    fn head(&self, want: &Want, bytes: &[u8], due: Due, limits: &Limits) -> Result<SectionHead, Error> {
        let head = SectionHead::from_bytes(want.cut_array(bytes, "section head")?, want.offset, limits)?;
        if !due.allows(head.kind) {
            let message = format!("{} where {} is due", head.kind.name(), due.name());
            return Err(Error::invalid(message, "type", want.offset));
        }
        if head.kind == SectionKind::Block && self.header.kind == Kind::Empty {
            return Err(Error::invalid("an empty patch with a block", "type", want.offset));
        }
        Ok(head)
    }

    fn payload<'a>(
        &mut self,
        head: &SectionHead,
        due: Due,
        payload: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<PatchPart<'a>>, Error> {
        head.check_crc(payload)?;
        let at = head.payload_offset();
        let (next, part) = match head.kind {
            SectionKind::Ancillary(_) => (Next::Head(due), None),
            SectionKind::Schema => {
                let schema = Listing::schema(payload, at, limits, self.header.kind)?;
                self.listed_schema = schema.is_listed();
                (Next::Head(Due::Layout), Some(PatchPart::Schema(schema)))
            }
            SectionKind::Layout => {
                let layout = Listing::layout(payload, at, limits, self.header.kind, self.listed_schema)?;
                self.listed_layout = layout.is_listed();
                (Next::Head(Due::BlockOrIndex), Some(PatchPart::Layout(layout)))
            }
            SectionKind::Block => {
                let block = Block::parse(head, payload)?;
                self.seen.push(&block);
                (Next::Head(due), Some(PatchPart::Block(block)))
            }
            SectionKind::Index => {
                let index = Index::parse(head, payload, self.header.leaf_hash, limits, Some(&self.seen))?;
                self.index_offset = head.offset;
                (Next::Trailer, Some(PatchPart::Index(index)))
            }
        };
        self.next = next;
        Ok(part)
    }

    fn trailer(&self, want: &Want, bytes: &[u8]) -> Result<Trailer, Error> {
        let trailer = Trailer::from_bytes(want.cut_array(bytes, "trailer")?, want.offset, &self.header)?;
        if trailer.index_offset != self.index_offset {
            let message = format!("{}, but the index is at {}", trailer.index_offset, self.index_offset);
            return Err(Error::invalid(message, "index offset", want.offset.saturating_add(160)));
        }
        trailer.check_ends(&self.header, !self.listed_layout)?;
        Ok(trailer)
    }
}

impl Due {
    fn allows(self, kind: SectionKind) -> bool {
        match kind {
            SectionKind::Ancillary(_) => true,
            SectionKind::Schema => self == Self::Schema,
            SectionKind::Layout => self == Self::Layout,
            SectionKind::Block | SectionKind::Index => self == Self::BlockOrIndex,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Schema => "SCHEMA",
            Self::Layout => "LAYOUT",
            Self::BlockOrIndex => "BLOCK or INDEX",
        }
    }
}
