//! The hidden directory of a replica, and the state file that says what the directory holds (spec/stream.md
//! section 6).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tensorpatch_checkpoint::{ConfinedPath, FileKind};
use tensorpatch_delta::Durability;
use tensorpatch_stream::names::is_file_path;
use tensorpatch_stream::{Commit, NamedObject, ObjectDigest, StreamId, Version, VersionId};

use crate::error::StoreError;
use crate::local;
use crate::lock::Lock;

/// The name of the hidden directory.
pub(crate) const HIDDEN: &str = ".tensorpatch";
const STATE: &str = "state.json";
const BASELINE: &str = "baseline";
const CHAIN: &str = "chain.json";
const LAG: &str = "lag.json";
/// Room for the lists of files of a version, those of another, and their names once more: each is part of a
/// record.
const MAX_STATE_BYTES: u64 = 64 << 20;
const FORMAT: &str = "tensorpatch-replica";

/// The paths of a replica, and the lock on it, which is held until the last clone is dropped.
///
/// Work on a blocking thread goes on when the future that waits for it is dropped, so whatever alters files
/// owns a clone.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaDir {
    root: ConfinedPath,
    /// The hidden directory, which stays the one that is locked.
    hidden: ConfinedPath,
    durability: Durability,
    /// Whether the hidden directory is this call's own.
    is_new: bool,
    /// The directories on the way to the replica, it included, that are this call's own.
    made: Vec<PathBuf>,
    _lock: Arc<Lock>,
}

/// A version whose files lie in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstalledVersion {
    pub(crate) id: VersionId,
    /// The files beside the weights that came with it.
    pub(crate) companions: Vec<NamedObject>,
}

impl InstalledVersion {
    pub(crate) fn of(commit: &Commit) -> Self {
        Self { id: commit.id(), companions: commit.record.companions.clone() }
    }
}

/// Files that go from the staging directory into the replica, and files that then go away; paths of plain
/// names below the directory, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct FileSwap {
    pub(crate) files: Vec<String>,
    pub(crate) remove: Vec<String>,
}

/// What the files of a replica are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// A version.
    Held(InstalledVersion),
    /// One version, the other, or between; the journal makes it the other.
    Applying { from: InstalledVersion, to: InstalledVersion, then: FileSwap },
    /// A version once the renames are done.
    Switching { to: InstalledVersion, install: FileSwap },
    /// Found to be no version any more, or not yet again.
    Damaged { was: InstalledVersion },
}

impl Condition {
    /// The newest version that it speaks of, which the stream had.
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::Held(installed) | Self::Damaged { was: installed } => installed.id.version,
            Self::Applying { to, .. } | Self::Switching { to, .. } => to.id.version,
        }
    }

    /// The files beside the weights that came with that version or, where one takes the place of
    /// another, with that one.
    pub(crate) fn companions(&self) -> impl Iterator<Item = &NamedObject> {
        let (held, before) = match self {
            Self::Held(held) | Self::Damaged { was: held } | Self::Switching { to: held, .. } => (held, None),
            Self::Applying { from, to, .. } => (to, Some(from)),
        };
        held.companions.iter().chain(before.into_iter().flat_map(|before| &before.companions))
    }

    /// Whether the files are those of this commit.
    pub(crate) fn holds(&self, commit: &Commit) -> bool {
        matches!(self, Self::Held(held) if *held == InstalledVersion::of(commit))
    }
}

/// The contents of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalState {
    pub(crate) stream: StreamId,
    pub(crate) condition: Condition,
}

impl LocalState {
    /// Says that `dir`, whose state this is, belongs to the stream `id`.
    pub(crate) fn check_stream(&self, id: StreamId, dir: &Path) -> Result<(), StoreError> {
        if self.stream == id {
            return Ok(());
        }
        Err(StoreError::AnotherStream { path: dir.to_owned(), expected: self.stream, found: id })
    }
}

#[derive(Serialize)]
struct StateFile {
    format: &'static str,
    major: u32,
    #[serde(flatten)]
    state: LocalState,
}

/// The same as it is read: a flattened member would keep whatever else the file holds.
#[derive(Deserialize)]
struct ReadStateFile {
    format: String,
    major: u32,
    stream: StreamId,
    condition: Condition,
}

impl ReplicaDir {
    /// The file of [`ReplicaDir::place`].
    pub(crate) const PLACE: &'static str = "place.json";

    /// The replica in `dir`, which is made if it is missing. Waits for another process to let go of it.
    pub(crate) async fn lock(dir: &Path, durability: Durability) -> Result<Self, StoreError> {
        let (is_new, made) = (!is_kept(dir), local::missing_dirs(dir));
        let (lock, root) = Lock::wait(dir, HIDDEN).await?;
        let hidden = root.join(HIDDEN);
        let hidden = hidden.enter().map_err(StoreError::at(&hidden))?;
        let directory = Self { root, hidden, durability, is_new, made, _lock: Arc::new(lock) };
        local::make_private_dir(&directory.downloads())?;
        Ok(directory)
    }

    /// Runs `work`, which alters files of the replica, on a thread that may block. The lock is held until it
    /// ends.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let directory = self.clone();
        local::blocking(move || {
            let result = work();
            drop(directory);
            result
        })
        .await
    }

    /// Removes what this call has made, if nothing counts in the hidden directory: a directory in which
    /// nothing may be kept is left as it was found.
    pub(crate) fn abandon(&self) -> Result<(), StoreError> {
        let place = self.state_file();
        if self.is_new && place.find().map_err(StoreError::at(&place))?.is_none() {
            local::remove(&self.root.join(HIDDEN))?;
            local::remove_empty_dirs(&self.made);
        }
        Ok(())
    }

    /// Whether what is written is to be on disk before it counts.
    pub(crate) fn syncs(&self) -> bool {
        self.durability == Durability::Synced
    }

    /// The directory of the replica.
    pub(crate) fn root(&self) -> &ConfinedPath {
        &self.root
    }

    /// Whether there is a file of this name beside the weights.
    pub(crate) fn has(&self, name: &str) -> bool {
        matches!(self.root.join(name).find(), Ok(Some(found)) if found.kind == FileKind::File)
    }

    /// Its path, to read the weights by, which may be links there: they are compared by their digests, and
    /// written to only where they are files.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path()
    }

    fn state_file(&self) -> ConfinedPath {
        self.hidden.join(STATE)
    }

    /// Where complete files wait to be renamed into place.
    pub(crate) fn staging(&self) -> ConfinedPath {
        self.hidden.join("staging")
    }

    /// The journal of an application in place.
    pub(crate) fn journal(&self) -> ConfinedPath {
        self.hidden.join("journal")
    }

    /// The patch that leads back from what is held to what was held before, if there is one.
    pub(crate) fn inverse(&self) -> ConfinedPath {
        self.hidden.join("inverse")
    }

    /// Where that patch is while what it leads back from is not held.
    pub(crate) fn next_inverse(&self) -> ConfinedPath {
        self.hidden.join("inverse.next")
    }

    /// Where a publisher keeps what it knows of the patches since the newest anchor.
    pub(crate) fn chain(&self) -> ConfinedPath {
        self.hidden.join(CHAIN)
    }

    /// What marks a directory that a publisher has made its baseline in.
    fn baseline_mark(&self) -> ConfinedPath {
        self.hidden.join(BASELINE)
    }

    /// Marks the directory as a baseline, if nothing is kept in it yet.
    pub(crate) fn mark_baseline_if_new(&self) -> Result<(), StoreError> {
        let state = self.state_file();
        let is_new = state.find().map_err(StoreError::at(&state))?.is_none();
        if is_new && first_entry(&self.path())?.is_none() {
            local::write_unsynced(&self.baseline_mark(), b"")?;
        }
        Ok(())
    }

    /// Where a publisher keeps what it needs to let its baseline stay behind.
    pub(crate) fn lag(&self) -> ConfinedPath {
        self.hidden.join(LAG)
    }

    /// Where a publisher keeps the place of the stream.
    pub(crate) fn place(&self) -> ConfinedPath {
        self.hidden.join(Self::PLACE)
    }

    pub(crate) fn downloads(&self) -> ConfinedPath {
        self.hidden.join("downloads")
    }

    /// Where the object with this digest is kept once it is downloaded and verified.
    pub(crate) fn download(&self, digest: &ObjectDigest) -> ConfinedPath {
        self.downloads().join(digest.to_string())
    }

    /// Where the patches of several ranks are merged.
    pub(crate) fn merged(&self, commit: &ObjectDigest) -> ConfinedPath {
        self.downloads().join(format!("merged-{commit}"))
    }

    /// Where a publisher writes the patch of the attempt in progress.
    pub(crate) fn outgoing(&self) -> ConfinedPath {
        self.hidden.join("outgoing")
    }

    /// The state file, or `None` if there is none.
    pub(crate) fn load(&self) -> Result<Option<LocalState>, StoreError> {
        read_state_file(&self.state_file())
    }

    /// Replaces the state file.
    pub(crate) fn save(&self, state: &LocalState) -> Result<(), StoreError> {
        let place = self.state_file();
        let file = StateFile { format: FORMAT, major: 1, state: state.clone() };
        let bytes = serde_json::to_vec(&file)
            .map_err(|e| StoreError::LocalState { path: place.path(), what: e.to_string() })?;
        if self.syncs() { local::write_file(&place, &bytes) } else { local::write_unsynced(&place, &bytes) }
    }

    /// Removes what earlier runs have left behind, and of the downloads all but `keep` and their beginnings.
    pub(crate) fn sweep(&self, keep: &[ConfinedPath]) -> Result<(), StoreError> {
        local::remove(&self.staging())?;
        local::remove(&self.outgoing())?;
        let partial: Vec<ConfinedPath> = keep.iter().map(local::partial).collect();
        let kept: BTreeSet<&OsStr> = keep.iter().chain(&partial).map(ConfinedPath::file_name).collect();
        let downloads = self.downloads();
        for name in downloads.entries().map_err(StoreError::at(&downloads))? {
            if !kept.contains(name.as_os_str()) {
                local::remove(&downloads.join(name))?;
            }
        }
        Ok(())
    }
}

/// The state file of the replica in `dir`, or `None` if there is none. It is replaced as a whole, so that it
/// can be read without the lock; it may then be of a moment ago.
pub(crate) fn read_state(dir: &Path) -> Result<Option<LocalState>, StoreError> {
    match ConfinedPath::root(dir) {
        Ok(root) => read_state_file(&root.join(HIDDEN).join(STATE)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::directory(dir, error)),
    }
}

fn read_state_file(place: &ConfinedPath) -> Result<Option<LocalState>, StoreError> {
    let Some(bytes) = local::read_own(place, MAX_STATE_BYTES)? else { return Ok(None) };
    if bytes.iter().all(|byte| *byte == 0) {
        // A power cut can leave this of a file that was not synced. The weights tell what they are.
        return Ok(None);
    }
    let bad = |what: String| StoreError::LocalState { path: place.path(), what };
    let file: ReadStateFile = match serde_json::from_slice(&bytes) {
        Ok(file) => file,
        // So can a disk that fails. What is another program's, or of a newer version, is JSON.
        Err(error) if error.is_syntax() || error.is_eof() => {
            let path = place.path();
            tracing::warn!(
                "{} is damaged: not JSON ({error}). The weights tell what they are",
                path.display()
            );
            return Ok(None);
        }
        Err(error) => return Err(bad(error.to_string())),
    };
    if file.format != FORMAT || file.major != 1 {
        return Err(bad(format!("it is {:?}, version {}", file.format, file.major)));
    }
    let install = match &file.condition {
        Condition::Applying { then, .. } => Some(then),
        Condition::Switching { install, .. } => Some(install),
        Condition::Held(_) | Condition::Damaged { .. } => None,
    };
    let helds = match &file.condition {
        Condition::Applying { from, to, .. } => vec![from, to],
        Condition::Switching { to: held, .. } | Condition::Held(held) | Condition::Damaged { was: held } => {
            vec![held]
        }
    };
    let companions = helds.into_iter().flat_map(|held| held.companions.iter().map(|named| &named.name));
    let installed = install.into_iter().flat_map(|install| install.files.iter().chain(&install.remove));
    if let Some(name) = installed.chain(companions).find(|name| !is_file_path(name)) {
        return Err(bad(format!("{name:?} is not a path of plain file names")));
    }
    Ok(Some(LocalState { stream: file.stream, condition: file.condition }))
}

/// Whether a directory is a replica, by its state file.
pub(crate) fn is_replica(dir: &Path) -> bool {
    dir.join(HIDDEN).join(STATE).is_file()
}

/// Refuses the baseline of a publisher as a replica.
pub(crate) fn check_no_baseline(dir: &Path) -> Result<(), StoreError> {
    if !dir.join(HIDDEN).join(BASELINE).exists() {
        return Ok(());
    }
    Err(StoreError::KeptOtherwise {
        path: dir.to_owned(),
        kept_as: "the baseline of a publisher",
        why: "as a replica it would change under the publisher",
    })
}

/// Refuses a replica as the baseline of a publisher. Before there was a mark, only what publishers note has
/// told the two apart.
pub(crate) fn check_no_replica(dir: &Path) -> Result<(), StoreError> {
    let hidden = dir.join(HIDDEN);
    if !is_replica(dir) || [BASELINE, CHAIN, LAG].iter().any(|name| hidden.join(name).exists()) {
        return Ok(());
    }
    Err(StoreError::KeptOtherwise {
        path: dir.to_owned(),
        kept_as: "a replica",
        why: "as a baseline it would change with every version that is published from it",
    })
}

/// Whether a directory is or was kept at versions of a stream: its state file may be gone.
pub(crate) fn is_kept(dir: &Path) -> bool {
    dir.join(HIDDEN).is_dir()
}

/// The first thing in a directory, apart from what is the replica's own.
pub(crate) fn first_entry(dir: &Path) -> Result<Option<String>, StoreError> {
    for entry in std::fs::read_dir(dir).map_err(|e| StoreError::local(dir, e))? {
        let name = entry.map_err(|e| StoreError::local(dir, e))?.file_name();
        if name != HIDDEN {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensorpatch_stream::{Key, ObjectRef, Version};

    fn state() -> LocalState {
        let digest = ObjectDigest::of(b"");
        let config = ObjectRef { key: Key::new("companions/1/c").unwrap(), bytes: 5, blake3: digest };
        let id = VersionId {
            version: Version::FIRST,
            commit: digest,
            state: format!("xxh3:{digest}").parse().unwrap(),
            layout: digest.to_string().parse().unwrap(),
        };
        let companions = vec![NamedObject { name: "config.json".into(), object: config }];
        let held = InstalledVersion { id, companions };
        let install = FileSwap { files: vec!["config.json".into()], remove: vec!["old.json".into()] };
        let condition = Condition::Applying { from: held.clone(), to: held, then: install };
        LocalState { stream: "00112233445566778899aabbccddeeff".parse().unwrap(), condition }
    }

    #[tokio::test]
    async fn the_state_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let directory = ReplicaDir::lock(dir.path(), Durability::Synced).await.unwrap();
        assert_eq!(directory.load().unwrap(), None);
        let state = state();
        directory.save(&state).unwrap();
        assert_eq!(directory.load().unwrap(), Some(state));
    }

    #[tokio::test]
    async fn a_state_file_that_names_files_elsewhere_is_refused_and_what_is_left_of_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let directory = ReplicaDir::lock(dir.path(), Durability::Synced).await.unwrap();
        directory.save(&state()).unwrap();
        let text = std::fs::read_to_string(directory.state_file().path()).unwrap();
        for (from, to) in [
            ("\"config.json\"]", "\"../config.json\"]"),
            ("\"old.json\"", "\"/etc/passwd\""),
            ("\"name\":\"config.json\"", "\"name\":\"../config.json\""),
            ("tensorpatch-replica", "something-else"),
            ("\"major\":1", "\"major\":2"),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(directory.state_file().path(), text.replace(from, to)).unwrap();
            assert!(matches!(directory.load(), Err(StoreError::LocalState { .. })), "{from} -> {to}");
        }
        for left in [&text[..text.len() / 2], "junk", ""] {
            std::fs::write(directory.state_file().path(), left).unwrap();
            assert_eq!(directory.load().unwrap(), None, "{left}");
        }
    }

    #[tokio::test]
    async fn sweeping_keeps_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = ReplicaDir::lock(dir.path(), Durability::Synced).await.unwrap();
        let (kept, other) =
            (directory.download(&ObjectDigest::of(b"1")), directory.download(&ObjectDigest::of(b"2")));
        std::fs::write(kept.path(), b"1").unwrap();
        std::fs::write(other.path(), b"2").unwrap();
        local::make_dir(&directory.staging()).unwrap();
        directory.sweep(std::slice::from_ref(&kept)).unwrap();
        assert!(kept.path().exists() && !other.path().exists() && !directory.staging().path().exists());
    }
}
