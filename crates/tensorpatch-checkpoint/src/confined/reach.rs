//! Files at the end of links, each of which was looked at.
//!
//! Whoever follows a link does what its maker chose. So the maker of each counts, and what was looked at is
//! what is followed: the path is walked from handle to handle, and no link is left to the kernel.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::directory::open_at;
use super::found::{FileKind, Found};
use super::{ROOT, STEP};

/// As many as Linux follows.
const MOST_LINKS: usize = 40;

/// A regular file that links have led to.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) file: File,
    /// Its path without links.
    pub(crate) path: PathBuf,
    /// The owners of the links on the way.
    makers: Vec<u32>,
}

impl Reached {
    /// Whether nobody was led to what is not theirs: whoever has made a link has it lead to a file of their
    /// own, or is the user of this process, or root.
    pub(crate) fn is_trusted(&self) -> io::Result<bool> {
        let owner = Found::of_open(&self.file)?.owner;
        let trusted = [0, rustix::process::geteuid().as_raw(), owner];
        Ok(self.makers.iter().all(|maker| trusted.contains(maker)))
    }
}

/// Goes along an absolute path, over links, to a regular file, and opens it for reading.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is no regular file; if nothing is there, there are too many links,
/// or the operating system refuses.
pub(crate) fn reach(path: &Path) -> io::Result<Reached> {
    let top = fs::open(ROOT, STEP | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (mut passed, mut makers): (Vec<(OsString, OwnedFd)>, Vec<u32>) = (Vec::new(), Vec::new());
    let mut left = steps(path);
    while let Some(step) = left.pop() {
        let name = match step {
            Step::Top => {
                passed.clear();
                continue;
            }
            Step::Up => {
                passed.pop();
                continue;
            }
            Step::Name(name) => name,
        };
        let at = passed.last().map_or(top.as_fd(), |(_, handle)| handle.as_fd());
        match open_at(at, &name, STEP) {
            Ok(handle) => {
                passed.push((name, handle));
                continue;
            }
            Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(link) = look_at_link(at, &name)? {
            makers.push(link.maker);
            if makers.len() > MOST_LINKS {
                return Err(Errno::LOOP.into());
            }
            left.extend(steps(&link.target));
        } else if left.is_empty() {
            let file = open_file(at, &name)?;
            let mut path = PathBuf::from(ROOT);
            path.extend(passed.iter().map(|(name, _)| name));
            path.push(&name);
            return Ok(Reached { file, path, makers });
        } else {
            return Err(Errno::NOTDIR.into());
        }
    }
    Err(no_file())
}

enum Step {
    Top,
    Up,
    Name(OsString),
}

/// The steps of a path, the first of them last.
fn steps(path: &Path) -> Vec<Step> {
    let step = |component: Component<'_>| match component {
        Component::RootDir | Component::Prefix(_) => Some(Step::Top),
        Component::ParentDir => Some(Step::Up),
        Component::CurDir => None,
        Component::Normal(name) => Some(Step::Name(name.to_owned())),
    };
    let mut steps: Vec<Step> = path.components().filter_map(step).collect();
    steps.reverse();
    steps
}

struct Link {
    maker: u32,
    target: PathBuf,
}

/// The link of this name, if it is one: who has made it, and where the same leads.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn look_at_link(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Link>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = fs::openat(at, name, flags, Mode::empty())?;
    let found = Found::of_open(&link)?;
    if found.kind != FileKind::Link {
        return Ok(None);
    }
    let target = fs::readlinkat(&link, "", Vec::new())?;
    Ok(Some(Link { maker: found.owner, target: OsString::from_vec(target.into_bytes()).into() }))
}

/// The link of this name, if it is one: who has made it, and where the same leads. It is looked at before and
/// after it is read, as no handle of it can be had.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn look_at_link(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Link>> {
    let look = || fs::statat(at, name, fs::AtFlags::SYMLINK_NOFOLLOW).map(|stat| Found::of(&stat));
    let found = look()?;
    if found.kind != FileKind::Link {
        return Ok(None);
    }
    let target = fs::readlinkat(at, name, Vec::new())?;
    if look()? != found {
        return Err(io::Error::other("it was replaced while it was read"));
    }
    Ok(Some(Link { maker: found.owner, target: OsString::from_vec(target.into_bytes()).into() }))
}

fn open_file(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match fs::openat(at, name, flags, Mode::empty()) {
        Ok(handle) => File::from(handle),
        Err(Errno::NXIO | Errno::OPNOTSUPP) => return Err(no_file()),
        Err(error) => return Err(error.into()),
    };
    if Found::of_open(&file)?.kind == FileKind::File { Ok(file) } else { Err(no_file()) }
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_walked_over_links_of_every_form_to_the_file_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/file"), "x").unwrap();
        symlink("../file", root.join("a/b/up")).unwrap();
        symlink(root.join("a/b"), root.join("dir")).unwrap();
        symlink("dir/./up", root.join("last")).unwrap();
        let found = reach(&root.join("last")).unwrap();
        assert_eq!((found.path.as_path(), found.makers.len()), (root.join("a/file").as_path(), 3));
        assert!(found.is_trusted().unwrap());
        assert!(reach(&root.join("a/file")).unwrap().makers.is_empty());
    }

    #[test]
    fn what_leads_to_no_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        symlink("round", root.join("round")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        let of = |name: &str| reach(&root.join(name)).unwrap_err();
        assert_eq!(of("round").raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(of("dangling").kind(), io::ErrorKind::NotFound);
        assert_eq!(of("file/x").kind(), io::ErrorKind::NotADirectory);
        assert_eq!(of("").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_link_counts_by_who_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let reached = |makers| {
            let mut reached = reach(&std::fs::canonicalize(dir.path()).unwrap().join("file")).unwrap();
            reached.makers = makers;
            reached.is_trusted().unwrap()
        };
        let own = rustix::process::geteuid().as_raw();
        assert!(reached(vec![own, 0]));
        assert!(!reached(vec![own, 4321]));
    }
}
