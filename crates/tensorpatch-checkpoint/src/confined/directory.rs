//! Directories by their handles.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Opens a directory that is one itself, and no link to one.
pub(super) fn open_at(parent: BorrowedFd<'_>, name: &OsStr, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// The names in a directory.
pub(super) fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Removes what has a name, a directory with everything in it; nothing there is as good.
///
/// Somebody may have made a tree that is deeper than the stack, or than there are handles. So directories in
/// directories are moved up before they are emptied: two handles are open at most.
pub(super) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let Some(top) = remove_or_open(parent, name)? else { return Ok(()) };
    let mut left = names_in(top.as_fd())?;
    while let Some(inner) = left.pop() {
        let Some(directory) = remove_or_open(top.as_fd(), &inner)? else { continue };
        for below in names_in(directory.as_fd())? {
            if remove_or_open(directory.as_fd(), &below)?.is_some() {
                let up = OsString::from(format!("{:016x}", RandomState::new().build_hasher().finish()));
                fs::renameat(&directory, &below, &top, &up)?;
                left.push(up);
            }
        }
        fs::unlinkat(&top, &inner, AtFlags::REMOVEDIR)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes what is no directory, or an empty one; else returns it, open.
fn remove_or_open(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        // Of directories, Linux says the one and other systems the other.
        Err(error @ (Errno::ISDIR | Errno::PERM)) => match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTEMPTY | Errno::EXIST) => open_at(parent, name, OFlags::RDONLY).map(Some),
            Err(Errno::NOTDIR) => Err(error),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}
