//! Which version the weights of a directory without a state file are.

use tensorpatch_stream::{Commit, NamedObject, Version};

use super::Replica;
use super::directory::{InstalledVersion, ReplicaDir, first_entry};
use super::install::{self, Found};
use super::verify::{Depth, with_companions_as_found};
use crate::error::StoreError;
use crate::local::blocking;
use crate::stream::budget::Budget;

/// Records that are read at once to find out which version some weights are.
const ADOPTED_AT_ONCE: u64 = 64;

/// A version that the weights of a directory without a state file were recognised as.
pub(super) struct Adopted {
    pub(super) held: InstalledVersion,
    /// The files beside the weights that are those of the version: they count as having come with it.
    pub(super) own: Vec<NamedObject>,
    /// Names of its files under which others lie.
    pub(super) foreign: Vec<String>,
}

impl Adopted {
    fn of(directory: &ReplicaDir, held: InstalledVersion) -> Result<Self, StoreError> {
        let (found, _) = with_companions_as_found(directory, held.clone(), Depth::Contents)?;
        let (own, others): (Vec<_>, Vec<_>) =
            found.companions.into_iter().partition(|found| held.companions.contains(found));
        Ok(Self { held, own, foreign: others.into_iter().map(|other| other.name).collect() })
    }
}

impl Replica {
    /// Finds out which version the weights in a directory without a state file are. Nothing is written down:
    /// the pull may yet be refused.
    pub(super) async fn adopt(&self, directory: &ReplicaDir) -> Result<Option<Adopted>, StoreError> {
        let foreign = |what: String| StoreError::ForeignDirectory { path: self.dir.clone(), what };
        let replace = self.options.replace;
        let Some(found) = self.examine(directory).await.or_else(|error| match error {
            error if replace && install::is_damage(&error) => Ok(None),
            error => Err(error),
        })?
        else {
            if !replace && let Some(name) = first_entry(&self.dir)? {
                return Err(foreign(format!("it has {name:?}")));
            }
            return Ok(None);
        };
        let Some(tip) = self.stream.tip().await? else { return Err(StoreError::Empty) };
        let (mut end, budget, mut in_other_files) = (tip.record.version, Budget::of(&self.stream), false);
        // From the newest on: it is seldom an old one.
        let commit = loop {
            let start = Version::new(end.get().saturating_sub(ADOPTED_AT_ONCE)).unwrap_or(Version::FIRST);
            let commits = self.stream.commits(start, end, &budget).await?;
            let same = |commit: &&Commit| commit.record.contents.state == found.state;
            let mut same = commits.iter().rev().filter(same).peekable();
            in_other_files |= same.peek().is_some();
            if let Some(commit) = same.find(|commit| commit.record.contents.layout == found.layout) {
                break Some(commit.clone());
            }
            match Version::new(start.get().saturating_sub(1)) {
                Some(before) => end = before,
                None => break None,
            }
        };
        let Some(commit) = commit else {
            if in_other_files {
                tracing::info!(
                    "the weights are those of a version, in other files: they are replaced by the version's own"
                );
            } else if !replace {
                let what = format!("its weights have the state {}, which no version has", found.state);
                return Err(foreign(what));
            }
            return Ok(None);
        };
        self.stream.check_endorsed(&commit).await?;
        let (directory, held) = (directory.clone(), InstalledVersion::of(&commit));
        blocking(move || Adopted::of(&directory, held).map(Some)).await
    }

    async fn examine(&self, directory: &ReplicaDir) -> Result<Option<Found>, StoreError> {
        let (directory, options) = (directory.clone(), self.options.apply.clone());
        let hash = self.stream.record().leaf_hash;
        blocking(move || install::examine(&directory.path(), hash, &options)).await
    }
}
