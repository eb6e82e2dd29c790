//! Places on disk that a call reads and writes, so that none that it alters is one of the others.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::{Checkpoint, CheckpointError};

/// The most symbolic links to nothing that are followed, one after the other.
const MAX_LINKS: usize = 40;

/// What a path is to a call, in the words of its documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The checkpoint that a patch starts from.
    Base,
    /// The checkpoint that a patch is to make.
    Target,
    /// The checkpoint that is published.
    Checkpoint,
    /// A patch.
    Patch,
    /// What is converted.
    Source,
    /// What is written.
    Output,
    /// The replica that a publisher encodes against.
    Baseline,
    /// A directory that follows a stream.
    Replica,
    /// A stream in a local directory.
    Stream,
    /// A copy of a stream in a local directory.
    Copy,
    /// A directory for files on their way.
    Work,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Target => "target",
            Self::Checkpoint => "checkpoint",
            Self::Patch => "patch",
            Self::Source => "source",
            Self::Output => "output",
            Self::Baseline => "baseline",
            Self::Replica => "replica",
            Self::Stream => "stream",
            Self::Copy => "copy",
            Self::Work => "working directory",
        })
    }
}

/// The paths of a call by what they are to it.
///
/// Two places collide if one of them is altered and they are the same, or one lies in the other: by path,
/// through links, and through bind mounts of either. What is not there yet is where its nearest directory is.
///
/// ```
/// use tensorpatch_checkpoint::{Places, Role};
///
/// let dir = tempfile::tempdir()?;
/// let (checkpoint, stream) = (dir.path().join("step-7"), dir.path().join("stream"));
/// Places::default().read(Role::Checkpoint, &checkpoint).altered(Role::Stream, &stream).check()?;
/// let inside = checkpoint.join("stream");
/// let places = Places::default().read(Role::Checkpoint, &checkpoint).altered(Role::Stream, &inside);
/// assert!(places.check().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Places {
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    role: Role,
    path: PathBuf,
    altered: bool,
}

impl Places {
    /// The same with a place that is read.
    pub fn read(mut self, role: Role, path: impl Into<PathBuf>) -> Self {
        self.places.push(Place { role, path: path.into(), altered: false });
        self
    }

    /// The same with a checkpoint that is read: where it is, and where links in it lead.
    pub fn read_checkpoint(self, role: Role, checkpoint: &Checkpoint) -> Self {
        checkpoint.files().fold(self.read(role, checkpoint.path()), |places, file| places.read(role, file))
    }

    /// The same with a place that is made or altered.
    pub fn altered(mut self, role: Role, path: impl Into<PathBuf>) -> Self {
        self.places.push(Place { role, path: path.into(), altered: true });
        self
    }

    /// Says that no place that is altered is one of the others.
    ///
    /// # Errors
    /// [`CheckpointError::SamePlace`] with the first two that collide.
    pub fn check(&self) -> Result<(), CheckpointError> {
        let located: Vec<(&Place, Vec<Location>)> =
            self.places.iter().map(|place| (place, place.locations())).collect();
        for (number, (place, locations)) in located.iter().enumerate() {
            for (other, others) in located.iter().take(number) {
                let meet = |location: &Location| others.iter().any(|other| location.meets(other));
                if (place.altered || other.altered) && locations.iter().any(meet) {
                    return Err(CheckpointError::SamePlace {
                        role: place.role,
                        path: place.path.clone(),
                        other_role: other.role,
                        other: other.path.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Place {
    /// Where it is; and where its name is, as a rename replaces a link and not what it leads to. A pipe or a
    /// device is nowhere: nothing of it is replaced.
    fn locations(&self) -> Vec<Location> {
        let is_special = fs::metadata(&self.path).is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_fifo() || kind.is_char_device() || kind.is_socket()
        });
        if is_special {
            return Vec::new();
        }
        let mut found = vec![Location::of(&self.path)];
        if self.altered
            && self.path.is_symlink()
            && let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name())
        {
            let mut of_name =
                Location::of(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
            of_name.missing.push(name.to_owned());
            found.push(of_name);
        }
        found
    }
}

/// A place by the directories that lead to it.
#[derive(Debug)]
struct Location {
    /// Device and inode of what is there, innermost first.
    there: Vec<(u64, u64)>,
    /// The names below that are not there yet, outermost first.
    missing: Vec<OsString>,
}

impl Location {
    fn of(path: &Path) -> Self {
        let mut at = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (mut missing, mut links) = (Vec::new(), 0_usize);
        let there = loop {
            // What may not be looked at is told apart by its name.
            if let Ok(real) = fs::canonicalize(&at) {
                break real;
            }
            if let Ok(target) = fs::read_link(&at)
                && links < MAX_LINKS
            {
                links = links.saturating_add(1);
                at.pop();
                at.push(target);
                continue;
            }
            match at.components().next_back() {
                Some(Component::Normal(name)) => missing.push(name.to_owned()),
                // `..` below what is not there takes back the name before it.
                Some(Component::ParentDir) => {
                    at.pop();
                }
                _ => {}
            }
            if !at.pop() {
                break at;
            }
        };
        missing.reverse();
        let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        Self { there: there.ancestors().filter_map(identity).collect(), missing }
    }

    /// Whether they are the same, or one lies in the other.
    fn meets(&self, other: &Self) -> bool {
        self.is_in(other) || other.is_in(self)
    }

    fn is_in(&self, outer: &Self) -> bool {
        let Some(innermost) = outer.there.first() else { return false };
        if outer.missing.is_empty() {
            return self.there.contains(innermost);
        }
        self.there.first() == Some(innermost) && self.missing.starts_with(&outer.missing)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn meet(one: &Path, other: &Path) -> bool {
        let found = Places::default().read(Role::Checkpoint, one).altered(Role::Baseline, other).check();
        let back = Places::default().altered(Role::Stream, other).read(Role::Checkpoint, one).check();
        assert_eq!(found.is_err(), back.is_err());
        found.is_err()
    }

    #[test]
    fn places_meet_by_path_link_and_nesting_whether_they_are_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/w"), "w").unwrap();
        fs::hard_link(at("a/w"), at("hard")).unwrap();
        symlink(at("a"), at("link")).unwrap();
        symlink("a/w", at("to-file")).unwrap();
        symlink("new", at("to-nothing")).unwrap();
        for (one, other) in [
            ("a", "a"),
            ("a", "a/b"),
            ("a", "a/../a/."),
            ("a", "link"),
            ("a/b", "link/b"),
            ("a", "link/new"),
            ("a", "link/b/new/newer"),
            ("a/w", "to-file"),
            ("a/w", "hard"),
            ("new", "new"),
            ("new", "new/newer"),
            ("new", "to-nothing"),
            ("new", "to-nothing/newer"),
            ("new", "other/../new"),
        ] {
            assert!(meet(&at(one), &at(other)) && meet(&at(other), &at(one)), "{one} and {other}");
        }
        for (one, other) in [
            ("a/b", "a/w"),
            ("a", "new"),
            ("new", "newer"),
            ("new/x", "new/y"),
            ("a/b", "a/new"),
            ("a", "hard"),
        ] {
            assert!(!meet(&at(one), &at(other)) && !meet(&at(other), &at(one)), "{one} and {other}");
        }
    }

    #[test]
    fn a_name_that_is_replaced_counts_where_it_is_and_not_only_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("checkpoint")).unwrap();
        fs::write(at("elsewhere"), "").unwrap();
        symlink(at("elsewhere"), at("checkpoint/link")).unwrap();
        assert!(meet(&at("checkpoint"), &at("checkpoint/link")));
        assert!(!meet(&at("checkpoint"), &at("elsewhere")));
    }

    #[test]
    fn what_is_only_read_may_be_one_place_and_a_device_is_none() {
        let dir = tempfile::tempdir().unwrap();
        Places::default().read(Role::Base, dir.path()).read(Role::Target, dir.path()).check().unwrap();
        let null = Path::new("/dev/null");
        Places::default().read(Role::Patch, null).altered(Role::Output, null).check().unwrap();
    }

    #[test]
    fn the_error_names_both_roles_and_both_paths() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, baseline) = (dir.path().join("c"), dir.path().join("c/b"));
        let places = Places::default().read(Role::Checkpoint, &checkpoint).altered(Role::Baseline, &baseline);
        let said = places.check().unwrap_err().to_string();
        for word in ["checkpoint", "baseline", checkpoint.to_str().unwrap(), baseline.to_str().unwrap()] {
            assert!(said.contains(word), "{said}");
        }
    }
}
