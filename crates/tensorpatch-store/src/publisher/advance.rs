//! The baseline becomes the version that was committed (step P7 of spec/stream.md section 5).

use std::future::Future;

use tensorpatch_delta::{Options, Progress};
use tensorpatch_stream::{Commit, ObjectDigest};

use crate::error::StoreError;
use crate::local::{blocking, rename};
use crate::replica::directory::{InstalledVersion, ReplicaDir};
use crate::replica::update::{self, Ready, Step, Update};

/// How the baseline becomes a version that is committed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Advance {
    /// The files are in the staging directory.
    Staged,
    /// By the patch that was uploaded, which has this digest.
    Patch(ObjectDigest),
}

impl Advance {
    /// Brings the baseline from `tip` to what was just committed.
    pub(super) fn bring(
        self,
        directory: &ReplicaDir,
        tip: Option<&Commit>,
        commit: &Commit,
        options: &Options,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (to, from) = (InstalledVersion::of(commit), tip.map(InstalledVersion::of));
        let (directory, stream, options) = (directory.clone(), commit.record.stream, options.clone());
        blocking(move || {
            let ready = match (self, &from) {
                (Self::Patch(digest), Some(from)) => {
                    // Under its own name the patch is found by the next process, if this one does not come to
                    // the end.
                    let patch = directory.download(&digest);
                    rename(&directory.outgoing(), &patch)?;
                    let step = Step { patch, to: to.clone() };
                    let (directory, options, steps) = (&directory, &options, std::slice::from_ref(&step));
                    let update = Update { directory, stream, from, steps, keeps_inverse: false, options };
                    update.prepare(Progress::none())?.0
                }
                _ => Ready::Staged,
            };
            update::activate(&directory, stream, from.as_ref(), &to, ready, &options)
        })
    }
}
