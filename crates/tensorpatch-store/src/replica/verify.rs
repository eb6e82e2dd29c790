//! Whether the files of a replica are the version that its state file says.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tensorpatch_checkpoint::{Checkpoint, ConfinedPath, FileKind, Found};
use tensorpatch_delta::{self as delta, Durability};
use tensorpatch_stream::{NamedObject, ObjectDigest, StreamId, VersionId};

use super::Replica;
use super::directory::{Condition, InstalledVersion, LocalState, ReplicaDir, is_replica, read_state};
use super::install;
use crate::cause::Cause;
use crate::error::StoreError;
use crate::local::blocking;

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Presence, sizes and headers.
    Sizes,
    /// Every byte.
    Contents,
}

/// What a replica holds, every byte of it read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// The stream.
    pub stream: StreamId,
    /// The version that the state file says.
    #[serde(flatten)]
    pub version: VersionId,
    /// The names of the files beside the weights.
    pub companions: Vec<String>,
    /// What is not as it was published; nothing if the replica is sound.
    pub faults: Vec<Fault>,
}

/// A file of a replica that is not as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fault {
    /// The file, or the directory if it is about all weights.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

/// Reads every byte of the replica in `dir` and compares it with what its state file says; alters nothing.
///
/// It keeps others from updating the replica meanwhile. Where this user may only read, nobody is kept away: a
/// replica that was updated meanwhile is looked at again.
///
/// # Errors
/// [`StoreError::NotAReplica`] if there is none, [`StoreError::LocalState`] if an update of it was
/// interrupted, or if files cannot be read. Files that are not as they should be are no error: see
/// [`Verified::faults`].
///
/// # Cancel safety
/// The future may be dropped at any time; it only reads.
pub async fn verify(dir: impl AsRef<Path>, options: &delta::Options) -> Result<Verified, StoreError> {
    let (dir, options) = (dir.as_ref(), options.clone());
    if !is_replica(dir) {
        return Err(StoreError::NotAReplica { path: dir.to_owned() });
    }
    match ReplicaDir::lock(dir, Durability::Synced).await {
        Ok(directory) => blocking(move || verify_files(directory.root(), directory.load()?, &options)).await,
        Err(error) if matches!(error.cause(), Some(Cause::NotPermitted | Cause::ReadOnly)) => {
            tracing::warn!("{} cannot be locked, and is read without: {error}", dir.display());
            let dir = dir.to_owned();
            blocking(move || verify_unlocked(&dir, &options)).await
        }
        Err(error) => Err(error),
    }
}

/// The same where nothing can be written, and so nothing locked.
fn verify_unlocked(dir: &Path, options: &delta::Options) -> Result<Verified, StoreError> {
    const LOOKS: usize = 3;
    let root = ConfinedPath::root(dir).map_err(|error| StoreError::local(dir, error))?;
    let mut state = read_state(dir)?;
    for _ in 0..LOOKS {
        let verified = verify_files(&root, state.clone(), options);
        let now = read_state(dir)?;
        if now == state {
            return verified;
        }
        state = now;
    }
    let what = "it is updated faster than it can be read".into();
    Err(StoreError::LocalDamage { path: dir.to_owned(), what })
}

impl Replica {
    /// Reads every byte of the directory and compares it with the version that it holds; alters nothing. See
    /// [`ReplicaOptions::verify`](crate::ReplicaOptions) for a pull that does so first and repairs.
    ///
    /// # Errors
    /// As [`verify`]; also if the directory is a replica of another stream.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        let verified = verify(&self.dir, &self.options.apply).await?;
        if verified.stream != self.stream.id() {
            let (path, found) = (self.dir.clone(), self.stream.id());
            return Err(StoreError::AnotherStream { path, expected: verified.stream, found });
        }
        Ok(verified)
    }
}

fn verify_files(
    root: &ConfinedPath,
    state: Option<LocalState>,
    options: &delta::Options,
) -> Result<Verified, StoreError> {
    let unsettled = |what: &str| StoreError::LocalDamage { path: root.path(), what: what.into() };
    // There is a file, or this would not be a replica.
    let state = state.ok_or_else(|| unsettled("its state file is empty or damaged"))?;
    let held = match state.condition {
        Condition::Held(held) => held,
        Condition::Damaged { .. } => return Err(unsettled("an earlier command has found it damaged")),
        _ => return Err(unsettled("an update of it was interrupted")),
    };
    let mut faults: Vec<Fault> =
        find_weights_fault(root.path(), &held, Depth::Contents, options)?.into_iter().collect();
    for companion in &held.companions {
        let found = as_found(root, companion, Depth::Contents)?;
        faults.extend(companion_fault(root, companion, found));
    }
    let companions = held.companions.into_iter().map(|companion| companion.name).collect();
    Ok(Verified { stream: state.stream, version: held.id, companions, faults })
}

/// What is not there, or has another length, of what should be in `dir`.
pub(super) fn missing_files(dir: &Path, held: &InstalledVersion) -> Result<Vec<Fault>, StoreError> {
    let options = delta::Options::default();
    let weights = find_weights_fault(dir.to_owned(), held, Depth::Sizes, &options)?;
    let mut faults: Vec<Fault> = weights.into_iter().collect();
    let root = ConfinedPath::root(dir).map_err(|error| StoreError::local(dir, error))?;
    for companion in &held.companions {
        let found = as_found(&root, companion, Depth::Sizes)?;
        faults.extend(companion_fault(&root, companion, found));
    }
    Ok(faults)
}

/// What is wrong with a file beside the weights that is as `found`, if anything.
fn companion_fault(
    root: &ConfinedPath,
    companion: &NamedObject,
    found: Option<NamedObject>,
) -> Option<Fault> {
    let what = match found {
        None => "it is not there".to_owned(),
        Some(found) if found == *companion => return None,
        Some(found) if found.object.bytes != companion.object.bytes => {
            format!("it has {} bytes, not {}", found.object.bytes, companion.object.bytes)
        }
        Some(_) => "its contents are not those that were published".to_owned(),
    };
    Some(Fault { path: root.path().join(&companion.name), what })
}

/// What is wrong with the weights of the directory `path` that should hold `held`, if anything.
pub(super) fn find_weights_fault(
    path: PathBuf,
    held: &InstalledVersion,
    depth: Depth,
    options: &delta::Options,
) -> Result<Option<Fault>, StoreError> {
    let found = match depth {
        Depth::Sizes => Checkpoint::open(&path, &options.limits)
            .map(|checkpoint| Some((checkpoint.layout().digest(), held.id.state)))
            .map_err(StoreError::from),
        Depth::Contents => install::examine(&path, held.id.state.leaf_hash, options)
            .map(|found| found.map(|found| (found.layout, found.state))),
    };
    let what = match found {
        Ok(Some((_, state))) if state != held.id.state => {
            format!("the state of its weights is {state}, not {}", held.id.state)
        }
        Ok(Some((layout, _))) if layout != held.id.layout => {
            "its weights have other names or headers than were published".into()
        }
        Ok(Some(_)) => return Ok(None),
        Ok(None) => "its weights are not there".into(),
        Err(error) if install::is_damage(&error) => error.to_string(),
        Err(error) => return Err(error),
    };
    Ok(Some(Fault { path, what }))
}

/// A companion with the size, and the digest if that was asked for, of what lies under its name; `None` if
/// nothing does.
pub(super) fn as_found(
    root: &ConfinedPath,
    companion: &NamedObject,
    depth: Depth,
) -> Result<Option<NamedObject>, StoreError> {
    let place = root.join(&companion.name);
    let failed = |e| StoreError::local(place.path(), e);
    let len = match place.find().map_err(failed)? {
        Some(Found { kind: FileKind::File, len, .. }) => len,
        _ => return Ok(None),
    };
    let mut found = companion.clone();
    found.object.bytes = len;
    if depth == Depth::Contents {
        let mut hasher = blake3::Hasher::new();
        found.object.bytes = io::copy(&mut place.open().map_err(failed)?, &mut hasher).map_err(failed)?;
        found.object.blake3 = ObjectDigest::finish(&hasher);
    }
    Ok(Some(found))
}

/// The same version with its companions as they are found, and the names of those that are not as they were
/// published.
pub(super) fn with_companions_as_found(
    directory: &ReplicaDir,
    mut held: InstalledVersion,
    depth: Depth,
) -> Result<(InstalledVersion, Vec<String>), StoreError> {
    let (mut there, mut altered) = (Vec::new(), Vec::new());
    for companion in held.companions {
        let found = as_found(directory.root(), &companion, depth)?;
        if found.as_ref() != Some(&companion) {
            altered.push(companion.name);
        }
        there.extend(found);
    }
    held.companions = there;
    Ok((held, altered))
}
