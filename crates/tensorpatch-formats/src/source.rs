//! What lies at a path, and deltas opened from there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, CheckpointError, MappedFile, SafetensorsHeader};
use tensorpatch_format::{
    self as format, ErrorClass, Layout, LimitKind, Limits, Schema, TensorIndex, TensorSpec,
};

use crate::checksum::StateChecksum;
use crate::index_delta::{Index, IndexDelta, IndexKind};
use crate::{
    Fault, FormatsError, GrailDelta, NemoRlDelta, SkyRlDelta, TensorDelta, Violation, frame, nemo_rl, skyrl,
    trl,
};

/// What a file or directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A safetensors checkpoint: a file, or a directory.
    Checkpoint,
    /// A patch of tensorpatch.
    Patch,
    /// An index-delta directory.
    IndexDelta,
    /// An anchor of TRL: a checkpoint that says so.
    TrlAnchor,
    /// A delta of TRL.
    TrlDelta,
    /// A delta directory of SkyRL.
    SkyRl,
    /// A payload of NeMo RL in three parts.
    NemoRl,
    /// A delta of grail.
    Grail,
}

impl Format {
    /// A short stable name, for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Patch => "patch",
            Self::IndexDelta => "index-delta",
            Self::TrlAnchor => "trl-anchor",
            Self::TrlDelta => "trl-delta",
            Self::SkyRl => "skyrl",
            Self::NemoRl => "nemo-rl",
            Self::Grail => "grail",
        }
    }

    /// Finds out what is at `path`.
    ///
    /// A directory of safetensors files without an index is not taken for a full checkpoint, as some readers
    /// take it: the index is written last, so that this is a delta of which the end is missing.
    ///
    /// # Errors
    /// If nothing is there, it is none of these, could be several, or its index or header is broken.
    pub fn detect(path: &Path, limits: &Limits) -> Result<Self, FormatsError> {
        let metadata = fs::metadata(path).map_err(FormatsError::io("open", path))?;
        if metadata.is_dir() { detect_directory(path, limits) } else { detect_file(path, limits) }
    }
}

fn detect_directory(path: &Path, limits: &Limits) -> Result<Format, FormatsError> {
    let unknown = |found| FormatsError::Unknown { path: path.to_owned(), found };
    // Beside weights, a manifest is a companion of any kind.
    let marks = [Layout::INDEX_FILE, Layout::SINGLE_FILE, skyrl::MANIFEST, nemo_rl::LOCATIONS];
    match marks.map(|name| path.join(name).exists()) {
        [true, ..] => {
            let index = MappedFile::open(&path.join(Layout::INDEX_FILE))?;
            let parsed = Index::parse(index.bytes(), limits);
            match parsed.map_err(|fault| FormatsError::delta(path)(fault.in_file(Layout::INDEX_FILE)))? {
                IndexKind::Full(_) => Ok(Format::Checkpoint),
                IndexKind::Delta(_) => Ok(Format::IndexDelta),
            }
        }
        [_, true, ..] => Ok(Format::Checkpoint),
        [_, _, true, false] => Ok(Format::SkyRl),
        [_, _, false, true] => Ok(Format::NemoRl),
        [_, _, true, true] => Err(unknown("a directory of two formats at once")),
        [_, _, false, false] => Err(unknown(
            "neither a checkpoint nor a delta; if files of a delta are here, its index is missing",
        )),
    }
}

fn detect_file(path: &Path, limits: &Limits) -> Result<Format, FormatsError> {
    let file = MappedFile::open(path)?;
    let not_a_patch = |error: format::Error| error.class() == ErrorClass::NotAPatch;
    if !file.bytes().is_empty() && !format::PatchHeader::from_bytes(file.bytes()).is_err_and(not_a_patch) {
        return Ok(Format::Patch);
    }
    if frame::is_frame(file.bytes()) {
        return Ok(Format::Grail);
    }
    let header = SafetensorsHeader::parse(file.bytes(), limits)
        .map_err(|source| CheckpointError::Header { path: path.to_owned(), source })?;
    if !header.metadata().is_some_and(trl::is_patch) {
        return Ok(Format::Checkpoint);
    }
    match trl::Patch::parse(file.bytes(), limits).map_err(FormatsError::delta(path))? {
        trl::Patch::Anchor(_) => Ok(Format::TrlAnchor),
        trl::Patch::Delta(_) => Ok(Format::TrlDelta),
    }
}

/// The files of a delta, mapped.
#[derive(Debug)]
pub struct DeltaFiles {
    path: PathBuf,
    format: Format,
    /// By their names in the directory; the one file of a delta that is a file has none.
    files: BTreeMap<String, MappedFile>,
}

impl DeltaFiles {
    /// Opens the delta at `path`, which [`Format::detect`] has found to be of `format`.
    ///
    /// # Errors
    /// If it is no delta, a file is missing, or one is there that the delta does not name.
    pub fn open(path: &Path, format: Format, limits: &Limits) -> Result<Self, FormatsError> {
        let mut opened = Self { path: path.to_owned(), format, files: BTreeMap::new() };
        match format {
            Format::IndexDelta => {
                let files = opened.index(limits)?.files().into_iter().map(str::to_owned).collect::<Vec<_>>();
                opened.open_all(&files)?;
            }
            Format::SkyRl => {
                let files = opened.manifest(limits)?.files().to_vec();
                opened.open_all(&files)?;
            }
            Format::NemoRl => {
                let names = opened.names()?;
                let parts = names.into_iter().filter(|name| nemo_rl::value_group(name).is_some());
                let parts =
                    [nemo_rl::LOCATIONS, nemo_rl::METADATA].map(str::to_owned).into_iter().chain(parts);
                let parts: Vec<_> = parts.collect();
                let limited = Violation::limit(LimitKind::Files, parts.len() as u64, limits.files);
                limited.map_err(|violation| opened.refuse(violation.into()))?;
                parts.iter().try_for_each(|name| opened.add(name))?;
            }
            Format::TrlDelta | Format::Grail => {
                opened.files.insert(String::new(), MappedFile::open(path)?);
            }
            Format::Checkpoint | Format::TrlAnchor | Format::Patch => {
                return Err(FormatsError::Unknown {
                    path: path.to_owned(),
                    found: "not a delta of another project",
                });
            }
        }
        Ok(opened)
    }

    /// Maps the files that a delta names, and says that the directory has no others.
    fn open_all(&mut self, listed: &[String]) -> Result<(), FormatsError> {
        listed.iter().try_for_each(|name| self.add(name))?;
        let names = self.names()?;
        let stray = names.iter().find(|name| name.ends_with(".safetensors") && !listed.contains(name));
        match stray {
            Some(name) => {
                let violation = Violation::differs("file", "one that the index names", name);
                Err(self.refuse(Fault::from(violation).in_file(name)))
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, name: &str) -> Result<(), FormatsError> {
        let path = self.path.join(name);
        if fs::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(self.refuse(Fault::from(Violation::Missing("the file")).in_file(name)));
        }
        self.files.insert(name.to_owned(), MappedFile::open(&path)?);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, FormatsError> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let names = fs::read_dir(&self.path).and_then(|entries| entries.map(name).collect());
        names.map_err(FormatsError::io("list", &self.path))
    }

    fn refuse(&self, fault: Fault) -> FormatsError {
        FormatsError::delta(&self.path)(fault)
    }

    fn index(&self, limits: &Limits) -> Result<Index, FormatsError> {
        let file = MappedFile::open(&self.path.join(Layout::INDEX_FILE))?;
        let kind = Index::parse(file.bytes(), limits);
        match kind.map_err(|fault| self.refuse(fault.in_file(Layout::INDEX_FILE)))? {
            IndexKind::Delta(index) => Ok(index),
            IndexKind::Full(_) => Err(self.refuse(Violation::Missing("delta_encoding").into())),
        }
    }

    fn manifest(&self, limits: &Limits) -> Result<skyrl::Manifest, FormatsError> {
        let file = MappedFile::open(&self.path.join(skyrl::MANIFEST))?;
        skyrl::Manifest::parse(file.bytes(), limits).map_err(|fault| self.refuse(fault))
    }

    /// Reads the delta as one from a state of the schema `base`.
    ///
    /// # Errors
    /// If it breaks a rule of its format, changes a tensor that `base` does not have, or asks for more than
    /// `limits` allow.
    pub fn parse(&self, base: &Schema, limits: &Limits) -> Result<Delta<'_>, FormatsError> {
        let files: Vec<_> = self.files.iter().map(|(name, file)| (name.as_str(), file.bytes())).collect();
        let bytes = |name: &str| self.files.get(name).map_or(&[][..], MappedFile::bytes);
        let delta = match self.format {
            Format::IndexDelta => {
                IndexDelta::parse(self.index(limits)?, &files, limits).map(Delta::IndexDelta)
            }
            Format::SkyRl => SkyRlDelta::parse(self.manifest(limits)?, &files, limits).map(Delta::SkyRl),
            Format::NemoRl => {
                let mut values = BTreeMap::new();
                for (name, bytes) in &files {
                    if let Some(group) = nemo_rl::value_group(name)
                        && values.insert(group, *bytes).is_some()
                    {
                        let fault = Fault::from(Violation::Twice("the group of values"));
                        return Err(self.refuse(fault.in_file(name)));
                    }
                }
                let (metadata, locations) = (bytes(nemo_rl::METADATA), bytes(nemo_rl::LOCATIONS));
                NemoRlDelta::parse(metadata, locations, values, limits).map(Delta::NemoRl)
            }
            Format::Grail => GrailDelta::parse(bytes(""), base.state_bytes(), limits).map(Delta::Grail),
            _ => match trl::Patch::parse(bytes(""), limits) {
                Ok(trl::Patch::Delta(delta)) => Ok(Delta::Trl(delta)),
                Ok(trl::Patch::Anchor(_)) => Err(Violation::Missing("sparse").into()),
                Err(fault) => Err(fault),
            },
        };
        let delta = delta.map_err(|fault| self.refuse(fault))?;
        match delta.tensors().into_iter().find(|tensor| base.find(tensor).is_none()) {
            Some(tensor) => Err(self.refuse(Violation::NotInBase.of(tensor))),
            None => Ok(delta),
        }
    }
}

/// A delta of any format, its parts checked against each other.
#[derive(Debug)]
pub enum Delta<'a> {
    /// An index-delta directory.
    IndexDelta(IndexDelta<'a>),
    /// A delta of TRL.
    Trl(Box<trl::Delta<'a>>),
    /// A delta directory of SkyRL.
    SkyRl(SkyRlDelta<'a>),
    /// A payload of NeMo RL.
    NemoRl(NemoRlDelta<'a>),
    /// A delta of grail.
    Grail(GrailDelta),
}

/// How much of a target a delta can vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The whole state: a digest or checksum covers every tensor.
    State,
    /// The tensors that change: a fault in another one of the base is not noticed.
    ChangedTensors,
    /// Nothing: on another base the result is wrong without a word.
    Nothing,
}

impl Verified {
    /// A short stable name, for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::ChangedTensors => "changed-tensors",
            Self::Nothing => "nothing",
        }
    }
}

impl Delta<'_> {
    /// The tensors that change.
    pub fn tensors(&self) -> Vec<&str> {
        match self {
            Self::IndexDelta(delta) => delta.tensors().collect(),
            Self::Trl(delta) => delta.tensors().collect(),
            Self::SkyRl(delta) => delta.tensors().collect(),
            Self::NemoRl(delta) => delta.tensors().collect(),
            Self::Grail(delta) => delta.tensors().collect(),
        }
    }

    /// The change of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// If what the delta holds cannot be a change of the tensor.
    pub fn decode(&self, spec: &TensorSpec) -> Result<Option<TensorDelta<'_>>, Fault> {
        match self {
            Self::IndexDelta(delta) => delta.decode(spec),
            Self::Trl(delta) => delta.decode(spec),
            Self::SkyRl(delta) => delta.decode(spec),
            Self::NemoRl(delta) => delta.decode(spec),
            Self::Grail(delta) => delta.decode(spec),
        }
    }

    /// The new bytes of a tensor of the base, or `None` if it keeps its bytes.
    ///
    /// # Errors
    /// As [`Delta::decode`] and [`TensorDelta::apply`].
    pub fn apply(&self, spec: &TensorSpec, base: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Some(change) = self.decode(spec)? else { return Ok(None) };
        let file = match self {
            Self::IndexDelta(delta) => delta.file_of(&spec.name),
            _ => "",
        };
        change.apply(base).map(Some).map_err(|violation| violation.of(&spec.name).in_file(file))
    }

    /// The version, and the version that this is a delta from, as far as the delta says.
    pub fn versions(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::IndexDelta(delta) => {
                let index = delta.index();
                (Some(index.version.clone()), Some(index.base_version.clone()))
            }
            Self::Trl(delta) => {
                (Some(delta.model_version.to_string()), delta.base_version.map(|base| base.to_string()))
            }
            Self::SkyRl(delta) => {
                let (version, base) = delta.manifest().versions();
                (Some(version.to_string()), Some(base.to_string()))
            }
            Self::NemoRl(_) | Self::Grail(_) => (None, None),
        }
    }

    /// How much of the target is verified when this is applied.
    pub fn verified(&self) -> Verified {
        match self {
            Self::IndexDelta(_) | Self::SkyRl(_) => Verified::ChangedTensors,
            Self::Trl(delta) if delta.checksum.is_some() => Verified::State,
            Self::Trl(_) | Self::NemoRl(_) | Self::Grail(_) => Verified::Nothing,
        }
    }

    /// What SHA-256 over all tensors of the target must give.
    pub(crate) fn state_checksum(&self) -> Option<&str> {
        match self {
            Self::Trl(delta) => delta.checksum.as_deref(),
            _ => None,
        }
    }
}

/// A checkpoint, opened, and held against the checksums of TRL or ModelExpress if it has them.
#[derive(Debug)]
pub(crate) struct Full {
    pub(crate) checkpoint: Checkpoint,
    /// The version that a TRL anchor gives.
    pub(crate) version: Option<String>,
    pub(crate) verified: Verified,
    /// Whether the files say things that are true of this version alone.
    pub(crate) of_version: bool,
}

impl Full {
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, FormatsError> {
        let checkpoint = tensorpatch_delta::open_settled(path, limits)?;
        let mut full = Self { checkpoint, version: None, verified: Verified::Nothing, of_version: false };
        full.verify(limits).map_err(FormatsError::delta(path))?;
        Ok(full)
    }

    fn verify(&mut self, limits: &Limits) -> Result<(), Fault> {
        let layout = self.checkpoint.layout();
        let kind = match layout.index().map(|index| Index::parse(index, limits)).transpose()? {
            Some(IndexKind::Full(kind)) => kind,
            Some(IndexKind::Delta(_)) => {
                return Err(Violation::differs("index", "a full checkpoint", "a delta").into());
            }
            None => None,
        };
        for file in layout.files() {
            let header = SafetensorsHeader::parse(&file.header, limits)
                .map_err(|error| Fault::from(error).in_file(&file.name))?;
            let Some(metadata) = header.metadata() else { continue };
            if trl::is_patch(metadata) {
                return self.verify_anchor(metadata);
            }
            for (spec, _) in header.tensors() {
                let checksum = metadata.get(&spec.name);
                if let Some(kind) = kind {
                    let checksum = checksum.ok_or(Violation::Missing("the checksum"));
                    let bytes = self.tensor(&spec.name);
                    let checked = checksum.and_then(|checksum| kind.check(bytes, checksum));
                    checked.map_err(|violation| violation.of(&spec.name).in_file(&file.name))?;
                } else if checksum.is_some() && spec.dtype.as_str() == "U8" && spec.shape.len() == 1 {
                    // A delta whose index is missing looks like this.
                    let violation = Violation::Missing("the index of what looks like a delta");
                    return Err(violation.of(&spec.name).in_file(&file.name));
                }
            }
        }
        if kind.is_some() {
            (self.verified, self.of_version) = (Verified::State, true);
        }
        Ok(())
    }

    fn verify_anchor(&mut self, metadata: &BTreeMap<String, String>) -> Result<(), Fault> {
        self.of_version = true;
        self.version = metadata.get("model_version").cloned();
        let Some(expected) = metadata.get("checksum_sha256") else { return Ok(()) };
        let mut checksum = StateChecksum::default();
        self.checkpoint.tensors().iter().for_each(|tensor| checksum.update(tensor));
        checksum.check(expected)?;
        self.verified = Verified::State;
        Ok(())
    }

    fn tensor(&self, name: &str) -> &[u8] {
        let index = self.checkpoint.schema().find(name).unwrap_or(TensorIndex(u32::MAX));
        self.checkpoint.tensor(index).unwrap_or_default()
    }
}
