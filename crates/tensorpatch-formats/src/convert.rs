//! From any of these formats to any other that can be written, by way of the target's checkpoint.

use std::borrow::Cow;
use std::path::Path;

use tensorpatch_checkpoint::{Checkpoint, CheckpointWriter, Form, Placement, Places, Role, generate_layout};
use tensorpatch_delta::{ApplyError, LeafTable, Options, Patch, Progress, State, apply_full, apply_to};
use tensorpatch_format::{Kind, Layout, LeafHash, Schema, TaggedStateDigest, TensorIndex, TensorSpec};

use crate::checksum::StateChecksum;
use crate::index_delta::{DeltaEncoding, Dialect};
use crate::source::Full;
use crate::trl::Flavour;
use crate::{ChecksumKind, Delta, DeltaFiles, Format, FormatsError, Needed, Verified, write};

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum To {
    /// The target as a checkpoint. The name of a file ends in `.safetensors`.
    Checkpoint,
    /// A patch of tensorpatch: a full one if there is no base.
    Patch,
    /// An index-delta directory.
    IndexDelta {
        /// Who is to read it.
        dialect: Dialect,
        /// How changes are written. ModelExpress reads [`DeltaEncoding::Xor`] alone.
        encoding: DeltaEncoding,
        /// The kind of the checksums. ModelExpress reads [`ChecksumKind::Adler32`] alone.
        checksum: ChecksumKind,
        /// Bytes of tensors, not compressed, after which another file is begun.
        file_bytes: u64,
    },
    /// A file of TRL: an anchor if there is no base.
    Trl(Flavour),
}

impl To {
    /// An index-delta directory for the readers of `dialect`, with the choices of their own writers.
    pub fn index_delta(dialect: Dialect) -> Self {
        let checksum = match dialect {
            Dialect::Numbered => ChecksumKind::Xxh3,
            Dialect::ModelExpress => ChecksumKind::Adler32,
        };
        Self::IndexDelta { dialect, encoding: DeltaEncoding::Xor, checksum, file_bytes: 4 << 30 }
    }
}

/// Choices of a conversion.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// What to write.
    pub to: To,
    /// The version that the target has; that of the source if none is given and it has one.
    pub version: Option<String>,
    /// The version that the base has; that of the source if none is given and it has one.
    pub base_version: Option<String>,
    /// The digest that the base must have. Formats that do not name their base cannot tell otherwise that it
    /// is the right one.
    pub base_digest: Option<TaggedStateDigest>,
    /// Threads, limits, and what patches are made with.
    pub delta: Options,
}

impl ConvertOptions {
    /// The usual choices for writing `to`.
    pub fn new(to: To) -> Self {
        Self { to, version: None, base_version: None, base_digest: None, delta: Options::default() }
    }

    /// The same with these versions of target and base.
    #[must_use]
    pub fn with_versions(mut self, version: impl Into<String>, base_version: impl Into<String>) -> Self {
        (self.version, self.base_version) = (Some(version.into()), Some(base_version.into()));
        self
    }

    /// The same with a digest that the base must have.
    #[must_use]
    pub fn with_base_digest(mut self, digest: TaggedStateDigest) -> Self {
        self.base_digest = Some(digest);
        self
    }

    /// The same with other options for patches.
    #[must_use]
    pub fn with_delta(mut self, delta: Options) -> Self {
        self.delta = delta;
        self
    }
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What the source was.
    pub source: Format,
    /// The version that the source gives.
    pub source_version: Option<String>,
    /// The version that the source gives for its base.
    pub source_base_version: Option<String>,
    /// How much of the target the source vouches for.
    pub verified: Verified,
    /// The digest of the base, if there is one.
    pub base: Option<TaggedStateDigest>,
    /// The digest of the target.
    pub target: TaggedStateDigest,
    /// Tensors whose bytes differ from the base's; all of them if there is no base.
    pub changed_tensors: u64,
    /// Files written.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What the reader of the result should know.
    pub notes: Vec<Note>,
}

/// Something about a conversion that is no error, but must not go untold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Nothing changed, and the format has no file for that.
    NothingWritten,
    /// The files of the target are laid out otherwise than those of the base, and the format carries tensors
    /// only.
    LayoutLost,
    /// The checkpoint has a layout of its own: that of the base says things that are true of the base alone.
    LayoutReplaced,
    /// The checksum misses some changes of three bytes.
    WeakChecksum,
    /// Nothing in the source says whether the base is the right one, and no digest was given.
    BaseUnchecked,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NothingWritten => "nothing changed, and this format has no file for that: nothing is written",
            Self::LayoutLost => {
                "the files of the target are laid out otherwise than the base's; this format carries tensors, not layouts"
            }
            Self::LayoutReplaced => {
                "the base's files say things that are true of the base alone; the target is one plain file"
            }
            Self::WeakChecksum => "adler32 misses some changes of three bytes",
            Self::BaseUnchecked => {
                "the source does not say which base it was made from, and no digest of the base was given to compare"
            }
        })
    }
}

/// Reads what is at `source` (a delta of any format of this crate, a checkpoint, a TRL anchor or a patch) and
/// writes the version that it makes of the checkpoint at `base` to `dest`.
///
/// The target is made first, one tensor at a time, and held against every checksum that the source has; only
/// then is anything written, beside `dest`, and renamed into place. Deltas of other projects need a base. A
/// checkpoint as source, with a base, is encoded as the change from one to the other.
///
/// # Errors
/// If the source breaks a rule of its format or does not fit the base, the format to be written cannot
/// express the change, a version is needed and not given, or something cannot be read or written. Then there
/// is nothing at `dest` that was not there before.
///
/// ```
/// use tensorpatch_formats::{ConvertOptions, Flavour, Format, To, Verified, convert};
/// # use std::path::Path;
/// # fn checkpoint(path: &Path, weights: [u8; 4]) -> std::io::Result<()> {
/// #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
/// #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
/// #     file.extend(header);
/// #     file.extend(weights);
/// #     std::fs::write(path, file)
/// # }
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// # checkpoint(&path("old.safetensors"), [1, 2, 3, 4])?;
/// # checkpoint(&path("new.safetensors"), [1, 2, 3, 5])?;
///
/// // A file as TRL sends it ...
/// let (old, new) = (path("old.safetensors"), path("new.safetensors"));
/// let sent = path("step_000002.safetensors");
/// let options = ConvertOptions::new(To::Trl(Flavour::A)).with_versions("2", "1");
/// convert(&new, Some(&old), &sent, &options)?;
///
/// // ... as a patch.
/// let report = convert(&sent, Some(&old), &path("step.tpatch"), &ConvertOptions::new(To::Patch))?;
/// assert_eq!((report.source, report.verified), (Format::TrlDelta, Verified::State));
/// assert_eq!(report.changed_tensors, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn convert(
    source: &Path,
    base: Option<&Path>,
    dest: &Path,
    options: &ConvertOptions,
) -> Result<Report, FormatsError> {
    let limits = &options.delta.limits;
    let format = Format::detect(source, limits)?;
    let places = Places::default().read(Role::Source, source).altered(Role::Output, dest);
    base.iter().fold(places, |places, base| places.read(Role::Base, *base)).check()?;
    let base = base.map(|path| open_base(path, options)).transpose()?;
    let staging = write::staging(dest)?;
    let staged = staging.path().join("target.safetensors");
    let Made { target, version, base_version, verified } =
        make_target(source, format, base.as_ref(), &staged, options)?;

    let versions = write::Versions {
        version: options.version.as_deref().or(version.as_deref()),
        base: options.base_version.as_deref().or(base_version.as_deref()),
    };
    let from = base.as_ref().map(|base| &base.checkpoint);
    let written = match options.to {
        To::Checkpoint => write::checkpoint(&target, from, dest, limits)?,
        To::Patch => write::patch(&target, from, dest, &options.delta)?,
        To::IndexDelta { dialect, encoding, checksum, file_bytes } => {
            let style = write::IndexDeltaStyle { dialect, encoding, checksum, file_bytes };
            write::index_delta(&target, from, dest, &staging, &style, &versions)?
        }
        To::Trl(flavour) => write::trl(&target, from, dest, flavour, &versions, limits)?,
    };

    let mut notes = Vec::new();
    let is_delta = !matches!(format, Format::Checkpoint | Format::TrlAnchor | Format::Patch);
    let carries_layout = matches!(options.to, To::Checkpoint | To::Patch);
    if is_delta && verified != Verified::State && options.base_digest.is_none() {
        notes.push(Note::BaseUnchecked);
    }
    if is_delta && carries_layout && base.as_ref().is_some_and(|base| base.of_version) {
        notes.push(Note::LayoutReplaced);
    }
    if !is_delta && !carries_layout && from.is_some_and(|from| from.layout() != target.layout()) {
        notes.push(Note::LayoutLost);
    }
    if matches!(options.to, To::IndexDelta { checksum: ChecksumKind::Adler32, .. }) {
        notes.push(Note::WeakChecksum);
    }
    if written.files == 0 {
        notes.push(Note::NothingWritten);
    }
    Ok(Report {
        source: format,
        source_version: version,
        source_base_version: base_version,
        verified,
        base: from.map(|from| digest(from, options.delta.leaf_hash, options)).transpose()?,
        target: digest(&target, options.delta.leaf_hash, options)?,
        changed_tensors: changed(from, &target).len() as u64,
        files: written.files,
        bytes: written.bytes,
        notes,
    })
}

/// The target of a source, and what the source says of it.
struct Made {
    target: Checkpoint,
    version: Option<String>,
    base_version: Option<String>,
    verified: Verified,
}

/// Opens the target if it is the source itself, else makes it at `staged`.
fn make_target(
    source: &Path,
    format: Format,
    base: Option<&Full>,
    staged: &Path,
    options: &ConvertOptions,
) -> Result<Made, FormatsError> {
    let limits = &options.delta.limits;
    match format {
        Format::Checkpoint | Format::TrlAnchor => {
            let Full { checkpoint, version, verified, .. } = Full::open(source, limits)?;
            Ok(Made { target: checkpoint, version, base_version: None, verified })
        }
        Format::Patch => {
            let patch = Patch::open_within(source, limits)?;
            apply(&patch, base.map(|base| &base.checkpoint), staged, options)?;
            let target = Checkpoint::open(staged, limits)?;
            Ok(Made { target, version: None, base_version: None, verified: Verified::State })
        }
        _ => {
            let base = base.ok_or_else(|| FormatsError::Unsaid {
                what: "a delta of another project needs a base".to_owned(),
                needed: Needed::Base,
            })?;
            let files = DeltaFiles::open(source, format, limits)?;
            let delta = files.parse(base.checkpoint.schema(), limits)?;
            apply_delta(source, base, &delta, staged, options)?;
            let (version, base_version) = delta.versions();
            let target = Checkpoint::open(staged, limits)?;
            Ok(Made { target, version, base_version, verified: delta.verified() })
        }
    }
}

fn open_base(path: &Path, options: &ConvertOptions) -> Result<Full, FormatsError> {
    if !matches!(Format::detect(path, &options.delta.limits)?, Format::Checkpoint | Format::TrlAnchor) {
        let found = "the base must be a checkpoint, this is a delta";
        return Err(FormatsError::Unknown { path: path.to_owned(), found });
    }
    let base = Full::open(path, &options.delta.limits)?;
    if let Some(expected) = options.base_digest {
        let found = digest(&base.checkpoint, expected.leaf_hash, options)?;
        if found != expected {
            return Err(FormatsError::WrongBase { expected, found });
        }
    }
    Ok(base)
}

fn digest(
    checkpoint: &Checkpoint,
    leaf_hash: LeafHash,
    options: &ConvertOptions,
) -> Result<TaggedStateDigest, FormatsError> {
    let leaves = LeafTable::of(&State::of(checkpoint)?, leaf_hash, options.delta.threads, Progress::none());
    let leaves = leaves.map_err(ApplyError::from)?;
    Ok(TaggedStateDigest { leaf_hash, digest: leaves.state_digest(checkpoint.schema()) })
}

/// Writes the target of a patch to `staged`.
fn apply(
    patch: &Patch<'_>,
    base: Option<&Checkpoint>,
    staged: &Path,
    options: &ConvertOptions,
) -> Result<(), FormatsError> {
    // One that holds the whole target takes no base, though the result may be a change from one.
    match base.filter(|_| patch.kind() != Kind::Full) {
        Some(base) => {
            let form = write::form(patch.layout_over(base.layout()).0);
            apply_to(base, patch, staged, form, &options.delta, Progress::none())?
        }
        None => {
            let form = patch.listed_layout().map_or(Form::File, write::form);
            apply_full(patch, staged, form, &options.delta, Progress::none())?
        }
    };
    Ok(())
}

/// Writes the checkpoint that `delta` makes of `base` to `staged`, one tensor at a time.
fn apply_delta(
    source: &Path,
    base: &Full,
    delta: &Delta<'_>,
    staged: &Path,
    options: &ConvertOptions,
) -> Result<(), FormatsError> {
    let checkpoint = &base.checkpoint;
    let schema = checkpoint.schema();
    let layout =
        if base.of_version { Cow::Owned(plain_layout(schema)?) } else { Cow::Borrowed(checkpoint.layout()) };
    let placement = Placement::new(schema, &layout, &options.delta.limits)?;
    let form = write::form(&layout);
    let writer = CheckpointWriter::create(staged, form, schema, &layout, &placement)?;
    let mut checksum = delta.state_checksum().map(|_| StateChecksum::default());
    for (index, spec, old) in tensors(checkpoint) {
        let new = delta.apply(spec, old).map_err(FormatsError::delta(source))?;
        let bytes = new.as_deref().unwrap_or(old);
        writer.write(index, 0, bytes)?;
        if let Some(checksum) = &mut checksum {
            checksum.update(bytes);
        }
    }
    if let (Some(checksum), Some(expected)) = (checksum, delta.state_checksum()) {
        checksum.check(expected).map_err(|violation| FormatsError::delta(source)(violation.into()))?;
    }
    if form == Form::Directory {
        let companions = checkpoint.companions(&[])?.carried;
        companions.iter().try_for_each(|companion| writer.copy_companion(companion))?;
    }
    Ok(writer.commit()?)
}

fn plain_layout(schema: &Schema) -> Result<Layout, FormatsError> {
    generate_layout(schema).map_err(|error| FormatsError::CannotExpress {
        format: "safetensors",
        tensor: None,
        what: error.to_string(),
    })
}

/// The tensors of a checkpoint with their bytes.
pub(crate) fn tensors(checkpoint: &Checkpoint) -> impl Iterator<Item = (TensorIndex, &TensorSpec, &[u8])> {
    let specs = (0..).map(TensorIndex).zip(checkpoint.schema().tensors());
    specs.filter_map(|(index, spec)| Some((index, spec, checkpoint.tensor(index)?)))
}

/// The tensors of `target` that `base` does not have with the same bytes.
pub(crate) fn changed<'t>(
    base: Option<&Checkpoint>,
    target: &'t Checkpoint,
) -> Vec<(&'t TensorSpec, &'t [u8])> {
    let same = |spec: &TensorSpec, new: &[u8]| {
        let base = base?;
        let index = base.schema().find(&spec.name)?;
        Some(base.schema().get(index)? == spec && base.tensor(index)? == new)
    };
    tensors(target)
        .filter(|(_, spec, new)| same(spec, new) != Some(true))
        .map(|(_, spec, new)| (spec, new))
        .collect()
}
