//! What is in the way where a file or directory of tensorpatch's own belongs.

use std::io;
use std::path::PathBuf;

use super::found::FileKind;

/// Something other than what belongs at a place, such as a link that somebody has put there. It was neither
/// followed nor altered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: it is {found}, where {expected} belongs: {}", path.display(), self.advice())]
#[non_exhaustive]
pub struct Misplaced {
    /// The place.
    pub path: PathBuf,
    /// What is there.
    pub found: FileKind,
    /// What belongs there.
    pub expected: FileKind,
    /// The directory below which no link is followed.
    pub root: PathBuf,
}

impl Misplaced {
    fn advice(&self) -> String {
        let root = self.root.display();
        match (self.found, self.expected) {
            (FileKind::Link, FileKind::Directory) => format!(
                "links below {root} are not followed; remove it, and to have the files on another disk, move {root} \
                 there and make that a link"
            ),
            (FileKind::Link, _) => format!("links below {root} are not followed; remove it"),
            (FileKind::Directory, _) => "move it away".to_owned(),
            _ => "remove it".to_owned(),
        }
    }

    /// The refusal that an error of a [`ConfinedPath`](crate::ConfinedPath) stands for, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}
