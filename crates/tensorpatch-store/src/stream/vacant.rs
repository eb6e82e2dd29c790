//! Whether a stream may be made at a place.

use std::io::ErrorKind as IoErrorKind;

use tensorpatch_stream::{CommitRecord, JsonRecord, Trust, names};

use super::{read_bytes, read_stream};
use crate::bucket::Bucket;
use crate::error::StoreError;
use crate::local::blocking;

/// The hidden directory of replicas and baselines.
const KEPT: &str = ".tensorpatch";
/// What every file system of its own has at its root.
const LOST_AND_FOUND: &str = "lost+found";

/// Refuses a place that has records of a stream, but no stream record: another identity would make the
/// versions there useless.
pub(super) async fn check_vacant(bucket: &Bucket) -> Result<(), StoreError> {
    let commits = bucket.list(names::COMMITS, None).await?;
    let newest = commits.iter().filter_map(|object| names::commit_version(&object.name)).max();
    let has_others = async {
        let edges = bucket.list(names::EDGES, None).await?;
        Ok::<bool, StoreError>(
            edges.iter().any(|object| names::edge_ends(&object.name).is_some())
                || bucket.size(names::LATEST).await?.is_some()
                || bucket
                    .list(names::PRUNED, None)
                    .await?
                    .iter()
                    .any(|object| object.name.ends_with(".json")),
        )
    };
    if newest.is_none() && !has_others.await? {
        return Ok(());
    }
    // Somebody may have created the stream and published since it was looked for.
    if let Some(theirs) = read_stream(bucket, &Trust::default()).await? {
        return Err(StoreError::StreamExists { place: bucket.place(), stream: theirs.stream });
    }
    let stream = match newest {
        None => None,
        Some(version) => {
            let bytes = read_bytes(bucket, &names::commit(version)).await.ok().flatten();
            let record = bytes.and_then(|bytes| CommitRecord::parse(&bytes).ok());
            record.map(|record| record.stream)
        }
    };
    Err(StoreError::StreamRecordLost { place: bucket.place(), newest, stream })
}

/// Refuses a local directory in which something else lies, such as a checkpoint or a replica: the records and
/// objects of a stream would become part of it. What a creation that was interrupted has left is no
/// obstacle, nor what is hidden.
pub(crate) async fn check_directory(bucket: &Bucket) -> Result<(), StoreError> {
    let Some(path) = bucket.directory() else { return Ok(()) };
    blocking(move || {
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| StoreError::directory(&path, error))?,
        };
        let mut others = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| StoreError::local(&path, error))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name == KEPT {
                let what = "is a replica or a baseline".into();
                return Err(StoreError::Occupied { path, what });
            }
            if !name.starts_with('.') && name != LOST_AND_FOUND && !is_of_stream(&name) {
                others.push(name);
            }
        }
        others.sort();
        let weights = others.iter().find(|name| name.ends_with(".safetensors"));
        let what = match (weights, others.first()) {
            (Some(name), _) => format!("is a checkpoint, with {name:?}"),
            (None, Some(name)) => format!("has {name:?}, and no stream"),
            (None, None) => return Ok(()),
        };
        Err(StoreError::Occupied { path, what })
    })
    .await
}

/// Whether an entry of a directory has the name of a record or folder of a stream.
fn is_of_stream(name: &str) -> bool {
    const RECORDS: [&str; 2] = [names::STREAM, names::LATEST];
    const FOLDERS: [&str; 6] =
        [names::COMMITS, names::EDGES, names::LEASES, names::PRUNED, names::HANDOVERS, names::PROBE];
    RECORDS.contains(&name) || FOLDERS.contains(&name) || names::DATA_FOLDERS.contains(&name)
}
