//! A hidden file or directory beside the destination that becomes it by a rename.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{CheckpointError, Form};

/// Enough for a process id and a random number, and no name is longer than 255 bytes.
const NAME_BYTES: usize = 200;
const MARK: &str = ".tensorpatch-";
const ATTEMPTS: usize = 16;

/// `.NAME.tensorpatch-PID-RANDOM` in the directory of the destination; removed when dropped without being
/// renamed.
///
/// The owner holds a lock (`flock`) on it, which ends with the process however that ends; so whoever gets
/// the lock knows that the owner is dead, across containers that share a volume too, where process ids say
/// nothing.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    /// The file, or the directory itself; keeps the lock.
    handle: File,
    is_directory: bool,
    renamed: bool,
}

impl Staging {
    /// Makes a new staging for `name` in `parent`, after removing those that dead owners left.
    pub(crate) fn create(parent: &Path, name: &OsStr, form: Form) -> Result<Self, CheckpointError> {
        let prefix = prefix(name);
        sweep(parent, &prefix);
        let is_directory = form == Form::Directory;
        for _ in 0..ATTEMPTS {
            let mut file_name = prefix.clone();
            let random = RandomState::new().build_hasher().finish();
            file_name.push(format!("{}-{random:016x}", std::process::id()));
            let path = parent.join(file_name);
            let handle = match create_new(&path, is_directory) {
                Ok(handle) => handle,
                // The name is taken, or a sweep came between making and opening.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
                        && parent.is_dir() =>
                {
                    continue;
                }
                Err(error) => return Err(CheckpointError::io("create", &path)(error)),
            };
            // Without support for locks nothing can be swept either, so there is nothing to lose.
            let swept = matches!(handle.try_lock(), Err(TryLockError::WouldBlock));
            let staging = Self { path, handle, is_directory, renamed: false };
            if !swept && staging.is_in_place() {
                return Ok(staging);
            }
        }
        let error = io::Error::other("other processes keep removing it");
        Err(CheckpointError::io("create a staging file in", parent)(error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, or the open directory.
    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }

    /// Whether the path still leads to what is locked: a sweep may have removed it before the lock was taken.
    fn is_in_place(&self) -> bool {
        match (self.handle.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Puts the staging in the place of `dest`.
    pub(crate) fn rename(mut self, dest: &Path) -> io::Result<()> {
        fs::rename(&self.path, dest)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.renamed {
            remove(&self.path, self.is_directory);
        }
    }
}

fn create_new(path: &Path, is_directory: bool) -> io::Result<File> {
    if is_directory {
        fs::create_dir(path)?;
        File::open(path)
    } else {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }
}

/// `.NAME.tensorpatch-`, cut where the whole would be too long for a file name.
fn prefix(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    let mut prefix = OsString::from(".");
    prefix.push(OsStr::from_bytes(bytes.get(..NAME_BYTES).unwrap_or(bytes)));
    prefix.push(MARK);
    prefix
}

/// Removes what dead owners left of earlier writes to the same destination. Failure is not fatal: it costs
/// only room.
fn sweep(parent: &Path, prefix: &OsStr) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().as_bytes().strip_prefix(prefix.as_bytes()).is_some_and(is_owner_mark);
        let Ok(kind) = entry.file_type() else { continue };
        if !is_ours || !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let handle = OpenOptions::new().read(true).write(kind.is_file()).open(&path);
        // Removed while the lock is held: an owner that has just made it sees that, and takes another name.
        if let Ok(handle) = handle
            && handle.try_lock().is_ok()
        {
            remove(&path, kind.is_dir());
        }
    }
}

/// Removes what this process is writing for `dest` and has not finished: for the end of a process whose
/// threads cannot be stopped. What other processes write stays.
///
/// Whether it is this process's is told by its open files, so it works on Linux only; elsewhere the next
/// write to the same destination removes it.
pub fn remove_unfinished(dest: &Path) {
    let (Some(name), Ok(open)) = (dest.file_name(), fs::read_dir("/proc/self/fd")) else { return };
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let open: Vec<(u64, u64)> =
        open.flatten().filter_map(|entry| Some(identity(fs::metadata(entry.path()).ok()?))).collect();
    let is_own = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| open.contains(&identity(found)));
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(parent) else { return };
    let prefix = prefix(name);
    let mut partial = name.to_owned();
    partial.push(".partial");
    for entry in entries.flatten() {
        let (path, found) = (entry.path(), entry.file_name());
        let is_staging = found.as_bytes().strip_prefix(prefix.as_bytes()).is_some_and(is_owner_mark);
        if (is_staging || found == partial) && is_own(&path) {
            remove(&path, path.is_dir());
        }
    }
}

/// `PID-RANDOM`.
fn is_owner_mark(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |&byte| byte == b'-');
    let (pid, random) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    !pid.is_empty()
        && pid.iter().all(u8::is_ascii_digit)
        && random.len() == 16
        && random.iter().all(u8::is_ascii_hexdigit)
}

fn remove(path: &Path, is_directory: bool) {
    // Nobody is left to be told; the next run with this destination tries again.
    let _ = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}
