//! Whether files can be put in their places: known before the first byte of a replica is altered. Blocking.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::permissions::inherit;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::directory::{FileSwap, ReplicaDir};
use crate::error::StoreError;
use crate::local;

/// Checks that each file of `install` can be put in its place, and what goes can be removed: so that a
/// version is there whole or not at all, files beside the weights included.
///
/// # Errors
/// [`StoreError::Place`], with what is in the way and what to do about it.
pub(super) fn check_places(directory: &ReplicaDir, install: &FileSwap) -> Result<(), StoreError> {
    let root = directory.path();
    for name in &install.files {
        let parent = check_parents(root, name, &install.remove)?;
        let path = root.join(name);
        match look(&path)? {
            None => check_directory(&parent)?,
            Some(metadata) if metadata.is_dir() => check_goes(&path, name, &install.remove)?,
            // A mount cannot be renamed over, but what is mounted can be written to.
            Some(_) if Marks::of(&path).is_mount => check_writable(&path)?,
            Some(metadata) => check_replaceable(&parent, &path, &metadata)?,
        }
    }
    for name in &install.remove {
        let path = root.join(name);
        if let (Some(metadata), Some(parent)) = (look(&path)?, path.parent()) {
            if Marks::of(&path).is_mount {
                return Err(refused(&path, "it is a mount, and the version does not have it: unmount it"));
            }
            check_replaceable(parent, &path, &metadata)?;
        }
    }
    Ok(())
}

/// Puts a staged file in its place, with the permissions of the one that it replaces. The staged one is there
/// until the other is whole.
pub(super) fn put(staged: &Path, file: &Path) -> io::Result<()> {
    // Through a link nothing is inherited: what it leads to stays.
    if fs::symlink_metadata(file).is_ok_and(|found| found.is_file())
        && let (Ok(new), Ok(old)) = (fs::File::open(staged), fs::File::open(file))
    {
        inherit(&old, &new)?;
    }
    match fs::rename(staged, file) {
        // An empty one: with anything in it, it stays.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            fs::remove_dir(file)?;
            fs::rename(staged, file)
        }
        // A mount. There is no other way, and whoever comes after a crash finds the staged file still there.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let mut target = fs::OpenOptions::new().write(true).truncate(true).open(file)?;
            io::copy(&mut fs::File::open(staged)?, &mut target)?;
            target.sync_all()?;
            fs::remove_file(staged)
        }
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            local::copy_file(staged, file).map_err(io::Error::other)?;
            fs::File::open(file)?.sync_all()?;
            fs::remove_file(staged)
        }
        renamed => renamed,
    }
}

/// The names of `install` that must be removed before its files are put in their places: files where a
/// directory will be, and files in a directory where a file will be.
pub(super) fn in_the_way(install: &FileSwap) -> impl Iterator<Item = &String> {
    let is_in =
        |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    install
        .remove
        .iter()
        .filter(move |old| install.files.iter().any(|new| is_in(old, new) || is_in(new, old)))
}

/// Removes a file of `root`, and the directories that are empty then.
pub(super) fn remove(root: &Path, name: &str) -> Result<(), StoreError> {
    let path = root.join(name);
    match look(&path)? {
        Some(metadata) if !metadata.is_dir() => local::remove(&path)?,
        // A directory has taken the place of the file: it is of the new version, or somebody's own.
        _ => return Ok(()),
    }
    let mut below = name;
    while let Some((parent, _)) = below.rsplit_once('/') {
        // One that has other files stays.
        if fs::remove_dir(root.join(parent)).is_err() {
            break;
        }
        below = parent;
    }
    Ok(())
}

/// Makes the directories that a file of `root` lies in.
pub(super) fn make_parents(root: &Path, name: &str) -> Result<(), StoreError> {
    for (end, _) in name.match_indices('/') {
        let path = root.join(name.get(..end).unwrap_or_default());
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match look(&path)? {
                Some(metadata) if metadata.is_dir() => {}
                _ => return Err(refused(&path, NO_DIRECTORY)),
            },
            made => made.map_err(|e| StoreError::local(&path, e))?,
        }
    }
    Ok(())
}

/// The directories, below `root` and itself, whose entries change.
pub(super) fn parents(root: &Path, install: &FileSwap) -> Vec<PathBuf> {
    let mut parents = vec![root.to_owned()];
    for name in install.files.iter().chain(&install.remove) {
        parents
            .extend(name.match_indices('/').map(|(end, _)| root.join(name.get(..end).unwrap_or_default())));
    }
    parents.sort();
    parents.dedup();
    parents
}

const NO_DIRECTORY: &str = "a directory of the version belongs here: move it away";

/// The innermost directory on the way to a file that is there already.
fn check_parents(root: &Path, name: &str, remove: &[String]) -> Result<PathBuf, StoreError> {
    let mut parent = root.to_owned();
    for (end, _) in name.match_indices('/') {
        let below = name.get(..end).unwrap_or_default();
        let path = root.join(below);
        match look(&path)? {
            None => break,
            Some(metadata) if metadata.is_dir() => parent = path,
            Some(_) if remove.iter().any(|gone| gone == below) => break,
            Some(_) => return Err(refused(&path, NO_DIRECTORY)),
        }
    }
    Ok(parent)
}

/// A directory where a file belongs: all that is in it must go.
fn check_goes(path: &Path, name: &str, remove: &[String]) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(|e| StoreError::local(path, e))? {
        let entry = entry.map_err(|e| StoreError::local(path, e))?;
        let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            check_goes(&entry.path(), &inner, remove)?;
        } else if !remove.contains(&inner) {
            return Err(refused(path, "a file of the version belongs here, not a directory: move it away"));
        }
    }
    Ok(())
}

fn check_replaceable(parent: &Path, path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    check_directory(parent)?;
    if Marks::of(path).is_fixed {
        return Err(refused(path, "it is immutable or append-only: chattr -i -a it"));
    }
    const STICKY: u32 = 0o1000;
    let (uid, directory) = (rustix::process::geteuid(), fs::metadata(parent));
    let directory = directory.map_err(|e| StoreError::local(parent, e))?;
    let owns = |metadata: &fs::Metadata| metadata.uid() == uid.as_raw();
    if directory.mode() & STICKY != 0 && !uid.is_root() && !owns(metadata) && !owns(&directory) {
        return Err(refused(
            path,
            "it belongs to another user, in a directory with the sticky bit: remove it",
        ));
    }
    Ok(())
}

fn check_directory(path: &Path) -> Result<(), StoreError> {
    if Marks::of(path).is_fixed {
        return Err(refused(path, "the directory is immutable or append-only: chattr -i -a it"));
    }
    match accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(error) => {
            Err(refused(path, &format!("files cannot be replaced in it ({error}): make it writable")))
        }
    }
}

fn check_writable(path: &Path) -> Result<(), StoreError> {
    match accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) if !Marks::of(path).is_fixed => Ok(()),
        _ => Err(refused(path, "it is a mount that cannot be written to: unmount it, or mount it writable")),
    }
}

/// What is at `path` itself, whatever a link leads to.
fn look(path: &Path) -> Result<Option<fs::Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(StoreError::local(path, e)),
    }
}

fn refused(path: &Path, what: &str) -> StoreError {
    StoreError::Place { path: path.to_owned(), what: what.to_owned() }
}

/// What the operating system says about a file beyond its permissions, where it says so.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    is_mount: bool,
    is_fixed: bool,
}

impl Marks {
    #[cfg(target_os = "linux")]
    fn of(path: &Path) -> Self {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        let Ok(found) = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) else {
            return Self::default();
        };
        let has = |attribute| found.stx_attributes.contains(attribute);
        Self {
            is_mount: has(StatxAttributes::MOUNT_ROOT),
            is_fixed: has(StatxAttributes::IMMUTABLE) || has(StatxAttributes::APPEND),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_: &Path) -> Self {
        Self::default()
    }
}
