//! Room on the file system, reserved before work begins.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

/// Why a reservation failed.
pub(crate) enum NoReservation {
    /// The file system or the quota is full.
    Full,
    /// Anything else.
    Failed(io::Error),
}

/// Says whether `needed` bytes are free, where the file system tells.
///
/// Asked before reserving, because some file systems fill themselves up to the last block before they refuse.
pub(crate) fn check_available(needed: u64, available: Option<u64>) -> Result<(), NoReservation> {
    if available.is_some_and(|free| free < needed) { Err(NoReservation::Full) } else { Ok(()) }
}

/// Gives `file` a length of `len` bytes, with blocks for all of them where the file system can do that.
pub(crate) fn reserve(file: &File, len: u64) -> Result<(), NoReservation> {
    if len == 0 {
        return Ok(());
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len)) {
        Ok(()) => Ok(()),
        // The second best: what `check_available` found free may be taken by others meanwhile.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            file.set_len(len).map_err(NoReservation::Failed)
        }
        Err(errno) => Err(refusal(errno)),
    }
}

fn refusal(errno: Errno) -> NoReservation {
    match errno {
        Errno::NOSPC | Errno::DQUOT => NoReservation::Full,
        errno => NoReservation::Failed(errno.into()),
    }
}

/// Bytes that an ordinary user may still write to the file system of an open file or directory.
pub(crate) fn available(file: &File) -> Option<u64> {
    let stat = fstatvfs(file).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
