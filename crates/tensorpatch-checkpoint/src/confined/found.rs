//! What is at a place.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{self, FileType, Stat};

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe, which would keep whoever opens it waiting.
    Pipe,
    /// A socket.
    Socket,
    /// A device, or what the system has no name for.
    Device,
}

impl FileKind {
    fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Link,
            FileType::Fifo => Self::Pipe,
            FileType::Socket => Self::Socket,
            _ => Self::Device,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Pipe => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

/// What is at a place itself, whatever a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file.
    pub len: u64,
    /// When its contents were altered last.
    pub modified: SystemTime,
    /// Its permissions.
    pub mode: u32,
    /// The user that it belongs to.
    pub owner: u32,
    /// How many names it has.
    pub links: u64,
    /// Device and inode, which no other file has while it exists.
    pub identity: (u64, u64),
}

impl Found {
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        clippy::cast_sign_loss,
        reason = "the widths and signs differ between systems"
    )]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            kind: FileKind::of(FileType::from_raw_mode(stat.st_mode)),
            len: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: modified(stat),
            mode: u32::from(stat.st_mode) & 0o7777,
            owner: stat.st_uid,
            links: stat.st_nlink as u64,
            identity: (stat.st_dev as u64, stat.st_ino as u64),
        }
    }

    /// What an open file is.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn of_open(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&fs::fstat(file)?))
    }

    /// Whether nobody else can have kept a way to alter it: a regular file that the user of this process has
    /// made, with one name.
    ///
    /// A file server that gives what is made to another user makes this false, which costs a download and no
    /// more.
    pub fn is_only_ours(&self) -> bool {
        self.kind == FileKind::File && self.links == 1 && self.owner == rustix::process::geteuid().as_raw()
    }
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the widths and signs differ between systems"
)]
fn modified(stat: &Stat) -> SystemTime {
    let nanos = Duration::from_nanos(u64::try_from(stat.st_mtime_nsec).unwrap_or_default());
    let seconds = Duration::from_secs((stat.st_mtime as i64).unsigned_abs());
    let from = SystemTime::UNIX_EPOCH;
    let second = if stat.st_mtime < 0 { from.checked_sub(seconds) } else { from.checked_add(seconds) };
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(from)
}
