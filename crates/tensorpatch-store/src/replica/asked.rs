//! What a version brings along that a replica takes only if that was asked for. Blocking.

use std::path::Path;

use tensorpatch_checkpoint::{holds_code, open_regular, runs_code};
use tensorpatch_stream::{Commit, NamedObject};

use super::directory::ReplicaDir;
use super::install;
use super::options::ReplicaOptions;
use crate::error::StoreError;

/// Refuses files beside the weights whose names say that they can run code, and those that would take the
/// place of files in `root` that did not come with a version: those of `came` did.
///
/// # Errors
/// [`StoreError::RunsCode`] and [`StoreError::OwnFile`], unless `options` allow it.
pub(super) fn check_asked_for(
    root: &Path,
    came: &[NamedObject],
    target: &Commit,
    options: &ReplicaOptions,
) -> Result<(), StoreError> {
    for NamedObject { name, object } in &target.record.companions {
        if runs_code(name) && !options.allow_code {
            return Err(StoreError::RunsCode { version: target.record.version, name: name.clone() });
        }
        let path = root.join(name);
        let is_own = options.replace || came.iter().any(|came| came.name == *name);
        let is_file = || std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir());
        // A link has what it leads to: a snapshot in the cache of the Hub is made of links.
        let is_same = || open_regular(&path).is_ok_and(|file| install::holds(file, object).unwrap_or(false));
        if !is_own && is_file() && !is_same() {
            return Err(StoreError::OwnFile { path, version: target.record.version });
        }
    }
    Ok(())
}

/// Refuses files beside the weights that were downloaded and hold what can run code, whatever their names
/// are.
///
/// # Errors
/// [`StoreError::RunsCode`], unless `options` allow it; if one cannot be read.
pub(super) fn check_downloaded(
    directory: &ReplicaDir,
    target: &Commit,
    options: &ReplicaOptions,
) -> Result<(), StoreError> {
    if options.allow_code {
        return Ok(());
    }
    for NamedObject { name, object } in &target.record.companions {
        let place = directory.download(&object.blake3);
        let file = match place.open() {
            Ok(file) => file,
            // It is in its place already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::at(&place)(error)),
        };
        if holds_code(name, &file).map_err(StoreError::at(&place))? {
            return Err(StoreError::RunsCode { version: target.record.version, name: name.clone() });
        }
    }
    Ok(())
}
