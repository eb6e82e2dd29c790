//! Whether files can be put in their places: known before the first byte of a replica is altered. Blocking.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use rustix::fs::{Access, AtFlags, accessat};
use tensorpatch_checkpoint::permissions::inherit;
use tensorpatch_checkpoint::{ConfinedPath, FileKind, Found};

use super::directory::{FileSwap, ReplicaDir};
use crate::error::StoreError;
use crate::local;

/// Checks that each file of `install` can be put in its place, and what goes can be removed: so that a
/// version is there whole or not at all, files beside the weights included.
///
/// # Errors
/// [`StoreError::Place`], with what is in the way and what to do about it.
pub(super) fn check_places(directory: &ReplicaDir, install: &FileSwap) -> Result<(), StoreError> {
    let root = directory.root();
    for name in &install.files {
        let parent = check_parents(root, name, &install.remove)?;
        let place = root.join(name);
        match look(&place)? {
            None => check_directory(&parent)?,
            Some(found) if is_dir(&found) => check_goes(&place, name, &install.remove)?,
            // A mount cannot be renamed over, but what is mounted can be written to.
            Some(_) if Marks::of(&place).is_mount => check_writable(&place)?,
            Some(found) => check_replaceable(&parent, &place, &found)?,
        }
    }
    for name in &install.remove {
        let place = root.join(name);
        if let Some(found) = look(&place)? {
            if Marks::of(&place).is_mount {
                return Err(refused(&place, "it is a mount, and the version does not have it: unmount it"));
            }
            check_replaceable(&check_parents(root, name, &[])?, &place, &found)?;
        }
    }
    Ok(())
}

/// Puts a staged file in its place, with the permissions of the one that it replaces. The staged one is there
/// until the other is whole.
pub(super) fn put(staged: &ConfinedPath, file: &ConfinedPath) -> io::Result<()> {
    // A link that somebody has put among the staged files is none of the version.
    let mut from = staged.open()?;
    // From a link nothing is inherited: what it leads to stays.
    if let Ok(old) = file.open() {
        inherit(&old, &from)?;
    }
    match staged.rename(file) {
        // An empty one: with anything in it, it stays.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            file.remove_empty_dir()?;
            staged.rename(file)
        }
        // A mount. There is no other way, and whoever comes after a crash finds the staged file still there.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let mut target = file.open_to_alter()?;
            target.set_len(0)?;
            io::copy(&mut from, &mut target)?;
            target.sync_all()?;
            staged.remove_file()
        }
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            local::copy_file(from, file).map_err(io::Error::other)?;
            file.open()?.sync_all()?;
            staged.remove_file()
        }
        renamed => renamed,
    }
}

/// The names of `install` that must be removed before its files are put in their places: files where a
/// directory will be, and files in a directory where a file will be.
pub(super) fn in_the_way(install: &FileSwap) -> impl Iterator<Item = &String> {
    install
        .remove
        .iter()
        .filter(move |old| install.files.iter().any(|new| is_in(old, new) || is_in(new, old)))
}

fn is_in(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

/// Removes a file of `root`, and the directories that are empty then.
pub(super) fn remove(root: &ConfinedPath, name: &str) -> Result<(), StoreError> {
    let place = root.join(name);
    match look(&place)? {
        Some(found) if !is_dir(&found) => local::remove(&place)?,
        // A directory has taken the place of the file: it is of the new version, or somebody's own.
        _ => return Ok(()),
    }
    let mut below = name;
    while let Some((parent, _)) = below.rsplit_once('/') {
        // One that has other files stays.
        if root.join(parent).remove_empty_dir().is_err() {
            break;
        }
        below = parent;
    }
    Ok(())
}

/// Makes the directories that a file of `root` lies in.
pub(super) fn make_parents(root: &ConfinedPath, name: &str) -> Result<(), StoreError> {
    match name.rsplit_once('/') {
        Some((parent, _)) => local::make_dir(&root.join(parent)),
        None => Ok(()),
    }
}

/// The directories, below `root` and itself, whose entries change, as far as they are there.
pub(super) fn parents(root: &ConfinedPath, install: &FileSwap) -> Result<Vec<ConfinedPath>, StoreError> {
    let names = install.files.iter().chain(&install.remove);
    let below: BTreeSet<&str> =
        names.flat_map(|name| name.match_indices('/').filter_map(|(end, _)| name.get(..end))).collect();
    let mut parents = vec![root.clone()];
    for name in below {
        let place = root.join(name);
        if look(&place)?.is_some_and(|found| is_dir(&found)) {
            parents.push(place);
        }
    }
    Ok(parents)
}

const NO_DIRECTORY: &str = "a directory of the version belongs here: move it away";

/// The innermost directory on the way to a file that is there already.
fn check_parents(root: &ConfinedPath, name: &str, remove: &[String]) -> Result<ConfinedPath, StoreError> {
    let mut parent = root.clone();
    for (end, _) in name.match_indices('/') {
        let below = name.get(..end).unwrap_or_default();
        let place = root.join(below);
        match look(&place)? {
            None => break,
            Some(found) if is_dir(&found) => parent = place,
            Some(_) if remove.iter().any(|gone| gone == below) => break,
            Some(_) => return Err(refused(&place, NO_DIRECTORY)),
        }
    }
    Ok(parent)
}

/// A directory where a file belongs: all that is in it must go.
fn check_goes(place: &ConfinedPath, name: &str, remove: &[String]) -> Result<(), StoreError> {
    for entry in place.entries().map_err(StoreError::at(place))? {
        let (below, inner) = (place.join(&entry), format!("{name}/{}", entry.to_string_lossy()));
        // With nothing in it that goes, a directory would be there still when the file is put in its place.
        let holds_what_goes = || remove.iter().any(|gone| is_in(gone, &inner));
        if look(&below)?.is_some_and(|found| is_dir(&found)) && holds_what_goes() {
            check_goes(&below, &inner, remove)?;
        } else if !remove.contains(&inner) {
            return Err(refused(place, "a file of the version belongs here, not a directory: move it away"));
        }
    }
    Ok(())
}

fn check_replaceable(parent: &ConfinedPath, place: &ConfinedPath, found: &Found) -> Result<(), StoreError> {
    check_directory(parent)?;
    if Marks::of(place).is_fixed {
        return Err(refused(place, "it is immutable or append-only: chattr -i -a it"));
    }
    const STICKY: u32 = 0o1000;
    let uid = rustix::process::geteuid();
    let directory = parent.open_dir().and_then(Found::of_open).map_err(StoreError::at(parent))?;
    let owns = |found: &Found| found.owner == uid.as_raw();
    if directory.mode & STICKY != 0 && !uid.is_root() && !owns(found) && !owns(&directory) {
        return Err(refused(
            place,
            "it belongs to another user, in a directory with the sticky bit: remove it",
        ));
    }
    Ok(())
}

fn check_directory(place: &ConfinedPath) -> Result<(), StoreError> {
    let directory = place.open_dir().map_err(StoreError::at(place))?;
    if Marks::of_open(&directory).is_fixed {
        return Err(refused(place, "the directory is immutable or append-only: chattr -i -a it"));
    }
    match accessat(&directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(error) => {
            Err(refused(place, &format!("files cannot be replaced in it ({error}): make it writable")))
        }
    }
}

fn check_writable(place: &ConfinedPath) -> Result<(), StoreError> {
    match place.at(|parent, name| accessat(parent, name, Access::WRITE_OK, AtFlags::EACCESS)) {
        Ok(()) if !Marks::of(place).is_fixed => Ok(()),
        _ => Err(refused(place, "it is a mount that cannot be written to: unmount it, or mount it writable")),
    }
}

fn look(place: &ConfinedPath) -> Result<Option<Found>, StoreError> {
    place.find().map_err(StoreError::at(place))
}

fn is_dir(found: &Found) -> bool {
    found.kind == FileKind::Directory
}

fn refused(place: &ConfinedPath, what: &str) -> StoreError {
    StoreError::Place { path: place.path(), what: what.to_owned() }
}

/// What the operating system says about a file beyond its permissions, where it says so.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    is_mount: bool,
    is_fixed: bool,
}

#[cfg(target_os = "linux")]
impl Marks {
    fn of(place: &ConfinedPath) -> Self {
        use rustix::fs::{StatxFlags, statx};
        let found =
            place.at(|parent, name| statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()));
        found.map(Self::of_found).unwrap_or_default()
    }

    fn of_open(directory: &File) -> Self {
        use rustix::fs::{StatxFlags, statx};
        statx(directory, ".", AtFlags::empty(), StatxFlags::empty()).map(Self::of_found).unwrap_or_default()
    }

    fn of_found(found: rustix::fs::Statx) -> Self {
        use rustix::fs::StatxAttributes;
        let has = |attribute| found.stx_attributes.contains(attribute);
        Self {
            is_mount: has(StatxAttributes::MOUNT_ROOT),
            is_fixed: has(StatxAttributes::IMMUTABLE) || has(StatxAttributes::APPEND),
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Marks {
    fn of(_: &ConfinedPath) -> Self {
        Self::default()
    }

    fn of_open(_: &File) -> Self {
        Self::default()
    }
}
