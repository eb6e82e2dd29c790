//! A patch that has been read and checked, and the same patch bound to a base.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self_cell::self_cell;
use tensorpatch_checkpoint::{CheckpointError, MappedFile, Placement};
use tensorpatch_codec::{ChunkContext, ChunkDecoder};
use tensorpatch_format::{
    self as format, ChunkAddress, ChunkRecord, ElementFormat, Error, Grid, Kind, Layout, LeafDigest,
    LeafHash, Limits, Listing, PatchView, Profile, Schema, StateDigest, TaggedStateDigest, TensorIndex,
    Trailer,
};

use crate::ApplyError;
use crate::packing::inflate;

/// A whole patch whose structure is sound: header, sections, checksums, index and trailer agree.
///
/// Whether its chunks decode, and to what, shows when it is applied. One that is [opened](Patch::open) holds
/// its file; one that is [parsed](Patch::parse) borrows the bytes.
///
/// ```
/// # use tensorpatch_delta::{Patch, diff};
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// # let write = |name: &str, weights: [u8; 4]| {
/// #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
/// #     std::fs::write(path(name), [&(header.len() as u64).to_le_bytes()[..], header, &weights].concat())
/// # };
/// # write("step-5", [1, 2, 3, 4])?;
/// # write("step-6", [1, 2, 3, 5])?;
/// # diff(path("step-5"), path("step-6"))?.write(path("step-6.tpatch"))?;
/// let patch = Patch::open(path("step-6.tpatch"))?;
/// let report = patch.apply(path("step-5"), path("rebuilt"))?;
/// assert_eq!((report.base, report.target), (patch.base_digest(), patch.target_digest()));
/// assert_eq!(std::fs::read(path("rebuilt"))?, std::fs::read(path("step-6"))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Patch<'a> {
    wire: Wire<'a>,
    schema: Option<Schema>,
    layout: Option<Layout>,
    /// Where it was opened, if it was.
    path: Option<PathBuf>,
}

/// The parts of a patch, in bytes that are borrowed or come along.
#[derive(Debug, Clone)]
enum Wire<'a> {
    Borrowed(Box<PatchView<'a>>),
    Owned(Arc<OwnedView>),
}

/// The bytes of a patch: mapped where they are a file, so that large ones take no memory.
#[derive(Debug)]
enum PatchBytes {
    Mapped(MappedFile),
    Read(Vec<u8>),
}

self_cell!(
    struct OwnedView {
        owner: PatchBytes,
        #[covariant]
        dependent: PatchView,
    }

    impl {Debug}
);

impl PatchBytes {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

impl Wire<'_> {
    fn view(&self) -> &PatchView<'_> {
        match self {
            Self::Borrowed(view) => view,
            Self::Owned(owned) => owned.borrow_dependent(),
        }
    }
}

impl Patch<'static> {
    /// Opens a patch file: maps a regular file into memory, and reads a pipe to its end. Allows what
    /// [`Limits::default`] does.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a patch, or not all of one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ApplyError> {
        Self::open_within(path, &Limits::default())
    }

    /// Opens a patch file as [`Patch::open`] does, within other limits.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a patch, not all of one, or asks for more than `limits` allow.
    pub fn open_within(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, ApplyError> {
        let path = path.as_ref();
        let bytes = if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            let failed = |source| CheckpointError::Io { action: "read", path: path.to_owned(), source };
            PatchBytes::Read(fs::read(path).map_err(failed)?)
        } else {
            PatchBytes::Mapped(MappedFile::open(path)?)
        };
        match Self::own(bytes, limits) {
            Ok(patch) => Ok(Self { path: Some(path.to_owned()), ..patch }),
            Err(source) => Err(ApplyError::PatchFile { path: path.to_owned(), source: Box::new(source) }),
        }
    }

    /// Keeps a patch file that is mapped already.
    ///
    /// # Errors
    /// As [`Patch::parse`].
    pub fn of_file(file: MappedFile, limits: &Limits) -> Result<Self, Error> {
        Self::own(PatchBytes::Mapped(file), limits)
    }

    /// Reads the bytes of a patch and keeps them.
    ///
    /// # Errors
    /// As [`Patch::parse`].
    pub fn from_vec(bytes: Vec<u8>, limits: &Limits) -> Result<Self, Error> {
        Self::own(PatchBytes::Read(bytes), limits)
    }

    fn own(bytes: PatchBytes, limits: &Limits) -> Result<Self, Error> {
        let wire = OwnedView::try_new(bytes, |bytes| PatchView::parse(bytes.bytes(), limits))?;
        Self::of_wire(Wire::Owned(Arc::new(wire)), limits)
    }
}

impl<'a> Patch<'a> {
    /// Reads the bytes of a patch file.
    ///
    /// # Errors
    /// If they are not a patch, not all of one, or ask for more than `limits` allow.
    pub fn parse(file: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        Self::of_wire(Wire::Borrowed(Box::new(PatchView::parse(file, limits)?)), limits)
    }

    fn of_wire(wire: Wire<'a>, limits: &Limits) -> Result<Self, Error> {
        let view = wire.view();
        let schema = match view.schema() {
            Listing::Same => None,
            Listing::Listed(packed) => Some(packed.schema(limits, inflate)?),
        };
        let layout = match view.layout() {
            Listing::Same => None,
            Listing::Listed(packed) => Some(packed.layout(limits, inflate)?),
        };
        if let Some(layout) = &layout {
            view.check_layout(layout.digest())?;
        }
        Ok(Self { wire, schema, layout, path: None })
    }

    /// The file that it was opened from, if it was.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What the patch does to a state.
    pub fn kind(&self) -> Kind {
        self.wire().header().kind
    }

    /// What a reader needs besides the patch.
    pub fn profile(&self) -> Profile {
        self.wire().header().profile
    }

    /// The hash over chunks.
    pub fn leaf_hash(&self) -> LeafHash {
        self.wire().header().leaf_hash
    }

    /// The digest of the base; [`StateDigest::NONE`] for a full patch.
    pub fn base_digest(&self) -> StateDigest {
        self.wire().trailer().ends.base_state
    }

    /// The digest of the target.
    pub fn target_digest(&self) -> StateDigest {
        self.wire().trailer().ends.target_state
    }

    /// The end of the file: what the patch is bound to.
    pub fn trailer(&self) -> &Trailer {
        self.wire().trailer()
    }

    /// The target's schema, if it stands in the patch; else it is the base's.
    pub fn listed_schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    /// The target's layout, if it stands in the patch; else it is the base's.
    pub fn listed_layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// The layout of the target over a base of the layout `base`, and whether it is the publisher's.
    ///
    /// A base that was sharded anew keeps its own layout where the patch says that the layout stays the same.
    pub fn layout_over<'l>(&'l self, base: &'l Layout) -> (&'l Layout, bool) {
        match &self.layout {
            Some(layout) => (layout, true),
            None => (base, base.digest() == self.wire().trailer().ends.base_layout),
        }
    }

    /// Where the tensors lie in files of `layout`, which is that of the target.
    pub(crate) fn placement(
        &self,
        schema: &Schema,
        layout: &Layout,
        limits: &Limits,
    ) -> Result<Placement, ApplyError> {
        Placement::new(schema, layout, limits).map_err(|source| match self.wire().layout() {
            Listing::Listed(packed) => {
                ApplyError::Layout { offset: packed.bytes_offset(), source: Box::new(source) }
            }
            Listing::Same => source.into(),
        })
    }

    /// The parts of the patch as they stand in the file.
    pub fn wire(&self) -> &PatchView<'_> {
        self.wire.view()
    }

    /// The patch as it applies to a base of the schema `base`, or to none.
    ///
    /// # Errors
    /// If it does not apply to such a base, or has a record where it must not, or none where it must have
    /// one.
    pub fn bind<'p>(&'p self, base: Option<&'p Schema>) -> Result<BoundPatch<'p>, ApplyError> {
        match (self.kind(), base) {
            (Kind::Full, Some(_)) => {
                return Err(ApplyError::Kind { found: Kind::Full, needed: "a patch with a base" });
            }
            (found @ (Kind::Delta | Kind::Empty), None) => {
                return Err(ApplyError::Kind { found, needed: "the base that it was made from" });
            }
            _ => {}
        }
        let Some(schema) = self.schema.as_ref().or(base) else {
            // A full patch lists its schema: the parser has seen to it.
            return Err(ApplyError::Kind { found: self.kind(), needed: "a patch with a schema" });
        };
        self.wire().check_grid(&Grid::new(schema, base))?;
        let index = self.wire().index();
        let records = self.wire().blocks().iter().flat_map(format::Block::records).enumerate();
        let records = records.filter_map(|(number, record)| Some((record, index.leaf(number)?))).collect();
        Ok(BoundPatch { patch: self, schema, records })
    }

    /// A digest with the leaf hash of the patch.
    pub(crate) fn tagged(&self, digest: StateDigest) -> TaggedStateDigest {
        TaggedStateDigest { leaf_hash: self.leaf_hash(), digest }
    }

    /// Refuses a base with another digest than the patch's.
    ///
    /// # Errors
    /// [`ApplyError::WrongBase`] if `found` is not [`Patch::base_digest`].
    pub fn check_base(&self, found: StateDigest) -> Result<(), ApplyError> {
        let expected = self.base_digest();
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (self.tagged(expected), self.tagged(found));
        Err(ApplyError::WrongBase { offset: self.trailer().base_state_offset(), expected, found })
    }
}

/// A patch whose records fit the target's grid.
#[derive(Debug)]
pub struct BoundPatch<'p> {
    patch: &'p Patch<'p>,
    schema: &'p Schema,
    /// In grid order, each with the digest that the index gives for its chunk.
    records: Vec<(ChunkRecord<'p>, LeafDigest)>,
}

impl<'p> BoundPatch<'p> {
    /// The schema of the target.
    pub fn schema(&self) -> &'p Schema {
        self.schema
    }

    /// The records in grid order, each with the digest of its chunk in the target.
    pub fn records(&self) -> &[(ChunkRecord<'p>, LeafDigest)] {
        &self.records
    }

    pub(crate) fn patch(&self) -> &'p Patch<'p> {
        self.patch
    }

    /// The records from the chunk `first` on.
    pub(crate) fn records_from(&self, first: Option<ChunkAddress>) -> &[(ChunkRecord<'p>, LeafDigest)] {
        let start =
            first.map_or(0, |first| self.records.partition_point(|(record, _)| record.address < first));
        self.records.get(start..).unwrap_or_default()
    }

    /// How the codec is to see the chunks of a tensor.
    pub(crate) fn context(&self, tensor: TensorIndex) -> ChunkContext {
        let format = self.schema.get(tensor).map_or(ElementFormat::W8, |spec| spec.dtype.element_format());
        ChunkContext { format, profile: self.patch.profile(), leaf_hash: self.patch.leaf_hash() }
    }

    /// Decodes a record over the base's chunk into `target`.
    pub(crate) fn decode(
        &self,
        decoder: &mut ChunkDecoder,
        record: &(ChunkRecord<'p>, LeafDigest),
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<LeafDigest, ApplyError> {
        let ChunkRecord { address, encoding, payload, .. } = record.0;
        let decoded = decoder.decode(self.context(address.tensor), encoding, payload, base, target);
        self.expect(record, decoded)
    }

    /// Decodes a record over `chunk`, which holds the base's.
    pub(crate) fn decode_in_place(
        &self,
        decoder: &mut ChunkDecoder,
        record: &(ChunkRecord<'p>, LeafDigest),
        chunk: &mut [u8],
    ) -> Result<LeafDigest, ApplyError> {
        let ChunkRecord { address, encoding, payload, .. } = record.0;
        let decoded = decoder.decode_in_place(self.context(address.tensor), encoding, payload, chunk);
        self.expect(record, decoded)
    }

    /// Decodes a record over the base's chunk into `target`, whatever digest the index gives for it: for a
    /// chunk that a later patch alters again.
    pub(crate) fn pass(
        &self,
        decoder: &mut ChunkDecoder,
        record: &(ChunkRecord<'p>, LeafDigest),
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<(), ApplyError> {
        let ChunkRecord { address, encoding, payload, .. } = record.0;
        let passed = decoder.pass(self.context(address.tensor), encoding, payload, base, target);
        passed.or_else(|error| self.expect(record, Err(error)).map(drop))
    }

    /// The same over `chunk`, which holds the base's.
    pub(crate) fn pass_in_place(
        &self,
        decoder: &mut ChunkDecoder,
        record: &(ChunkRecord<'p>, LeafDigest),
        chunk: &mut [u8],
    ) -> Result<(), ApplyError> {
        let ChunkRecord { address, encoding, payload, .. } = record.0;
        let passed = decoder.pass_in_place(self.context(address.tensor), encoding, payload, chunk);
        passed.or_else(|error| self.expect(record, Err(error)).map(drop))
    }

    /// Says that a record was decoded to the chunk that the index gives for it.
    fn expect(
        &self,
        (record, expected): &(ChunkRecord<'p>, LeafDigest),
        decoded: Result<LeafDigest, tensorpatch_codec::CodecError>,
    ) -> Result<LeafDigest, ApplyError> {
        let wire = self.patch.wire();
        let (offset, source) = match decoded {
            Ok(found) if found == *expected => return Ok(found),
            Ok(found) => {
                // Whatever the index has a leaf digest for has a place in it.
                let offset = wire.index().find(record.address).and_then(|number| wire.leaf_offset(number));
                (offset.unwrap_or(record.payload_offset), ChunkFault::Leaf { expected: *expected, found })
            }
            Err(error) => (record.payload_offset, ChunkFault::Payload(error)),
        };
        let tensor = self.schema.get(record.address.tensor).map(|spec| spec.name.clone()).unwrap_or_default();
        Err(ApplyError::Chunk { tensor, address: record.address, offset, source })
    }

    pub(crate) fn check_target(&self, found: StateDigest) -> Result<(), ApplyError> {
        let expected = self.patch.target_digest();
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (self.patch.tagged(expected), self.patch.tagged(found));
        let offset = self.patch.trailer().target_state_offset();
        Err(ApplyError::TargetMismatch { offset, expected, found })
    }
}

/// What is wrong with a chunk of a patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkFault {
    /// The payload does not decode.
    #[error(transparent)]
    Payload(#[from] tensorpatch_codec::CodecError),
    /// It decodes to another chunk than the index says.
    #[error("it has the digest {found:?} instead of {expected:?}")]
    Leaf {
        /// The digest in the index.
        expected: LeafDigest,
        /// The digest of what was decoded.
        found: LeafDigest,
    },
}

impl ChunkFault {
    /// What of the patch the fault is about.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Payload(_) => "payload",
            Self::Leaf { .. } => "leaf digest",
        }
    }
}
