//! The directory of a checkpoint: what of its files may be links, and where these may lead.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::confined::{Reached, reach};
use crate::{CheckpointError, ConfinedPath, FileKind, MappedFile, Misplaced};

/// The directory of a checkpoint, which is held open: whoever may write to it could exchange a file for a
/// link between being looked at and being read.
#[derive(Debug)]
pub(crate) struct Tree {
    root: ConfinedPath,
    /// Its path without links.
    path: PathBuf,
    /// The blobs of the model in the Hub's cache that it is a snapshot of.
    blobs: Option<PathBuf>,
}

impl Tree {
    pub(crate) fn open(directory: &Path) -> Result<Self, CheckpointError> {
        let failed = || CheckpointError::io("look at", directory);
        let root = ConfinedPath::root(directory).map_err(failed())?;
        let path = fs::canonicalize(directory).map_err(failed())?;
        let snapshots = path.ancestors().find(|path| path.file_name() == Some(OsStr::new("snapshots")));
        let model = snapshots.and_then(Path::parent).filter(|model| is_model(model));
        let blobs = model.map(|model| model.join("blobs"));
        Ok(Self { root, path, blobs })
    }

    pub(crate) fn root(&self) -> &ConfinedPath {
        &self.root
    }

    /// Maps a file of weights, or the index.
    pub(crate) fn map(&self, name: &str) -> Result<MappedFile, CheckpointError> {
        MappedFile::of_open(&self.root.join(name).path(), &self.open_file(name)?)
    }

    /// Opens a file of weights, or the index.
    pub(crate) fn open_file(&self, name: &str) -> Result<File, CheckpointError> {
        self.find_file(name).map(|(file, _)| file)
    }

    /// The blobs that weights are links to, if they may be.
    pub(crate) fn linked_blobs(&self, name: &str) -> Option<PathBuf> {
        let (_, target) = self.find_file(name).ok()?;
        blobs_of(&target?).map(Path::to_owned)
    }

    /// Opens a file of weights; beside it where it lies, if it is a link.
    fn find_file(&self, name: &str) -> Result<(File, Option<PathBuf>), CheckpointError> {
        let place = self.root.join(name);
        let path = place.path();
        let error = match place.open() {
            Ok(file) => return Ok((file, None)),
            Err(error) => error,
        };
        match Misplaced::of(&error) {
            Some(Misplaced { found: FileKind::Link, .. }) => {}
            Some(_) => return Err(CheckpointError::NotAFile { path }),
            None => return Err(CheckpointError::io("open", &path)(error)),
        }
        let reached = match reach(&self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(CheckpointError::NotAFile { path });
            }
            reached => reached.map_err(CheckpointError::io("open", &path))?,
        };
        let is_trusted = reached.is_trusted().map_err(CheckpointError::io("look at", &path))?;
        let Reached { file, path: target, .. } = reached;
        if is_trusted || self.is_own(&target) {
            return Ok((file, Some(target)));
        }
        Err(CheckpointError::ForeignLink { path, target })
    }

    /// Whether a path without links is in the checkpoint, or a blob of its model.
    fn is_own(&self, target: &Path) -> bool {
        target.starts_with(&self.path) || self.is_blob(target)
    }

    fn is_blob(&self, target: &Path) -> bool {
        self.blobs.is_some() && blobs_of(target) == self.blobs.as_deref()
    }

    /// Where the link `name`, which leads to `target`, may be read without following any, if that is part of
    /// the checkpoint: a file in it, a blob of its model, or one of `blobs`, if the link is to be trusted.
    pub(crate) fn part(
        &self,
        name: &str,
        target: &Path,
        blobs: &[PathBuf],
    ) -> io::Result<Option<ConfinedPath>> {
        if let Ok(below) = target.strip_prefix(&self.path) {
            return Ok(Some(self.root.join(below)));
        }
        let is_linked = blobs_of(target).is_some_and(|of| blobs.iter().any(|blobs| blobs == of));
        let is_part = self.is_blob(target) || (is_linked && reach(&self.path.join(name))?.is_trusted()?);
        if !is_part {
            return Ok(None);
        }
        let below = target.strip_prefix("/").unwrap_or(target);
        ConfinedPath::root(Path::new("/")).map(|top| Some(top.join(below)))
    }
}

/// The directory of a path without links, if that is one of blobs in the Hub's cache:
/// `…/models--OWNER--NAME/blobs/DIGEST`.
fn blobs_of(target: &Path) -> Option<&Path> {
    let is_blobs = |path: &&Path| path.file_name() == Some(OsStr::new("blobs"));
    target.parent().filter(is_blobs).filter(|blobs| blobs.parent().is_some_and(is_model))
}

fn is_model(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"))
}
