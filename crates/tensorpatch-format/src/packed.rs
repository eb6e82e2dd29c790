//! Schemas and layouts as they stand in a patch: not at all, plain, or compressed (sections 7.1 to 7.3).

use std::fmt;

use crate::bytes::{Reader, put_varint};
use crate::header::code;
use crate::{Error, Kind, Layout, LimitKind, Limits, Schema, Violation};

/// The payload of a SCHEMA or LAYOUT section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing<'a> {
    /// The target has the base's.
    Same,
    /// The target's own.
    Listed(Packed<'a>),
}

/// How the bytes of a packed block are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// As they are.
    Plain,
    /// As one zstd frame.
    Zstd,
}

/// Canonical bytes of a schema or layout, maybe compressed. This crate does not decompress: whoever reads a
/// patch passes a function that does.
///
/// ```
/// use tensorpatch_format::{Limits, Packed, Schema};
///
/// let schema = Schema::new(Vec::new())?;
/// let bytes = schema.to_bytes();
/// let no_zstd = |_frame: &[u8], _len: usize| Err("not compressed");
/// assert_eq!(Packed::plain(&bytes).schema(&Limits::default(), no_zstd)?, schema);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed<'a> {
    packing: Packing,
    raw_len: u64,
    bytes: &'a [u8],
    offset: u64,
}

impl Packing {
    const fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl<'a> Packed<'a> {
    /// These bytes as they are.
    pub const fn plain(bytes: &'a [u8]) -> Self {
        Self { packing: Packing::Plain, raw_len: bytes.len() as u64, bytes, offset: 0 }
    }

    /// A zstd frame that decodes to `raw_len` bytes.
    pub const fn zstd(frame: &'a [u8], raw_len: u64) -> Self {
        Self { packing: Packing::Zstd, raw_len, bytes: frame, offset: 0 }
    }

    /// How the bytes are stored.
    pub const fn packing(&self) -> Packing {
        self.packing
    }

    /// The number of bytes once unpacked.
    pub const fn raw_len(&self) -> u64 {
        self.raw_len
    }

    /// The bytes as they are stored.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn parse(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, Error> {
        let offset = reader.offset();
        let packing = code(reader, "packing", Packing::from_code)?;
        let at = reader.offset();
        let raw_len = reader.varint("raw_len")?;
        limits.check(LimitKind::MetadataBytes, raw_len, "raw_len", at)?;
        let bytes = reader.take(reader.remaining(), "packed bytes")?;
        if packing == Packing::Plain && bytes.len() as u64 != raw_len {
            let message = format!("{raw_len} bytes are declared and {} are there", bytes.len());
            return Err(Error::invalid(message, "raw_len", at));
        }
        Ok(Self { packing, raw_len, bytes, offset })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.packing.code());
        put_varint(out, self.raw_len);
        out.extend_from_slice(self.bytes);
    }

    /// The schema in here. `inflate` gets a zstd frame and the length it must decode to, already checked
    /// against the limits; it must decode one whole frame and never allocate more.
    ///
    /// # Errors
    /// If `inflate` fails, or what it returns is not a schema.
    pub fn schema<E: fmt::Display>(
        &self,
        limits: &Limits,
        inflate: impl FnOnce(&[u8], usize) -> Result<Vec<u8>, E>,
    ) -> Result<Schema, Error> {
        self.read(inflate, |bytes, offset| Schema::from_bytes(bytes, offset, limits))
    }

    /// The layout in here; like [`schema`](Self::schema).
    ///
    /// # Errors
    /// If `inflate` fails, or what it returns is not a layout.
    pub fn layout<E: fmt::Display>(
        &self,
        limits: &Limits,
        inflate: impl FnOnce(&[u8], usize) -> Result<Vec<u8>, E>,
    ) -> Result<Layout, Error> {
        self.read(inflate, |bytes, offset| Layout::from_bytes(bytes, offset, limits))
    }

    fn read<T, E: fmt::Display>(
        &self,
        inflate: impl FnOnce(&[u8], usize) -> Result<Vec<u8>, E>,
        read: impl FnOnce(&[u8], u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let at = self.bytes_offset();
        let raw = match self.packing {
            Packing::Plain => return read(self.bytes, at),
            Packing::Zstd => self.inflate(inflate)?,
        };
        // Nothing in the unpacked bytes has an offset in the file; the frame has.
        read(&raw, 0).map_err(|error| Error { offset: at, ..error })
    }

    fn inflate<E: fmt::Display>(
        &self,
        inflate: impl FnOnce(&[u8], usize) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, Error> {
        let at = self.bytes_offset();
        let len = usize::try_from(self.raw_len).map_err(|_| {
            let (kind, limit) = (LimitKind::MetadataBytes, usize::MAX as u64);
            Error::new(Violation::Limit { kind, value: self.raw_len, limit }, "raw_len", self.offset)
        })?;
        let raw = inflate(self.bytes, len)
            .map_err(|e| Error::invalid(format!("the zstd frame is broken: {e}"), "packed bytes", at))?;
        if raw.len() != len {
            let message = format!("the zstd frame holds {} bytes, not the {len} declared", raw.len());
            return Err(Error::invalid(message, "packed bytes", at));
        }
        Ok(raw)
    }

    /// Where the stored bytes start in the file: after the packing and the length.
    pub fn bytes_offset(&self) -> u64 {
        let mut head = vec![self.packing.code()];
        put_varint(&mut head, self.raw_len);
        self.offset.saturating_add(head.len() as u64)
    }
}

impl<'a> Listing<'a> {
    /// Whether the target has its own.
    pub const fn is_listed(&self) -> bool {
        matches!(self, Self::Listed(_))
    }

    /// Reads the payload of the SCHEMA section of a patch of `kind`.
    pub(crate) fn schema(payload: &'a [u8], offset: u64, limits: &Limits, kind: Kind) -> Result<Self, Error> {
        let schema = Self::parse(payload, offset, limits)?;
        check_schema_mode(kind, schema.is_listed())
            .map_err(|message| Error::invalid(message, "mode", offset))?;
        Ok(schema)
    }

    /// Reads the payload of the LAYOUT section of a patch of `kind`.
    pub(crate) fn layout(
        payload: &'a [u8],
        offset: u64,
        limits: &Limits,
        kind: Kind,
        listed_schema: bool,
    ) -> Result<Self, Error> {
        let layout = Self::parse(payload, offset, limits)?;
        check_layout_mode(kind, listed_schema, layout.is_listed())
            .map_err(|message| Error::invalid(message, "mode", offset))?;
        Ok(layout)
    }

    fn parse(payload: &'a [u8], offset: u64, limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(payload, offset);
        match code(&mut reader, "mode", |code| (code < 2).then_some(code == 1))? {
            true => Packed::parse(&mut reader, limits).map(Self::Listed),
            false => reader.finish("mode").map(|()| Self::Same),
        }
    }

    pub(crate) fn to_payload(self) -> Vec<u8> {
        match self {
            Self::Same => vec![0],
            Self::Listed(packed) => {
                let mut out = vec![1];
                packed.put(&mut out);
                out
            }
        }
    }
}

/// Which schema modes a patch of `kind` may have.
pub(crate) fn check_schema_mode(kind: Kind, listed: bool) -> Result<(), &'static str> {
    match (kind, listed) {
        (Kind::Full, false) => Err("a full patch has no base to take the schema from"),
        (Kind::Empty, true) => Err("an empty patch cannot change the schema"),
        _ => Ok(()),
    }
}

/// Which layout modes a patch of `kind` may have.
pub(crate) fn check_layout_mode(kind: Kind, listed_schema: bool, listed: bool) -> Result<(), &'static str> {
    match (kind, listed_schema, listed) {
        (_, _, true) => Ok(()),
        (Kind::Full, _, false) => Err("a full patch has no base to take the layout from"),
        (_, true, false) => Err("a listed schema needs a listed layout"),
        (_, false, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, ErrorClass, TensorSpec};

    fn schema() -> Schema {
        Schema::new(vec![TensorSpec::new("a", Dtype::new("U8").unwrap(), vec![3]).unwrap()]).unwrap()
    }

    fn parse(payload: &[u8]) -> Result<Listing<'_>, Error> {
        Listing::parse(payload, 500, &Limits { metadata_bytes: 100, ..Limits::default() })
    }

    fn refused(payload: &[u8]) -> (ErrorClass, &'static str, u64) {
        let error = parse(payload).unwrap_err();
        (error.class(), error.field, error.offset)
    }

    #[test]
    fn a_plain_schema_round_trips() {
        let bytes = schema().to_bytes();
        let payload = Listing::Listed(Packed::plain(&bytes)).to_payload();
        let Listing::Listed(packed) = parse(&payload).unwrap() else { panic!("not listed") };
        let read = packed.schema(&Limits::default(), |_, _| -> Result<_, String> { panic!("not packed") });
        assert_eq!(read.unwrap(), schema());
        assert_eq!(parse(&Listing::Same.to_payload()).unwrap(), Listing::Same);
    }

    #[test]
    fn modes_packings_and_lengths_that_are_not_known_are_refused() {
        assert_eq!(refused(&[]), (ErrorClass::Invalid, "mode", 500));
        assert_eq!(refused(&[2]), (ErrorClass::Invalid, "mode", 500));
        assert_eq!(refused(&[0, 0]), (ErrorClass::Invalid, "mode", 501));
        assert_eq!(refused(&[1]), (ErrorClass::Invalid, "packing", 501));
        assert_eq!(refused(&[1, 2, 0]), (ErrorClass::Invalid, "packing", 501));
        assert_eq!(refused(&[1, 1]), (ErrorClass::Invalid, "raw_len", 502));
        assert_eq!(refused(&[1, 0, 2, 7]), (ErrorClass::Invalid, "raw_len", 502));
        assert_eq!(refused(&[1, 1, 101]), (ErrorClass::Limit, "raw_len", 502));
    }

    #[test]
    fn errors_in_a_plain_schema_have_their_own_offset_and_in_a_compressed_one_the_frame_s() {
        let mut bytes = schema().to_bytes();
        bytes.push(0);
        let limits = Limits::default();
        let plain = Listing::Listed(Packed::plain(&bytes)).to_payload();
        let Listing::Listed(packed) = parse(&plain).unwrap() else { panic!("not listed") };
        let error = packed.schema(&limits, |_, _| Err("")).unwrap_err();
        assert_eq!(error.offset, 503 + bytes.len() as u64 - 1);

        let zstd = Listing::Listed(Packed::zstd(b"frame", bytes.len() as u64)).to_payload();
        let Listing::Listed(packed) = parse(&zstd).unwrap() else { panic!("not listed") };
        let error = packed.schema(&limits, |_, _| Ok::<_, String>(bytes.clone())).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, 503));
        let error = packed.schema(&limits, |_, _| Ok::<_, String>(vec![])).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, 503));
        let error = packed.layout(&limits, |_, _| Err("no frame")).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Invalid, 503));
        assert!(error.to_string().contains("no frame"), "{error}");
    }

    #[test]
    fn a_frame_that_holds_a_schema_of_another_length_is_refused() {
        let bytes = schema().to_bytes();
        for raw_len in [bytes.len() as u64 - 1, bytes.len() as u64 + 1] {
            let packed = Packed::zstd(b"frame", raw_len);
            let error = packed.schema(&Limits::default(), |_, _| Ok::<_, String>(bytes.clone())).unwrap_err();
            assert!(error.to_string().contains("not the"), "{error}");
        }
    }

    #[test]
    fn modes_that_the_kind_does_not_allow_are_refused() {
        let (same, listed) = (false, true);
        assert!(check_schema_mode(Kind::Full, same).is_err());
        assert!(check_schema_mode(Kind::Empty, listed).is_err());
        assert!(check_schema_mode(Kind::Delta, listed).is_ok());
        assert!(check_layout_mode(Kind::Full, listed, same).is_err());
        assert!(check_layout_mode(Kind::Delta, listed, same).is_err());
        assert!(check_layout_mode(Kind::Delta, same, same).is_ok());
        assert!(check_layout_mode(Kind::Empty, same, listed).is_ok());
    }
}
