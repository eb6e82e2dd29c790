//! Going back to the version that was held before, by the patch that was kept when it was left.

use tensorpatch_delta as delta;
use tensorpatch_stream::{
    Commit, Delta, DeltaKind, Edge, EdgeKind, History, Nonce, ObjectDigest, ObjectRef, PatchObject, Plan,
    names,
};

use super::Replica;
use super::directory::{InstalledVersion, ReplicaDir};
use super::options::ApplyMode;
use super::update;
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::stream::budget::Budget;

impl Replica {
    /// The plan to go back from what is held to `target` by the patch that was kept, which is then among the
    /// downloads; `None` if there is none that leads there.
    pub(super) async fn way_back(
        &self,
        directory: &ReplicaDir,
        held: Option<&InstalledVersion>,
        target: &Commit,
        first: bool,
    ) -> Result<Option<(History, Plan)>, StoreError> {
        let (number, is_in_place) = (target.record.version, self.options.mode == ApplyMode::InPlace);
        let Some(held) = held.filter(|held| first && is_in_place && held.id.version > number) else {
            return Ok(None);
        };
        let (dir, from, to, options) =
            (directory.clone(), held.clone(), target.clone(), self.options.apply.clone());
        let Some(object) = blocking(move || offer(&dir, &from, &to, &options)).await? else {
            return Ok(None);
        };
        let budget = Budget::of(&self.stream);
        let history = History::new(self.stream.commits(number, held.id.version, &budget).await?, [])?;
        if history.commit(held.id.version).map(Commit::id) != Some(held.id) {
            return Ok(None);
        }
        let patches = vec![PatchObject { object, schema: None }];
        let (changed_elements, total_elements) = (0, 0);
        let delta =
            Delta { base: held.id, kind: DeltaKind::Delta, changed_elements, total_elements, patches };
        let edge = Edge { target: target.id(), kind: EdgeKind::Delta(delta) };
        Ok(Some((history, Plan { edges: vec![edge] })))
    }
}

/// Puts the patch that was kept among the downloads, if it leads from what is held to `to`.
fn offer(
    directory: &ReplicaDir,
    held: &InstalledVersion,
    to: &Commit,
    options: &delta::Options,
) -> Result<Option<ObjectRef>, StoreError> {
    let (place, contents) = (directory.inverse(), &to.record.contents);
    let is_way = match update::open(&place, held.id.state, (to.record.version, contents.state), options) {
        Ok(patch) => patch.trailer().ends.target_layout == contents.layout,
        Err(error) => {
            tracing::debug!(%error, "no patch that was kept leads back");
            false
        }
    };
    if !is_way {
        return Ok(None);
    }
    let failed = |e| StoreError::local(place.path(), e);
    let mut file = place.open().map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(failed)?;
    let digest = ObjectDigest::finish(&hasher);
    let download = directory.download(&digest);
    local::remove(&download)?;
    local::rename(&place, &download)?;
    let key = names::patch(to.record.version, Nonce::random(), "inverse.tpatch")?;
    Ok(Some(ObjectRef { key, bytes, blake3: digest }))
}
