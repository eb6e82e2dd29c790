//! Errors of files and directories here.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{ConfinedPath, Misplaced};

use super::StoreError;

impl StoreError {
    /// That the directory at `path` could not be made or opened.
    pub(crate) fn directory(path: &Path, source: Error) -> Self {
        if matches!(source.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
            let is_file = |path: &&Path| path.metadata().is_ok_and(|found| !found.is_dir());
            if let Some(file) = path.ancestors().find(is_file) {
                return Self::NotADirectory { path: path.to_owned(), file: file.to_owned() };
            }
        }
        Self::local(path, source)
    }

    pub(crate) fn local(path: impl Into<PathBuf>, source: Error) -> Self {
        match Misplaced::of(&source) {
            Some(misplaced) => Self::Misplaced(misplaced.clone()),
            None => Self::Local { path: path.into(), source },
        }
    }

    /// For `map_err` on what is done at a place.
    pub(crate) fn at(place: &ConfinedPath) -> impl FnOnce(Error) -> Self {
        let path = place.path();
        move |source| Self::local(path, source)
    }
}
