//! Paths below a directory that is held open, with no link on the way.
//!
//! Whoever may write to a directory can put a link where tensorpatch expects a file or directory of its
//! own, and so have something elsewhere read, overwritten or deleted. So such places are reached from a
//! handle of the directory that the user has named, one component after the other, and no link among
//! them is followed. Links in the user's own path are: it is resolved once, when the handle is opened.
//!
//! `cap-std` follows links that stay inside the root, and an attacker has use for these too (a companion that
//! leads to the state file); it also brings a dozen crates. `openat2` resolves a path without links in one
//! call, but only Linux has it, and containers often forbid it. What is here are the calls of POSIX.

mod directory;
mod found;
mod misplaced;
mod reach;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::durable::sync_open_dir;
use directory::{names_in, open_at, remove_at};

pub use found::{FileKind, Found};
pub use misplaced::Misplaced;
pub(crate) use reach::{Reached, reach};

/// How often a file is made anew while others put something in its place.
const ATTEMPTS: usize = 16;
/// Where every path begins.
const ROOT: &str = "/";
/// Handles to go on from need no permission to read, where the system has such.
#[cfg(any(target_os = "linux", target_os = "android"))]
const STEP: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const STEP: OFlags = OFlags::RDONLY;

/// A path below a directory that is held open. Each use goes from the handle to the file without following a
/// link, whatever became of the path of the directory.
///
/// Like a [`PathBuf`] it is only a name: nothing need be there.
#[derive(Debug, Clone)]
pub struct ConfinedPath {
    root: Arc<Root>,
    below: PathBuf,
}

#[derive(Debug)]
struct Root {
    handle: OwnedFd,
    /// What it is called in messages.
    path: PathBuf,
}

/// A directory on the way.
enum Step<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Step<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(handle) => *handle,
            Self::Below(handle) => handle.as_fd(),
        }
    }
}

impl ConfinedPath {
    /// Opens a directory, wherever links lead on the way to it: what is below it is reached without following
    /// any.
    ///
    /// # Errors
    /// If there is none, or the operating system refuses.
    pub fn root(dir: &Path) -> io::Result<Self> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let handle = fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(Root { handle, path: dir.to_owned() }), below: PathBuf::new() })
    }

    /// A file by its path: below the directory that it lies in.
    ///
    /// # Errors
    /// As [`ConfinedPath::root`] of that directory; also if the path has no name.
    pub fn of(path: &Path) -> io::Result<Self> {
        let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidFilename.into()) };
        let mut place = Self::root(path.parent().unwrap_or(Path::new("")))?;
        if path.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
            // In messages, as the user has written it.
            place.root = Arc::new(Root { handle: place.root.handle.try_clone()?, path: PathBuf::new() });
        }
        Ok(place.join(name))
    }

    /// The same directory, or one below it, as the root of further paths. They stay in it wherever it is
    /// moved.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is there or on the way; if there is no directory, or the operating system
    /// refuses.
    pub fn enter(&self) -> io::Result<Self> {
        let handle = self.open_dir()?.into();
        Ok(Self { root: Arc::new(Root { handle, path: self.path() }), below: PathBuf::new() })
    }

    /// The path with a name, or several with slashes between, after it. Names that lead out, such as
    /// `..`, are refused when it is used.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self { root: Arc::clone(&self.root), below: self.below.join(name) }
    }

    /// The path with another last name.
    #[must_use]
    pub fn with_file_name(&self, name: impl AsRef<OsStr>) -> Self {
        Self { root: Arc::clone(&self.root), below: self.below.with_file_name(name) }
    }

    /// The last name.
    pub fn file_name(&self) -> &OsStr {
        self.below.file_name().unwrap_or_default()
    }

    /// The path as others would write it: for messages, and to read by what takes paths.
    pub fn path(&self) -> PathBuf {
        if self.below.as_os_str().is_empty() {
            self.root.path.clone()
        } else {
            self.root.path.join(&self.below)
        }
    }

    /// Calls `work` with the directory that this lies in and its name in it: for calls of the operating
    /// system that are not here.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is on the way; if `work` fails, or the operating system does.
    pub fn at<T>(&self, work: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>) -> io::Result<T> {
        let (parent, name) = self.parent()?;
        Ok(work(parent.as_fd(), name)?)
    }

    /// What is there itself; `None` if nothing is, or no directory where one would be on the way.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is on the way; if the operating system refuses.
    pub fn find(&self) -> io::Result<Option<Found>> {
        match self.at(|parent, name| fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(Found::of(&stat))),
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file to read it.
    ///
    /// # Errors
    /// [`Misplaced`] if something else is there, or a link on the way; if nothing is, or the operating system
    /// refuses.
    pub fn open(&self) -> io::Result<File> {
        self.open_regular(OFlags::RDONLY)
    }

    /// Opens a regular file to read and alter it.
    ///
    /// # Errors
    /// As [`ConfinedPath::open`].
    pub fn open_to_alter(&self) -> io::Result<File> {
        self.open_regular(OFlags::RDWR)
    }

    /// Makes a new file.
    ///
    /// # Errors
    /// If anything is there, a link included; [`Misplaced`] if a link is on the way; if the operating system
    /// refuses.
    pub fn create_new(&self) -> io::Result<File> {
        self.create(Mode::from_raw_mode(0o666))
    }

    fn create(&self, mode: Mode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(|parent, name| fs::openat(parent, name, flags, mode)).map(File::from)
    }

    /// Makes a new file that nobody but its owner can open.
    ///
    /// # Errors
    /// As [`ConfinedPath::create_new`].
    pub fn create_private(&self) -> io::Result<File> {
        self.create(Mode::from_raw_mode(0o600))
    }

    /// Makes a new file in the place of whatever is there.
    ///
    /// # Errors
    /// If what is there cannot be removed; as [`ConfinedPath::create_new`].
    pub fn replace(&self) -> io::Result<File> {
        self.replace_by(Self::create_new)
    }

    /// Makes a new file that nobody but its owner can open, in the place of whatever is there.
    ///
    /// # Errors
    /// As [`ConfinedPath::replace`].
    pub fn replace_private(&self) -> io::Result<File> {
        self.replace_by(Self::create_private)
    }

    fn replace_by(&self, create: impl Fn(&Self) -> io::Result<File>) -> io::Result<File> {
        for _ in 0..ATTEMPTS {
            self.remove()?;
            match create(self) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        create(self)
    }

    /// Opens a file to go on with it, if nobody else can have kept a way to alter it; else makes a new one in
    /// its place.
    ///
    /// # Errors
    /// As [`ConfinedPath::replace`].
    pub fn resume(&self) -> io::Result<File> {
        if let Ok(file) = self.open_to_alter()
            && Found::of_open(&file)?.is_only_ours()
        {
            return Ok(file);
        }
        self.replace()
    }

    /// Opens a file to read and alter it, or makes it if nothing is there, for its owner to read and for
    /// others at most to write.
    ///
    /// # Errors
    /// As [`ConfinedPath::open`].
    pub fn open_or_create(&self) -> io::Result<File> {
        self.open_or_create_with(Mode::from_raw_mode(0o622))
    }

    pub(crate) fn open_or_create_with(&self, mode: Mode) -> io::Result<File> {
        for _ in 0..ATTEMPTS {
            match self.open_to_alter() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            match self.create(mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        self.create(mode)
    }

    /// Opens a directory, to lock or sync it.
    ///
    /// # Errors
    /// [`Misplaced`] if something else is there, or a link on the way; if nothing is, or the operating system
    /// refuses.
    pub fn open_dir(&self) -> io::Result<File> {
        if self.below.as_os_str().is_empty() {
            return Ok(self.root.handle.try_clone()?.into());
        }
        let (parent, name) = self.parent()?;
        match open_at(parent.as_fd(), name, OFlags::RDONLY) {
            Ok(handle) => Ok(handle.into()),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::MLINK) => Err(self.misplaced(FileKind::Directory)),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory where nothing is.
    ///
    /// # Errors
    /// If anything is there; as [`ConfinedPath::create_new`].
    pub fn create_new_dir(&self) -> io::Result<()> {
        self.at(|parent, name| fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)))
    }

    /// Makes a directory, and those that it lies in below the root, where they are missing.
    ///
    /// # Errors
    /// [`Misplaced`] if something else is there, or a link on the way; if the operating system refuses.
    pub fn create_dir(&self) -> io::Result<()> {
        let mut place = Self { root: Arc::clone(&self.root), below: PathBuf::new() };
        for name in &self.below {
            place.below.push(name);
            match place.create_new_dir() {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match place.find()? {
                    Some(Found { kind: FileKind::Directory, .. }) => {}
                    _ => return Err(place.misplaced(FileKind::Directory)),
                },
                made => made?,
            }
        }
        Ok(())
    }

    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// As [`ConfinedPath::open_dir`].
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        Ok(names_in(self.open_dir()?.as_fd())?)
    }

    /// The names in the directory that this lies in, in no order.
    ///
    /// # Errors
    /// As [`ConfinedPath::open_dir`].
    pub fn siblings(&self) -> io::Result<Vec<OsString>> {
        self.directory().entries()
    }

    /// Removes what is there, a directory with everything in it; nothing there is as good.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is on the way; if the operating system refuses.
    pub fn remove(&self) -> io::Result<()> {
        match self.at(remove_at) {
            Err(error) if is_nothing(&error) => Ok(()),
            removed => removed,
        }
    }

    /// Removes a file, a link or the like.
    ///
    /// # Errors
    /// If nothing or a directory is there; [`Misplaced`] if a link is on the way; if the operating system
    /// refuses.
    pub fn remove_file(&self) -> io::Result<()> {
        self.at(|parent, name| fs::unlinkat(parent, name, AtFlags::empty()))
    }

    /// Removes a directory that has nothing in it.
    ///
    /// # Errors
    /// If nothing, or anything else, is there; [`Misplaced`] if a link is on the way; if the operating system
    /// refuses.
    pub fn remove_empty_dir(&self) -> io::Result<()> {
        self.at(|parent, name| fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
    }

    /// Puts what is there in the place of `to`, as `rename` does.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is on the way to either; if the operating system refuses.
    pub fn rename(&self, to: &Self) -> io::Result<()> {
        self.at_both(to, |from, name, to, new| fs::renameat(from, name, to, new))
    }

    /// Renames, if nothing has the name `to`.
    ///
    /// # Errors
    /// If anything has, or the file system cannot; as [`ConfinedPath::rename`].
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    pub fn rename_new(&self, to: &Self) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with};
        self.at_both(to, |from, name, to, new| renameat_with(from, name, to, new, RenameFlags::NOREPLACE))
    }

    /// Renames, if nothing has the name `to`. There is no such call here.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    pub fn rename_new(&self, _: &Self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives a file another name (a hard link), if nothing has that.
    ///
    /// # Errors
    /// If anything has, or the file system has no such links; as [`ConfinedPath::rename`].
    pub fn link(&self, to: &Self) -> io::Result<()> {
        self.at_both(to, |from, name, to, new| fs::linkat(from, name, to, new, AtFlags::empty()))
    }

    /// Makes renames, creations and removals in the directory that this lies in durable.
    ///
    /// # Errors
    /// [`Misplaced`] if a link is on the way; if the operating system refuses.
    pub fn sync_parent(&self) -> io::Result<()> {
        sync_open_dir(&self.directory().open_dir()?)
    }

    /// The directory that this lies in; the root itself at most.
    #[must_use]
    pub fn directory(&self) -> Self {
        let below = self.below.parent().unwrap_or(Path::new(""));
        Self { root: Arc::clone(&self.root), below: below.to_owned() }
    }

    fn at_both<T>(
        &self,
        to: &Self,
        work: impl FnOnce(BorrowedFd<'_>, &OsStr, BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let ((from, name), (to, new)) = (self.parent()?, to.parent()?);
        Ok(work(from.as_fd(), name, to.as_fd(), new)?)
    }

    /// The directory that this lies in, reached without following a link, and its name in it.
    fn parent(&self) -> io::Result<(Step<'_>, &OsStr)> {
        let is_plain = self.below.components().all(|component| matches!(component, Component::Normal(_)));
        let Some(name) = self.below.file_name().filter(|_| is_plain) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let (mut at, mut passed) = (Step::Root(self.root.handle.as_fd()), PathBuf::new());
        for step in self.below.parent().into_iter().flatten() {
            passed.push(step);
            at = Step::Below(match open_at(at.as_fd(), step, STEP) {
                Ok(handle) => handle,
                Err(error @ (Errno::LOOP | Errno::NOTDIR | Errno::MLINK)) => {
                    let found = fs::statat(at.as_fd(), step, AtFlags::SYMLINK_NOFOLLOW);
                    let is_link = found.is_ok_and(|stat| Found::of(&stat).kind == FileKind::Link);
                    let place = Self { root: Arc::clone(&self.root), below: passed };
                    let refused = || place.refusal(FileKind::Link, FileKind::Directory);
                    return Err(if is_link { refused() } else { error.into() });
                }
                Err(error) => return Err(error.into()),
            });
        }
        Ok((at, name))
    }

    fn open_regular(&self, flags: OFlags) -> io::Result<File> {
        // Without waiting: a pipe would have it wait for whoever is at its other end.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let (parent, name) = self.parent()?;
        let file = match fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            // How systems refuse links, directories and sockets.
            Err(Errno::LOOP | Errno::MLINK | Errno::ISDIR | Errno::NXIO | Errno::OPNOTSUPP) => {
                return Err(self.misplaced(FileKind::File));
            }
            Err(error) => return Err(error.into()),
        };
        let found = Found::of_open(&file)?;
        if found.kind != FileKind::File {
            return Err(self.refusal(found.kind, FileKind::File));
        }
        Ok(file)
    }

    /// What is there is not what belongs there.
    fn misplaced(&self, expected: FileKind) -> io::Error {
        match self.find() {
            Ok(Some(found)) => self.refusal(found.kind, expected),
            Ok(None) => io::ErrorKind::NotFound.into(),
            Err(error) => error,
        }
    }

    fn refusal(&self, found: FileKind, expected: FileKind) -> io::Error {
        io::Error::other(Misplaced { path: self.path(), found, expected, root: self.root.path.clone() })
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
