//! Room on the file system, reserved before work begins.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, StatVfs, fallocate, fstatvfs};
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

/// Bytes that an ordinary user may still write to the file system of an open file or directory, if it says.
pub(crate) fn available(file: &File) -> Option<u64> {
    free(&fstatvfs(file).ok()?)
}

fn free(stat: &StatVfs) -> Option<u64> {
    // A file system of no blocks at all, as some in user space present themselves, does not count them.
    if stat.f_blocks == 0 {
        return None;
    }
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_counts_no_blocks_does_not_pass_for_a_full_one() {
        let mut stat = fstatvfs(File::open(".").unwrap()).unwrap();
        (stat.f_blocks, stat.f_bavail, stat.f_frsize) = (0, 0, 0);
        assert_eq!(free(&stat), None);
        (stat.f_blocks, stat.f_frsize) = (10, 4096);
        assert_eq!(free(&stat), Some(0));
        stat.f_bavail = 3;
        assert_eq!(free(&stat), Some(3 * 4096));
    }
}
