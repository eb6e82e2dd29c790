//! A rank's share of a version that keeps the tensors and files of the one before: a patch of the rank's
//! tensors.

use std::path::{Path, PathBuf};

use tensorpatch_checkpoint::{Checkpoint, ConfinedPath, MappedFile, Role, generate_layout};
use tensorpatch_delta::{self as delta, ApplyError, LeafTable, Patch, Progress, Snapshot, State};
use tensorpatch_format::{Layout, Schema};
use tensorpatch_stream::{Commit, Nonce, Rank, Receipt, ReceiptContent, ReceiptError, TensorReceipt, names};

use crate::bucket::upload::Outgoing;
use crate::error::StoreError;
use crate::local::{self, blocking};
use crate::publisher::encode::{Encoded, encode};
use crate::publisher::options::PublishOptions;
use crate::stream::{Stream, next_version};

/// Makes and uploads a rank's patch of the version after `base`, the newest: of the rank's tensors alone.
///
/// `old` and `new` are the files (or directories) with the rank's tensors before and after; `work` is a
/// directory for the patch on its way. The tensors must be the same, and the version keeps the files of the
/// one before; a first version, and one that alters either, is made with
/// [`upload_files`](crate::ranks::upload_files). Nothing is visible until [`commit`](crate::ranks::commit).
///
/// # Errors
/// If the files do not have the same tensors, cannot be read, or the store fails.
///
/// # Cancel safety
/// The future may be dropped at any time. What was uploaded is garbage; the rank calls it again.
pub async fn upload_patch(
    stream: &Stream,
    base: &Commit,
    rank: Rank,
    old: &[PathBuf],
    new: &[PathBuf],
    work: &Path,
    options: &PublishOptions,
) -> Result<Receipt, StoreError> {
    upload_patch_by(stream, base, rank, (old, new), &local::open_private_root(work)?, options).await
}

/// The same, with the patch on its way in a directory that is open.
pub(super) async fn upload_patch_by(
    stream: &Stream,
    base: &Commit,
    rank: Rank,
    (old, new): (&[PathBuf], &[PathBuf]),
    work: &ConfinedPath,
    options: &PublishOptions,
) -> Result<Receipt, StoreError> {
    let nonce = Nonce::random();
    let file = work.join(format!("rank-{nonce}.tpatch"));
    let places = stream.altered_places().altered(Role::Work, file.path());
    let places = old.iter().fold(places, |places, file| places.read(Role::Base, file));
    new.iter().fold(places, |places, file| places.read(Role::Checkpoint, file)).check()?;
    let (old, new) = (old.to_vec(), new.to_vec());
    let write = move |outgoing: &mut _, file: &ConfinedPath, options: &_| {
        encode_and_check(&old, &new, file, outgoing, options)
    };
    let receipt = upload(stream, base, rank, nonce, &file, options, write).await;
    local::remove(&file)?;
    receipt
}

/// Uploads the patch that `write` writes and checks, on a thread that may block.
pub(super) async fn upload(
    stream: &Stream,
    base: &Commit,
    rank: Rank,
    nonce: Nonce,
    file: &ConfinedPath,
    options: &PublishOptions,
    write: impl FnOnce(&mut Outgoing, &ConfinedPath, &delta::Options) -> Result<Checked, StoreError>
    + Send
    + 'static,
) -> Result<Receipt, StoreError> {
    let version = next_version(Some(base))?;
    let key = names::patch(version, nonce, "rank.tpatch")?;
    let (mut outgoing, uploading) =
        stream.bucket().upload_while_written(key, file.clone(), &options.observer)?;
    let (checked, outgoing) = {
        let file = file.clone();
        let options = options.diff.clone().with_leaf_hash(stream.record().leaf_hash);
        let checked = blocking(move || Ok((write(&mut outgoing, &file, &options)?, outgoing))).await;
        match checked {
            Ok(checked) => checked,
            Err(error) => {
                uploading.give_up().await;
                return Err(error);
            }
        }
    };
    let patch = uploading.finish(outgoing).await?;
    let key = names::patch(version, nonce, "schema")?;
    let schema = stream.bucket().put_bytes(key, checked.schema.into()).await?;
    Ok(Receipt {
        stream: stream.id(),
        rank,
        after: Some(base.id()),
        content: ReceiptContent::Patch {
            patch,
            schema,
            changed_elements: checked.encoded.changed_elements,
            total_elements: checked.encoded.total_elements,
        },
        tensors: checked.tensors,
    })
}

/// The patch of a rank, decoded once to see that it is right.
pub(super) struct Checked {
    encoded: Encoded,
    schema: Vec<u8>,
    tensors: Vec<TensorReceipt>,
}

/// The tensors of several files as one state.
pub(super) struct Files {
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) schema: Schema,
}

impl Files {
    pub(super) fn open(paths: &[PathBuf], options: &delta::Options) -> Result<Self, StoreError> {
        let checkpoints: Vec<Checkpoint> =
            paths.iter().map(|path| delta::open_settled(path, &options.limits)).collect::<Result<_, _>>()?;
        let tensors = checkpoints.iter().flat_map(|c| c.schema().tensors().iter().cloned()).collect();
        let schema = Schema::new(tensors).map_err(|e| ReceiptError::Tensor(e.to_string()))?;
        Ok(Self { checkpoints, schema })
    }

    pub(super) fn state(&self) -> Result<State<'_>, StoreError> {
        let bytes = |name: &str| {
            self.checkpoints.iter().find_map(|checkpoint| {
                checkpoint.schema().find(name).and_then(|index| checkpoint.tensor(index))
            })
        };
        // Each name is in one of them: the schema is made of theirs.
        let tensors = self.schema.tensors().iter().filter_map(|spec| bytes(&spec.name)).collect();
        Ok(State::new(&self.schema, tensors)?)
    }
}

fn encode_and_check(
    old: &[PathBuf],
    new: &[PathBuf],
    file: &ConfinedPath,
    outgoing: &mut Outgoing,
    options: &delta::Options,
) -> Result<Checked, StoreError> {
    let (old, new) = (Files::open(old, options)?, Files::open(new, options)?);
    if old.schema != new.schema {
        return Err(others_than_before());
    }
    // The layout is the same in both: a rank says nothing about files.
    let layout = layout_of(&old.schema)?;
    let base = old.state()?;
    let base_leaves = LeafTable::of(&base, options.leaf_hash, options.threads, Progress::none())?;
    let end = |state| Snapshot { state, layout: &layout, leaves: None };
    let ends = (end(base.clone()), end(new.state()?));
    let encoded = encode((&ends.0, None), &ends.1, outgoing, &file.path(), options, Progress::none())?;
    check(file, &base, &base_leaves, encoded, options)
}

/// Decodes the patch in `file`. As for a publisher: what is committed cannot be taken back.
pub(super) fn check(
    file: &ConfinedPath,
    base: &State<'_>,
    base_leaves: &LeafTable,
    encoded: Encoded,
    options: &delta::Options,
) -> Result<Checked, StoreError> {
    let schema = base.schema();
    let bytes = MappedFile::open_confined(file)?;
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    if patch.listed_schema().is_some_and(|listed| listed != schema) {
        return Err(others_than_before());
    }
    let target_leaves = delta::apply_chunks(Some(base), &patch, options, Progress::none(), &|_, _| ())?;
    let digests = |leaves: &LeafTable| leaves.tensor_digests(schema);
    let tensors = schema.tensors().iter().zip(digests(base_leaves)).zip(digests(&target_leaves));
    let tensors = tensors.map(|((spec, base), target)| TensorReceipt::new(spec, Some(base), target));
    Ok(Checked { encoded, schema: schema.to_bytes(), tensors: tensors.collect() })
}

fn others_than_before() -> StoreError {
    ReceiptError::Tensor("the tensors of the rank are others than before".into()).into()
}

fn layout_of(schema: &Schema) -> Result<Layout, StoreError> {
    generate_layout(schema).map_err(|e| ReceiptError::Tensor(e.to_string()).into())
}
