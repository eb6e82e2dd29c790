//! The baseline becomes the version that was committed, or stays behind (step P7 of spec/stream.md section
//! 5).

use std::future::Future;

use tensorpatch_delta::{Options, Progress};
use tensorpatch_stream::{Commit, ObjectDigest};

use super::lag::{Lag, Source};
use crate::error::StoreError;
use crate::local::{blocking, rename};
use crate::replica::directory::{Condition, InstalledVersion, LocalState, ReplicaDir};
use crate::replica::update::{self, Ready, Step, Update};

/// How the baseline becomes a version that is committed.
#[derive(Debug)]
pub(super) enum Advance {
    /// The files are in the staging directory, copied from a checkpoint of the caller's.
    Staged(Option<Source>),
    /// By the patch that was uploaded.
    Patch(Patched),
}

/// A patch that was uploaded, and what it was made of.
#[derive(Debug)]
pub(super) struct Patched {
    pub(super) digest: ObjectDigest,
    /// The checkpoint that the patch leads to, if it is one of the caller's.
    pub(super) source: Option<Source>,
    /// How far the baseline was behind, if a checkpoint took its place.
    pub(super) lag: Option<Lag>,
}

impl Advance {
    /// Brings the baseline from where it is to what was just committed. Where a checkpoint of the caller's
    /// has taken its place, and can do so again, it stays where it is.
    pub(super) fn bring(
        self,
        directory: &ReplicaDir,
        commit: &Commit,
        options: &Options,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (directory, commit, options) = (directory.clone(), commit.clone(), options.clone());
        blocking(move || {
            let brought = match self {
                Self::Staged(source) => switch(&directory, &commit, source, &options),
                Self::Patch(patched) => patched.bring(&directory, &commit, &options),
            };
            if brought.is_err() {
                // The next call brings it there from the stream.
                Lag::none(&commit, None).keep(&directory)?;
            }
            brought
        })
    }
}

fn switch(
    directory: &ReplicaDir,
    commit: &Commit,
    source: Option<Source>,
    options: &Options,
) -> Result<(), StoreError> {
    let to = InstalledVersion::of(commit);
    update::activate(directory, commit.record.stream, None, &to, Some(&[]), Ready::Staged, options)?;
    Lag::none(commit, source).keep(directory)
}

impl Patched {
    fn bring(self, directory: &ReplicaDir, commit: &Commit, options: &Options) -> Result<(), StoreError> {
        let Self { digest, source, lag } = self;
        // Under its own name the patch is found by the next process, if this one does not come to the end.
        rename(&directory.outgoing(), &directory.download(&digest))?;
        let held = held(directory)?;
        let stays = lag.is_some();
        let lag = Lag::after(lag, &held, digest, commit, source);
        if stays && lag.is_bearable(directory, &held, commit) {
            return lag.keep(directory);
        }
        catch_up(directory, lag, commit, options)
    }
}

fn held(directory: &ReplicaDir) -> Result<InstalledVersion, StoreError> {
    match directory.load()? {
        Some(LocalState { condition: Condition::Held(held), .. }) => Ok(held),
        _ => {
            let what = "it holds no version any more".into();
            Err(StoreError::LocalState { path: directory.path(), what })
        }
    }
}

/// Brings the baseline to the version of `commit` with the patches that it is behind by.
pub(super) fn catch_up(
    directory: &ReplicaDir,
    lag: Lag,
    commit: &Commit,
    options: &Options,
) -> Result<(), StoreError> {
    let mut from = held(directory)?;
    let mut steps = lag.clone().into_steps(directory, &from, commit);
    while !steps.is_empty() {
        (from, steps) = follow(directory, commit, from, steps, options)?;
    }
    // What led there is of no use any more.
    directory.sweep(&[])?;
    Lag::none(commit, lag.into_source()).keep(directory)
}

/// Applies as many of `steps` as go in one pass, and returns the version that is then held and the steps that
/// are left.
fn follow(
    directory: &ReplicaDir,
    commit: &Commit,
    from: InstalledVersion,
    mut steps: Vec<Step>,
    options: &Options,
) -> Result<(InstalledVersion, Vec<Step>), StoreError> {
    let stream = commit.record.stream;
    let update = Update { directory, stream, from: &from, steps: &steps, keeps_inverse: false, options };
    let (ready, done) = update.prepare(Progress::none())?;
    let left = steps.split_off(done.clamp(1, steps.len()));
    let to = steps.pop().ok_or(StoreError::Empty)?.to;
    update::activate(directory, stream, Some(&from), &to, Some(&from.companions), ready, options)?;
    Ok((to, left))
}
