//! Opening files of the user's, to which links may lead.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens a regular file for reading, wherever links lead on the way to it.
///
/// Nothing waits: to open a named pipe would last until somebody opens its other end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is no regular file; if there is none, or the operating system
/// refuses.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_found(path).map(|(file, _)| file)
}

/// The same, with what was found.
pub(crate) fn open_found(path: &Path) -> io::Result<(File, Metadata)> {
    let other = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    let file = match open_at_once(path) {
        // How systems refuse to open a socket.
        Err(error) if is_of(&error, &[Errno::NXIO, Errno::OPNOTSUPP]) => return Err(other()),
        opened => opened?,
    };
    let found = file.metadata()?;
    if found.is_file() { Ok((file, found)) } else { Err(other()) }
}

/// Opens a file or directory of the user's, and waits for nobody.
pub(crate) fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn is_of(error: &io::Error, all: &[Errno]) -> bool {
    all.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_over_links_and_nothing_else_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert!(open_regular(&path("link")).is_ok());
        for name in ["pipe", "socket", "."] {
            assert_eq!(open_regular(&path(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(open_regular(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
