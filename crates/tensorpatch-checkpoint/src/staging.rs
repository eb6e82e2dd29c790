//! A hidden file or directory beside the destination that becomes it by a rename.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::patch_lock::is_lock;
use crate::{CheckpointError, ConfinedPath, FileKind, Form, Found};

/// Enough for a process id and a random number, and no name is longer than 255 bytes.
const NAME_BYTES: usize = 200;
const MARK: &str = ".tensorpatch-";
/// What tells a staged directory from another that was renamed to such a name: nobody else can have put it
/// there. It goes before the directory gets its name.
const OWN: &str = ".tensorpatch-staging";
const ATTEMPTS: usize = 16;

/// Held while a staging is made, and for good by a process that ends: it makes no more.
static MAKING: Mutex<()> = Mutex::new(());

/// `.NAME.tensorpatch-PID-RANDOM` in the directory of the destination; removed when dropped without being
/// renamed.
///
/// The owner holds a lock (`flock`) on it, which ends with the process however that ends; so whoever gets
/// the lock knows that the owner is dead, across containers that share a volume too, where process ids say
/// nothing.
#[derive(Debug)]
pub(crate) struct Staging {
    place: ConfinedPath,
    /// The file, or the directory itself; keeps the lock.
    handle: File,
    renamed: bool,
    form: Form,
}

impl Staging {
    /// Makes a new staging for `dest`, beside it, after removing those that dead owners left.
    pub(crate) fn create(dest: &ConfinedPath, form: Form) -> Result<Self, CheckpointError> {
        let prefix = prefix(dest.file_name());
        sweep(dest, &prefix);
        for _ in 0..ATTEMPTS {
            let mut file_name = prefix.clone();
            let random = RandomState::new().build_hasher().finish();
            file_name.push(format!("{}-{random:016x}", std::process::id()));
            let place = dest.with_file_name(file_name);
            let made = {
                let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
                create_new(&place, form)
            };
            let handle = match made {
                Ok(handle) => handle,
                // The name is taken, or a sweep came between making and opening.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
                {
                    continue;
                }
                Err(error) => return Err(CheckpointError::io("create", &place.path())(error)),
            };
            // Without support for locks nothing can be swept either, so there is nothing to lose.
            let swept = matches!(handle.try_lock(), Err(TryLockError::WouldBlock));
            let staging = Self { place, handle, renamed: false, form };
            if !swept && staging.is_in_place() {
                staging.mark().map_err(CheckpointError::io("mark", &staging.place.path()))?;
                return Ok(staging);
            }
        }
        let error = io::Error::other("other processes keep removing it");
        Err(CheckpointError::io("create a staging file for", &dest.path())(error))
    }

    pub(crate) fn place(&self) -> &ConfinedPath {
        &self.place
    }

    /// The open file, or the open directory.
    pub(crate) fn handle(&self) -> &File {
        &self.handle
    }

    /// Whether the path still leads to what is locked: a sweep may have removed it before the lock was taken.
    fn is_in_place(&self) -> bool {
        match (Found::of_open(&self.handle), self.place.find()) {
            (Ok(ours), Ok(Some(there))) => ours.identity == there.identity,
            _ => false,
        }
    }

    fn mark(&self) -> io::Result<()> {
        if self.form == Form::Directory {
            self.place.join(OWN).create_private()?;
        }
        Ok(())
    }

    /// Takes away what is not to be at the destination. What is left after a crash from here on is nobody's
    /// to remove.
    pub(crate) fn unmark(&self) -> io::Result<()> {
        if self.form == Form::Directory { self.place.join(OWN).remove_file() } else { Ok(()) }
    }

    /// Puts the staging in the place of `dest`.
    pub(crate) fn rename(mut self, dest: &ConfinedPath) -> io::Result<()> {
        self.place.rename(dest)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Somebody may have renamed it, and put another directory in its place.
        if !self.renamed && self.is_in_place() {
            remove(&self.place);
        }
    }
}

fn create_new(place: &ConfinedPath, form: Form) -> io::Result<File> {
    match form {
        Form::File => place.create_new(),
        Form::Directory => {
            place.create_new_dir()?;
            place.open_dir()
        }
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
fn sweep(dest: &ConfinedPath, prefix: &OsStr) {
    for place in beside(dest, prefix) {
        let handle = match place.find() {
            Ok(Some(Found { kind: FileKind::File, .. })) => place.open_to_alter(),
            Ok(Some(found)) if found.kind == FileKind::Directory && is_own(&place, &found) => {
                place.open_dir()
            }
            _ => continue,
        };
        // Removed while the lock is held: an owner that has just made it sees that, and takes another name.
        if let Ok(handle) = handle
            && handle.try_lock().is_ok()
        {
            remove(&place);
        }
    }
}

/// Whether a directory is a staged one of this user's. Whoever may rename in a directory could have given the
/// name of one to any other there, which they could not delete.
fn is_own(place: &ConfinedPath, found: &Found) -> bool {
    let user = rustix::process::geteuid().as_raw();
    found.owner == user
        && found.mode & 0o002 == 0
        && matches!(place.join(OWN).find(), Ok(Some(mark)) if mark.is_only_ours())
}

/// The stagings beside `dest`, by their names.
fn beside(dest: &ConfinedPath, prefix: &OsStr) -> Vec<ConfinedPath> {
    let mut names = dest.siblings().unwrap_or_default();
    names.retain(|name| name.as_bytes().strip_prefix(prefix.as_bytes()).is_some_and(is_owner_mark));
    names.into_iter().map(|name| dest.with_file_name(name)).collect()
}

/// Removes what this process is writing for `destinations` and has not finished: for the end of a process
/// whose threads cannot be stopped. What other processes write stays.
///
/// The process must end then: a thread that begins another file waits for ever.
///
/// Whether it is this process's is told by its open files, so it works on Linux only; elsewhere the next
/// write to the same destination removes it.
pub fn remove_unfinished<'a>(destinations: impl IntoIterator<Item = &'a Path>) {
    std::mem::forget(MAKING.lock().unwrap_or_else(PoisonError::into_inner));
    for dest in destinations {
        remove_unfinished_of(dest);
    }
}

fn remove_unfinished_of(dest: &Path) {
    let (Ok(dest), Ok(open)) = (ConfinedPath::of(dest), fs::read_dir("/proc/self/fd")) else { return };
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let open: Vec<(u64, u64)> =
        open.flatten().filter_map(|entry| Some(identity(fs::metadata(entry.path()).ok()?))).collect();
    let mut partial = dest.file_name().to_owned();
    partial.push(".partial");
    let mut places = beside(&dest, &prefix(dest.file_name()));
    places.push(dest.with_file_name(partial));
    let locks = dest.siblings().unwrap_or_default().into_iter().filter(|name| is_lock(name));
    places.extend(locks.map(|name| dest.with_file_name(name)));
    for place in places {
        if matches!(place.find(), Ok(Some(found)) if open.contains(&found.identity)) {
            remove(&place);
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

fn remove(place: &ConfinedPath) {
    // Nobody is left to be told; the next run with this destination tries again.
    let _ = place.remove();
}
