//! The 192 bytes that a patch ends with (section 8).

use crate::bytes::Reader;
use crate::header::check_crc;
use crate::{Error, Kind, LayoutDigest, PatchHeader, SchemaDigest, StateDigest, Violation};

const END_MAGIC: [u8; 8] = *b"\nhctapt\x89";

/// The states, schema and layouts that a patch is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The state that the patch was made from; [`StateDigest::NONE`] in a full patch.
    pub base_state: StateDigest,
    /// The state that it makes.
    pub target_state: StateDigest,
    /// The schema of the target.
    pub target_schema: SchemaDigest,
    /// The layout of the base; [`LayoutDigest::NONE`] in a full patch.
    pub base_layout: LayoutDigest,
    /// The layout of the target.
    pub target_layout: LayoutDigest,
}

/// The last part of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trailer {
    /// What the patch is bound to.
    pub ends: Ends,
    /// Where the INDEX section starts.
    pub index_offset: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
}

/// A rule between the ends of a patch that they break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndsFault {
    /// Where the field stands in the trailer.
    pub(crate) at: u64,
    pub(crate) field: &'static str,
    pub(crate) message: &'static str,
}

impl Ends {
    /// Checks the ends against the kind of the patch and against its layout mode.
    pub(crate) fn check(&self, kind: Kind, same_layout: bool) -> Result<(), EndsFault> {
        let fault = |at, field, message| Err(EndsFault { at, field, message });
        match kind {
            Kind::Full if self.base_state != StateDigest::NONE => {
                fault(0, "base state digest", "a full patch has no base")
            }
            Kind::Full if self.base_layout != LayoutDigest::NONE => {
                fault(96, "base layout digest", "a full patch has no base")
            }
            Kind::Delta if self.target_state == self.base_state => {
                fault(32, "target state digest", "a delta whose target is its base")
            }
            Kind::Empty if self.target_state != self.base_state => {
                fault(32, "target state digest", "an empty patch whose target is not its base")
            }
            _ if same_layout && self.target_layout != self.base_layout => {
                fault(128, "target layout digest", "the layout is said to be the base's and is not")
            }
            _ => Ok(()),
        }
    }
}

impl Trailer {
    /// Bytes of a trailer.
    pub const LEN: usize = 192;

    pub(crate) fn new(ends: Ends, index_offset: u64, file_len: u64) -> Self {
        Self { ends, index_offset, file_len }
    }

    /// The bytes of the trailer of a patch with this header.
    pub fn to_bytes(&self, header: &PatchHeader) -> [u8; Self::LEN] {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(self.ends.base_state.as_bytes());
        out.extend_from_slice(self.ends.target_state.as_bytes());
        out.extend_from_slice(self.ends.target_schema.as_bytes());
        out.extend_from_slice(self.ends.base_layout.as_bytes());
        out.extend_from_slice(self.ends.target_layout.as_bytes());
        out.extend_from_slice(&self.index_offset.to_le_bytes());
        out.extend_from_slice(&self.file_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = trailer_crc(header, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&END_MAGIC);
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads the trailer that starts at `offset` of a file with this header. Whether the digests agree with
    /// the kind and the sections is checked later.
    ///
    /// # Errors
    /// As section 8 says.
    pub fn from_bytes(bytes: &[u8; Self::LEN], offset: u64, header: &PatchHeader) -> Result<Self, Error> {
        let at = |field: u64| offset.saturating_add(field);
        let mut end = Reader::new(bytes.split_at(180).1, at(180));
        let crc = end.u32("crc")?;
        if end.rest() != END_MAGIC {
            return Err(Error::new(Violation::NoTrailer, "end magic", at(184)));
        }
        check_crc(crc, trailer_crc(header, bytes.split_at(180).0), at(180))?;

        let mut reader = Reader::new(bytes, offset);
        let ends = Ends {
            base_state: StateDigest::from_bytes(reader.array("base state digest")?),
            target_state: StateDigest::from_bytes(reader.array("target state digest")?),
            target_schema: SchemaDigest::from_bytes(reader.array("target schema digest")?),
            base_layout: LayoutDigest::from_bytes(reader.array("base layout digest")?),
            target_layout: LayoutDigest::from_bytes(reader.array("target layout digest")?),
        };
        let index_offset = reader.u64("index offset")?;
        let file_len = reader.u64("file length")?;
        reader.reserved(4, "reserved")?;
        let expected = at(Self::LEN as u64);
        if file_len != expected {
            let message = format!("{file_len}, but the trailer ends at {expected}");
            return Err(Error::invalid(message, "file length", at(168)));
        }
        Ok(Self { ends, index_offset, file_len })
    }
}

impl Trailer {
    /// Where the trailer starts.
    pub fn offset(&self) -> u64 {
        self.file_len.saturating_sub(Self::LEN as u64)
    }

    /// Where the base state digest stands.
    pub fn base_state_offset(&self) -> u64 {
        self.offset()
    }

    /// Where the target state digest stands.
    pub fn target_state_offset(&self) -> u64 {
        self.offset().saturating_add(32)
    }

    /// Checks the digests against the kind of the patch and its layout mode.
    pub(crate) fn check_ends(&self, header: &PatchHeader, same_layout: bool) -> Result<(), Error> {
        let ends = self.ends.check(header.kind, same_layout);
        ends.map_err(|fault| {
            Error::invalid(fault.message, fault.field, self.offset().saturating_add(fault.at))
        })
    }

    /// Checks the schema of the target: in a patch with a listed schema that schema, in another one the
    /// base's.
    ///
    /// # Errors
    /// If it is not the schema that the patch is bound to.
    pub fn check_schema(&self, found: SchemaDigest, is_listed: bool) -> Result<(), Error> {
        let (expected, at) = (self.ends.target_schema, self.offset().saturating_add(64));
        if found == expected {
            return Ok(());
        }
        if is_listed {
            let message = format!("{expected}, but that of the listed schema is {found}");
            return Err(Error::invalid(message, "target schema digest", at));
        }
        Err(Error::new(Violation::WrongBase { expected, found }, "target schema digest", at))
    }

    /// Checks a listed layout.
    ///
    /// # Errors
    /// If it is not the layout that the patch is bound to.
    pub fn check_layout(&self, found: LayoutDigest) -> Result<(), Error> {
        let expected = self.ends.target_layout;
        if found == expected {
            return Ok(());
        }
        let message = format!("{expected}, but that of the listed layout is {found}");
        Err(Error::invalid(message, "target layout digest", self.offset().saturating_add(128)))
    }
}

fn trailer_crc(header: &PatchHeader, fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // Without its own checksum: over bytes that end with their CRC32, the CRC32 is the same whatever they
    // are.
    let bytes = header.to_bytes();
    hasher.update(bytes.split_at(PatchHeader::LEN - 4).0);
    hasher.update(fields);
    hasher.finalize()
}
