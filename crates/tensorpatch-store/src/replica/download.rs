//! Downloading what a plan needs, while the version held still serves (section 6, step R3).

use std::collections::BTreeSet;
use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_stream::{Commit, NamedObject, ObjectRef, Plan};

use super::directory::ReplicaDir;
use super::{Replica, install};
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::local::blocking;
use crate::observe::Phase;

impl Replica {
    /// Fetches what is not there yet, and sweeps what is of no use; returns the bytes fetched.
    pub(super) async fn download(
        &self,
        directory: &ReplicaDir,
        plan: &Plan,
        target: &Commit,
        old_companions: &[NamedObject],
    ) -> Result<u64, StoreError> {
        let mut objects: Vec<ObjectRef> = plan.objects().into_iter().cloned().collect();
        let new = target
            .record
            .companions
            .iter()
            .filter(|companion| !old_companions.contains(companion) || !directory.has(&companion.name));
        objects.extend(new.map(|companion| companion.object.clone()));
        let mut seen = BTreeSet::new();
        objects.retain(|object| seen.insert(object.blake3));
        let keep: Vec<ConfinedPath> =
            objects.iter().map(|object| directory.download(&object.blake3)).collect();
        let sweeping = directory.clone();
        blocking(move || sweeping.sweep(&keep)).await?;
        let kept = directory.clone();
        let objects = blocking(move || {
            // Under its final name there was only what is complete and verified; disks forget.
            let mut wanted = Vec::new();
            for object in objects {
                if !install::is_downloaded(&kept.download(&object.blake3), &object)? {
                    wanted.push(object);
                }
            }
            Ok(wanted)
        })
        .await?;
        let bytes = objects.iter().fold(0_u64, |sum, object| sum.saturating_add(object.bytes));
        let observer = &self.options.observer;
        observer.start(Phase::Download, bytes);
        let at_once = self.stream.policy().transfers.parallel_downloads;
        let fetched = buffered_all(&objects, at_once, |object| async move {
            self.stream.bucket().download(object, &directory.download(&object.blake3), observer).await
        })
        .await?;
        Ok(fetched.into_iter().fold(0, u64::saturating_add))
    }
}
