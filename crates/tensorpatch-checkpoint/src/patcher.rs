//! Writing into the files of an existing checkpoint.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use tensorpatch_format::{FileLayout, Layout, TensorIndex};

use crate::error::Obstacle;
use crate::map::FileIdentity;
use crate::patch_lock::PatchLock;
use crate::sync::{SYNCED_AT_ONCE, Written, sync_all, syncing_behind};
use crate::{Checkpoint, CheckpointError, ConfinedPath, FileKind, Found, Placement};

/// Writes into the files of an existing checkpoint, at given positions of its tensors.
///
/// There is no undo: a crash leaves whatever was written. Callers keep a journal.
///
/// The files are opened and checked before anything can be written: symbolic links, files with several names
/// (hard links) and read-only files are refused, because others may share their bytes (in the Hugging Face
/// cache a checkpoint is a directory of links). So are files of other users, root aside, and files that every
/// user may write to, because others could alter them afterwards; and files that are not those that were
/// opened.
///
/// Until it is dropped, the patcher holds a lock for each file, so that a second one is told: of a file of
/// its own that only its owner can open, as whoever may read the weights could hold a lock on these for ever.
///
/// The [`Checkpoint`] that it is made from shows the old or the new bytes of what is written, in any mixture.
/// Drop it first, or at least hold none of its slices across a write; [`CheckpointPatcher::read`] reads
/// through the files.
#[derive(Debug)]
pub struct CheckpointPatcher {
    placement: Placement,
    /// In the order of the layout.
    files: Vec<Written>,
    /// Held until it is dropped.
    locks: Vec<PatchLock>,
}

impl CheckpointPatcher {
    /// Opens the files of `checkpoint` for writing. The locks lie in the directory `locks`, which is to be
    /// the same for all who alter the files; `None` is for callers who keep others away themselves.
    ///
    /// # Errors
    /// [`CheckpointError::NotInPlace`] if a file must not be written in place; or if the operating system
    /// refuses.
    pub fn open(checkpoint: &Checkpoint, locks: Option<&ConfinedPath>) -> Result<Self, CheckpointError> {
        Self::of(checkpoint.placement(), checkpoint.file_identities(), locks)
    }

    fn of<P: AsRef<Path>>(
        placement: &Placement,
        files: impl Iterator<Item = (P, FileIdentity)>,
        locks: Option<&ConfinedPath>,
    ) -> Result<Self, CheckpointError> {
        let mut patcher = Self { placement: placement.clone(), files: Vec::new(), locks: Vec::new() };
        for (path, identity) in files {
            let path = path.as_ref();
            let file = open_for_writing(path, identity)?;
            if let Some(locks) = locks {
                let lock = PatchLock::acquire(locks, identity);
                let lock = lock.map_err(CheckpointError::io("lock", path))?;
                let busy = || CheckpointError::NotInPlace { path: path.to_owned(), obstacle: Obstacle::Busy };
                patcher.locks.push(lock.ok_or_else(busy)?);
            }
            patcher.files.push(Written::new(path.to_owned(), file));
        }
        Ok(patcher)
    }

    /// Opens the files of `layout` at `path` for writing, whatever their headers say now: for going on where
    /// an earlier patcher was interrupted, maybe in the middle of a header.
    ///
    /// # Errors
    /// As [`CheckpointPatcher::open`]; [`CheckpointError::Header`] if a file has not the length that
    /// `placement` gives it, [`CheckpointError::NeedsDirectory`] if `path` is a file and the layout is that
    /// of a directory, [`CheckpointError::OtherPlacement`] if `placement` is that of another layout; also if
    /// a file is missing.
    pub fn resume(
        path: &Path,
        layout: &Layout,
        placement: &Placement,
        locks: Option<&ConfinedPath>,
    ) -> Result<Self, CheckpointError> {
        let is_directory = placement.check_form(path, layout)?;
        let look = |(file, extent): (usize, &FileLayout)| {
            let path = if is_directory { path.join(&extent.name) } else { path.to_owned() };
            let metadata = fs::metadata(&path).map_err(CheckpointError::io("look at", &path))?;
            placement
                .check_file_len(file, metadata.len())
                .map_err(|source| CheckpointError::Header { path: path.clone(), source })?;
            Ok((path, FileIdentity::of(&metadata)))
        };
        let files = layout.files().iter().enumerate().map(look).collect::<Result<Vec<_>, _>>()?;
        Self::of(placement, files.into_iter(), locks)
    }

    /// The file and the position in it of `len` bytes at `offset` of a tensor.
    fn locate(&self, tensor: TensorIndex, offset: u64, len: u64) -> Result<(&Written, u64), CheckpointError> {
        let (file, position) = self.placement.locate_write(tensor, offset, len)?;
        match self.files.get(file) {
            Some(file) => Ok((file, position)),
            None => Err(CheckpointError::OutOfRange { tensor, offset, len, tensor_len: None }),
        }
    }

    /// Fills `bytes` from `offset` of a tensor.
    ///
    /// # Errors
    /// [`CheckpointError::OutOfRange`] if the tensor does not have all of these bytes, or if the operating
    /// system refuses.
    pub fn read(&self, tensor: TensorIndex, offset: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let (Written { file, path, .. }, position) = self.locate(tensor, offset, bytes.len() as u64)?;
        file.read_exact_at(bytes, position).map_err(CheckpointError::io("read", path))
    }

    /// Writes `bytes` at `offset` of a tensor. Any number of threads may write at once.
    ///
    /// # Errors
    /// [`CheckpointError::OutOfRange`] if the tensor does not have all of these bytes, or if the operating
    /// system refuses.
    pub fn write(&self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (file, position) = self.locate(tensor, offset, bytes.len() as u64)?;
        file.write(bytes, position)
    }

    /// Replaces the header of a file, given by its place in the layout, by one of the same length: for a
    /// layout that differs only in what `__metadata__` says. Tensors stay where this patcher found them.
    ///
    /// # Errors
    /// [`CheckpointError::HeaderReplaced`] if the header has another length, or if the operating system
    /// refuses.
    pub fn write_header(&self, file: usize, header: &[u8]) -> Result<(), CheckpointError> {
        let found = header.len() as u64;
        match self.files.get(file) {
            Some(written) if self.placement.header_len(file) == found => written.write(header, 0),
            other => {
                let path = other.map(|written| written.path.clone()).unwrap_or_default();
                let expected = other.map(|_| self.placement.header_len(file));
                Err(CheckpointError::HeaderReplaced { path, expected, found })
            }
        }
    }

    /// Does `work`, which writes through this patcher, and puts what it has written on the disk while it goes
    /// on, so that [`CheckpointPatcher::sync`] finds little left to do.
    ///
    /// # Errors
    /// Of `work`, or if the operating system refuses to put something on the disk.
    pub fn syncing_behind<T, E: From<CheckpointError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        syncing_behind(&self.files, |_| SYNCED_AT_ONCE, work)
    }

    /// The same for files that were just made, a file at a time and only once all of it was written again:
    /// what is not on the disk yet would get there twice.
    ///
    /// # Errors
    /// As [`CheckpointPatcher::syncing_behind`].
    pub fn syncing_files_behind<T, E: From<CheckpointError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let tensors = |file| {
            let header = self.placement.header_len(file);
            self.placement.file_len(file).saturating_sub(header).max(1)
        };
        syncing_behind(&self.files, tensors, work)
    }

    /// Returns when everything written so far is on disk.
    ///
    /// # Errors
    /// If the operating system refuses; what was written since the last sync may then be lost.
    pub fn sync(&self) -> Result<(), CheckpointError> {
        sync_all(&self.files, File::sync_data)
    }
}

fn open_for_writing(path: &Path, identity: FileIdentity) -> Result<File, CheckpointError> {
    let refuse = |obstacle| CheckpointError::NotInPlace { path: path.to_owned(), obstacle };
    let place = ConfinedPath::of(path).map_err(CheckpointError::io("look at", path))?;
    match place.find().map_err(CheckpointError::io("look at", path))? {
        Some(Found { kind: FileKind::Link, .. }) => return Err(refuse(Obstacle::Symlink)),
        // Asked of the mode, not left to the kernel, which lets root write to anything.
        Some(found) if found.mode & 0o222 == 0 => return Err(refuse(Obstacle::ReadOnly)),
        _ => {}
    }
    let file = place.open_to_alter().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => refuse(Obstacle::ReadOnly),
        _ => CheckpointError::io("open for writing", path)(error),
    })?;
    let metadata = file.metadata().map_err(CheckpointError::io("look at", path))?;
    if FileIdentity::of(&metadata) != identity {
        return Err(refuse(Obstacle::Replaced));
    }
    if metadata.nlink() > 1 {
        return Err(refuse(Obstacle::HardLinks(metadata.nlink())));
    }
    // Who made it may keep a way to write to it, whatever becomes of its mode and of its directory.
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(refuse(Obstacle::OtherOwner(owner)));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refuse(Obstacle::OthersWrite));
    }
    Ok(file)
}
