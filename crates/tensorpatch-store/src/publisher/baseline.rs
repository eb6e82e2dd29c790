//! Where the baseline is, and where it is brought before a version is made (steps P1 and P2 of spec/stream.md
//! section 5).

use std::path::Path;

use tensorpatch_stream::{Commit, Version};

use super::Publisher;
use super::advance;
use super::known::Known;
use super::lag::Lag;
use crate::error::StoreError;
use crate::local::blocking;
use crate::replica::directory::{LocalState, ReplicaDir, first_entry, is_kept};
use crate::replica::install;
use crate::replica::options::Target;

/// Refuses a directory that holds something, and that nothing of this crate has ever been kept in: it would
/// become the newest version, whatever it was.
pub(super) fn check_baseline(dir: &Path) -> Result<(), StoreError> {
    if !dir.is_dir() || is_kept(dir) {
        return Ok(());
    }
    match first_entry(dir)? {
        None => Ok(()),
        Some(found) => Err(StoreError::NotABaseline { path: dir.to_owned(), found }),
    }
}

impl Publisher {
    /// Steps P1 and P2 of section 5.
    pub(super) async fn to_tip(&self, directory: &ReplicaDir) -> Result<Option<Commit>, StoreError> {
        let tip = self.tip(directory).await?;
        self.to_version(directory, tip).await
    }

    /// The newest version. The stream must have the version that was published from here last, though the
    /// baseline is behind it.
    pub(super) async fn tip(&self, directory: &ReplicaDir) -> Result<Option<Commit>, StoreError> {
        let local = self.recovered(directory).await?;
        let held = local.map(|state| state.condition.version());
        let (at, id) = (directory.clone(), self.stream.id());
        let published = blocking(move || Ok(Lag::published(&at, id))).await?;
        let Some((version, commit)) =
            published.filter(|(version, _)| held < Some(*version) && held.is_some())
        else {
            return self.stream.tip_after(held).await;
        };
        let tip = self.stream.tip_after(Some(version)).await?;
        let found = match &tip {
            Some(tip) if tip.record.version == version => Some(tip.digest),
            Some(tip) if tip.record.version > version => {
                self.stream.commit(version).await?.map(|commit| commit.digest)
            }
            _ => None,
        };
        if found == Some(commit) {
            return Ok(tip);
        }
        let what = if found.is_some() { "is another one now" } else { "is there no longer" };
        let baseline = self.baseline.display();
        let what =
            format!("version {version}, which was published last with the baseline {baseline}, {what}");
        Err(StoreError::HistoryRewritten(what))
    }

    /// What the baseline holds, once an interrupted step is brought to its end.
    pub(super) async fn recovered(&self, directory: &ReplicaDir) -> Result<Option<LocalState>, StoreError> {
        let (directory, options) = (directory.clone(), self.options.diff.clone());
        blocking(move || install::recover(&directory, &options)).await
    }

    /// Brings the baseline to `tip`, the newest version, unless a checkpoint of the caller's can take its
    /// place: then it is said how far it stays behind.
    pub(super) async fn to_version_or_source(
        &self,
        directory: &ReplicaDir,
        tip: Option<Commit>,
    ) -> Result<(Option<Commit>, Option<Lag>), StoreError> {
        if let Some(commit) = tip.clone().filter(|_| self.options.base.is_none()) {
            let (local, at) = (self.recovered(directory).await?, directory.clone());
            let lag = blocking(move || Ok(Lag::load(&at, local.as_ref(), &commit))).await?;
            if lag.is_some() {
                return Ok((tip, lag));
            }
        }
        Ok((self.to_version(directory, tip).await?, None))
    }

    /// Brings the baseline to `tip`, the newest version.
    pub(super) async fn to_version(
        &self,
        directory: &ReplicaDir,
        tip: Option<Commit>,
    ) -> Result<Option<Commit>, StoreError> {
        let local = self.recovered(directory).await?;
        let Some(tip) = tip else {
            return match local {
                None => match first_entry(&self.baseline)? {
                    None => Ok(None),
                    Some(name) => Err(StoreError::ForeignDirectory {
                        path: self.baseline.clone(),
                        what: format!("it has {name:?}"),
                    }),
                },
                Some(local) => {
                    local.check_stream(self.stream.id(), &self.baseline)?;
                    Err(StoreError::HistoryRewritten("the baseline holds a version, the stream none".into()))
                }
            };
        };
        let is_there =
            local.is_some_and(|local| local.stream == self.stream.id() && local.condition.holds(&tip));
        if !is_there && self.options.base.is_none() && !self.catch_up_alone(directory, &tip).await? {
            self.replica().pull_locked(directory, Target::Version(tip.record.version)).await?;
        }
        Ok(Some(tip))
    }

    /// Brings the baseline to `tip` with the patches that it has, which the stream may lack; says whether it
    /// did.
    async fn catch_up_alone(&self, directory: &ReplicaDir, tip: &Commit) -> Result<bool, StoreError> {
        let local = self.recovered(directory).await?;
        let (at, tip, options) = (directory.clone(), tip.clone(), self.options.diff.clone());
        blocking(move || {
            let Some(lag) = Lag::of(&at, local.as_ref(), &tip) else { return Ok(false) };
            let brought = advance::catch_up(&at, lag, &tip, &options);
            if let Err(error) = &brought {
                tracing::info!("the patches that are kept do not lead to the newest version: {error}");
            }
            Ok(brought.is_ok())
        })
        .await
    }

    /// Brings the baseline to the tip, if that is the one that is known, or this publisher's own attempt
    /// whose end it did not see.
    pub(super) async fn to_tip_if_own(
        &self,
        directory: &ReplicaDir,
        known: &mut Known,
    ) -> Result<Option<Commit>, StoreError> {
        let tip = self.tip_if_own(known).await?;
        self.to_version(directory, tip).await
    }

    pub(super) async fn tip_if_own(&self, known: &Known) -> Result<Option<Commit>, StoreError> {
        // Known before anything is encoded and uploaded.
        self.stream.check_signing()?;
        let held = known.tip.as_ref().map(|tip| tip.record.version);
        let tip = self.stream.tip_after(held).await?;
        let unchanged = tip == known.tip;
        let own = tip.as_ref().is_some_and(|tip| known.attempt == Some(tip.record.nonce));
        if !unchanged && !own {
            return Err(match &tip {
                Some(tip) if held.is_none_or(|held| held < tip.record.version) => {
                    StoreError::NotAtTip { held, tip: tip.record.version }
                }
                _ => StoreError::HistoryRewritten(format!(
                    "version {} was the newest, and is no longer",
                    held.map_or(0, Version::get)
                )),
            });
        }
        Ok(tip)
    }
}
