//! What the records of a stream name, and what is known of it beforehand.

use std::collections::BTreeMap;

use tensorpatch_format::{PatchHeader, StateDigest, Trailer};
use tensorpatch_stream::{EdgeKind, History, ObjectRef, Version};

use crate::bucket::download::BothEnds;
use crate::error::StoreError;

/// An object that records name.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) object: ObjectRef,
    /// The lowest version that an edge with it starts from, of that which needs it longest.
    pub(super) version: Version,
    /// For a patch that a whole edge is of: the states that it is to lead from and to.
    states: Option<(StateDigest, StateDigest)>,
}

/// All objects that records name. Two that disagree about one object are both there: it can be one of them.
pub(super) fn wanted(history: &History) -> Vec<Wanted> {
    let mut wanted: BTreeMap<ObjectRef, (Version, Option<(StateDigest, StateDigest)>)> = BTreeMap::new();
    let mut want = |object: &ObjectRef, version: Version, states| {
        let entry = wanted.entry(object.clone()).or_insert((version, states));
        // The one that is needed longest decides whether it may be gone.
        entry.0 = entry.0.max(version);
        entry.1 = entry.1.or(states);
    };
    for edge in history.edges() {
        let from = edge.base().map_or(edge.target.version, |base| base.version);
        if let EdgeKind::Delta(delta) = &edge.kind
            && let [patch] = delta.patches.as_slice()
        {
            want(&patch.object, from, Some((delta.base.state.digest, edge.target.state.digest)));
        }
        edge.all_objects().into_iter().for_each(|object| want(object, from, None));
    }
    for commit in history.commits() {
        for companion in &commit.record.companions {
            want(&companion.object, commit.record.version, None);
        }
    }
    let all = wanted.into_iter();
    all.map(|(object, (version, states))| Wanted { object, version, states }).collect()
}

impl Wanted {
    /// Says that an object that begins and ends like this, and has the digest that it is to have, is a patch
    /// between the states that it is to lead from and to, if it is to be one.
    pub(super) fn check(&self, ends: &BothEnds) -> Result<(), StoreError> {
        let Some((base, target)) = self.states else { return Ok(()) };
        let damaged = |what: String| StoreError::Damaged { name: self.object.key.to_string(), what };
        let trailer = PatchHeader::from_bytes(&ends.first).and_then(|header| {
            let bytes = ends.last.first_chunk().unwrap_or(&[0; Trailer::LEN]);
            let offset = self.object.bytes.saturating_sub(Trailer::LEN as u64);
            Trailer::from_bytes(bytes, offset, &header)
        });
        let found = trailer.map_err(|error| damaged(format!("it is no patch: {error}")))?.ends;
        for (which, found, expected) in
            [("base", found.base_state, base), ("target", found.target_state, target)]
        {
            if found != expected {
                return Err(damaged(format!("its {which} state is {found}, its record says {expected}")));
            }
        }
        Ok(())
    }
}
