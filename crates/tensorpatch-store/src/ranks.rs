//! Versions that several ranks publish together: each its part, and one commit that names them all (spec/stream.md section 8).

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpatch_checkpoint::{Checkpoint, MappedFile, generate_layout};
use tensorpatch_delta::{self as delta, ApplyError, Patch, Progress, State};
use tensorpatch_format::{Dtype, Layout, Schema, StateDigest, TaggedStateDigest, TensorDigest, TensorSpec};

use crate::bucket::all;
use crate::commit::{self, Created};
use crate::digest::{ObjectDigest, text};
use crate::error::StoreError;
use crate::local;
use crate::names::{self, Nonce, StreamId};
use crate::plan::Commit;
use crate::publisher::{PublishOptions, Published, after};
use crate::record::{CommitRecord, Delta, DeltaKind, Link, ObjectRef, Part, VersionId, now};
use crate::replica::blocking;
use crate::stream::Stream;

const AT_ONCE: usize = 16;

/// What a rank has uploaded, for whoever commits. It is small and can be sent as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stream.
    pub stream: StreamId,
    /// The version that the part starts from.
    pub base: VersionId,
    /// The patch.
    pub part: ObjectRef,
    /// The canonical bytes of the schema of the rank's tensors.
    pub schema: ObjectRef,
    /// The tensors of the rank.
    pub tensors: Vec<TensorReceipt>,
    /// Elements that changed.
    pub changed_elements: u64,
    /// Elements of the rank's tensors.
    pub total_elements: u64,
}

/// One tensor of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorReceipt {
    /// The name.
    pub name: String,
    /// The dtype, as safetensors spells it.
    pub dtype: String,
    /// The dims.
    pub shape: Vec<u64>,
    /// The bytes.
    pub byte_len: u64,
    /// The digest in the base.
    #[serde(with = "text")]
    pub base: TensorDigest,
    /// The digest in the new version.
    #[serde(with = "text")]
    pub target: TensorDigest,
}

/// Why receipts are not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// There is none.
    #[error("there is no receipt")]
    None,
    /// They are not of one stream and one base.
    #[error("receipts of different streams or bases: {0}")]
    Mixed(String),
    /// Two ranks have the same tensor.
    #[error("tensor {0:?} is in two receipts")]
    Doubled(String),
    /// The tensors are not those of the base.
    #[error(
        "the receipts have {found} tensors that are not the {expected} of the version before: a rank is missing or has others"
    )]
    Tensors {
        /// Tensors of the base.
        expected: u64,
        /// Tensors of the receipts.
        found: u64,
    },
    /// The bases of the ranks are not the base version.
    #[error("the ranks started from {found}, but the version before is {expected}")]
    Base {
        /// The state of the base version.
        expected: TaggedStateDigest,
        /// The state that the ranks started from.
        found: TaggedStateDigest,
    },
    /// Something that is no tensor.
    #[error("{0}")]
    Tensor(String),
}

impl Stream {
    /// Makes and uploads a rank's part of the version after `base`, the newest.
    ///
    /// `old` and `new` are the files (or directories) with the rank's tensors before and after; `work` is a directory for the patch on
    /// its way. Nothing is visible until [`Stream::commit_parts`].
    ///
    /// # Errors
    /// If the files do not have the same tensors, cannot be read, or the store fails.
    pub async fn prepare_part(
        &self,
        base: &Commit,
        old: &[PathBuf],
        new: &[PathBuf],
        work: &Path,
        options: &PublishOptions,
    ) -> Result<Receipt, StoreError> {
        local::create_dir(work)?;
        let (version, nonce) = (after(base)?, Nonce::random());
        let path = work.join(format!("part-{nonce}.tpatch"));
        let encoded = {
            let (old, new, path) = (old.to_vec(), new.to_vec(), path.clone());
            let options = options.diff.clone().with_leaf_hash(self.record().leaf_hash);
            blocking(move || encode(&old, &new, &path, &options)).await?
        };
        let key = names::part(version, nonce, "part.tpatch")?;
        let part = self.bucket().upload(key, &path, &options.observer).await?;
        let key = names::part(version, nonce, "schema")?;
        let schema = self.bucket().put_bytes(key, encoded.schema.into()).await?;
        local::remove(&path)?;
        Ok(Receipt {
            stream: self.id(),
            base: base.id(),
            part,
            schema,
            tensors: encoded.tensors,
            changed_elements: encoded.changed_elements,
            total_elements: encoded.total_elements,
        })
    }

    /// Commits the parts of all ranks as one version.
    ///
    /// # Errors
    /// [`StoreError::Receipts`] if a part is missing, doubled or does not fit; [`StoreError::NotAtTip`] and [`StoreError::LostRace`] if another
    /// version came first; or if the store fails. Then there is no version.
    pub async fn commit_parts(
        &self,
        receipts: &[Receipt],
        label: Option<&str>,
        options: &PublishOptions,
    ) -> Result<Published, StoreError> {
        let tip = self.tip().await?.ok_or(StoreError::Empty)?;
        let first = receipts.first().ok_or(ReceiptError::None)?;
        if first.stream == self.id() && first.base != tip.id() && first.base.version < tip.record.version {
            let (held, tip) = (Some(first.base.version), tip.record.version);
            return Err(StoreError::NotAtTip { held, tip });
        }
        let state = check(receipts, self.id(), &tip)?;
        let objects = receipts.iter().flat_map(|receipt| [&receipt.part, &receipt.schema]);
        all(objects, AT_ONCE, |object| self.bucket().check_there(object)).await?;
        let single = receipts.len() == 1;
        let sum = |of: fn(&Receipt) -> u64| receipts.iter().map(of).fold(0, u64::saturating_add);
        let version = after(&tip)?;
        let record = CommitRecord {
            stream: self.id(),
            version,
            previous: Some(Link { version: tip.record.version, commit: tip.digest }),
            publisher: options.publisher.clone(),
            nonce: Nonce::random(),
            created: now(),
            label: label.map(str::to_owned),
            state,
            delta: Some(Delta {
                base: tip.id(),
                kind: if state == tip.record.state { DeltaKind::Empty } else { DeltaKind::Delta },
                changed_elements: sum(|receipt| receipt.changed_elements),
                total_elements: sum(|receipt| receipt.total_elements),
                parts: receipts
                    .iter()
                    .map(|receipt| Part {
                        object: receipt.part.clone(),
                        schema: (!single).then(|| receipt.schema.clone()),
                    })
                    .collect(),
            }),
            anchor: None,
            ..tip.record.clone()
        };
        let name = names::commit(version);
        let bytes = self.record_bytes(&name, &record)?;
        let created = commit::create(self.bucket(), &name, bytes.clone(), self.record().writers).await;
        match created.map_err(|error| error.for_version(version))? {
            Created::Mine => {}
            Created::Theirs(theirs) => {
                let winner = self.parse_commit(version, &theirs)?.record.publisher;
                return Err(StoreError::LostRace { version, winner });
            }
        }
        self.hint(version).await;
        let uploaded = sum(|receipt| receipt.part.bytes.saturating_add(receipt.schema.bytes));
        Ok(Published::of(&Commit { record, digest: ObjectDigest::of(&bytes) }, uploaded, false))
    }
}

/// Checks that the receipts are one whole version after `tip`, and returns its state.
fn check(receipts: &[Receipt], stream: StreamId, tip: &Commit) -> Result<TaggedStateDigest, ReceiptError> {
    let mut tensors: BTreeMap<&str, &TensorReceipt> = BTreeMap::new();
    for receipt in receipts {
        if receipt.stream != stream {
            return Err(ReceiptError::Mixed(format!("{} is not {stream}", receipt.stream)));
        }
        if receipt.base != tip.id() {
            return Err(ReceiptError::Mixed(format!(
                "version {} ({}) is not the newest, version {} ({})",
                receipt.base.version, receipt.base.commit, tip.record.version, tip.digest
            )));
        }
        for tensor in &receipt.tensors {
            if tensors.insert(&tensor.name, tensor).is_some() {
                return Err(ReceiptError::Doubled(tensor.name.clone()));
            }
        }
    }
    let mut specs = Vec::new();
    for tensor in tensors.values() {
        let dtype = Dtype::new(&tensor.dtype)
            .ok_or_else(|| ReceiptError::Tensor(format!("{:?} is no dtype", tensor.dtype)))?;
        let (name, shape, byte_len) = (tensor.name.clone(), tensor.shape.clone(), tensor.byte_len);
        specs.push(TensorSpec { name, dtype, shape, byte_len });
    }
    let schema = Schema::new(specs).map_err(|e| ReceiptError::Tensor(e.to_string()))?;
    if schema.digest() != tip.record.schema {
        let (expected, found) = (tip.record.tensors, tensors.len() as u64);
        return Err(ReceiptError::Tensors { expected, found });
    }
    // Both the map and the schema are in the order of the names.
    let state = |of: fn(&TensorReceipt) -> TensorDigest| {
        let digests: Vec<TensorDigest> = tensors.values().map(|tensor| of(tensor)).collect();
        let digest = StateDigest::of_tensors(tip.record.schema, &digests);
        TaggedStateDigest { leaf_hash: tip.record.state.leaf_hash, digest }
    };
    let (expected, found) = (tip.record.state, state(|tensor| tensor.base));
    if found != expected {
        return Err(ReceiptError::Base { expected, found });
    }
    Ok(state(|tensor| tensor.target))
}

struct Encoded {
    schema: Vec<u8>,
    tensors: Vec<TensorReceipt>,
    changed_elements: u64,
    total_elements: u64,
}

/// The tensors of several files as one state.
struct Files {
    checkpoints: Vec<Checkpoint>,
    schema: Schema,
}

impl Files {
    fn open(paths: &[PathBuf], options: &delta::Options) -> Result<Self, StoreError> {
        let checkpoints: Vec<Checkpoint> =
            paths.iter().map(|path| Checkpoint::open(path, &options.limits)).collect::<Result<_, _>>()?;
        let tensors = checkpoints.iter().flat_map(|c| c.schema().tensors().iter().cloned()).collect();
        let schema = Schema::new(tensors).map_err(|e| ReceiptError::Tensor(e.to_string()))?;
        Ok(Self { checkpoints, schema })
    }

    fn state(&self) -> Result<State<'_>, StoreError> {
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

fn encode(
    old: &[PathBuf],
    new: &[PathBuf],
    path: &Path,
    options: &delta::Options,
) -> Result<Encoded, StoreError> {
    let (old, new) = (Files::open(old, options)?, Files::open(new, options)?);
    if old.schema != new.schema {
        return Err(ReceiptError::Tensor("the tensors of the rank are others than before".into()).into());
    }
    let failed = |source| StoreError::local(path, source);
    let layout = layout_of(&old.schema)?;
    let (base, target) = (old.state()?, new.state()?);
    let base_leaves = delta::LeafTable::of(&base, options.leaf_hash, options.threads, Progress::none());
    let report = {
        let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).map_err(failed)?);
        // The layout is the same in both: a part says nothing about files.
        let from = delta::Version { state: base.clone(), layout: &layout, leaves: None };
        let to = delta::Version { state: target, layout: &layout, leaves: None };
        let report = delta::diff(&from, &to, options, Progress::none(), &mut file)?;
        file.flush().map_err(failed)?;
        report
    };
    // As for a publisher: what is committed cannot be taken back, so it is decoded first.
    let bytes = MappedFile::open(path)?;
    let patch = Patch::parse(bytes.bytes(), &options.limits).map_err(ApplyError::from)?;
    let target_leaves = delta::apply_chunks(Some(&base), &patch, options, Progress::none(), &|_, _| ())?;
    let digests = |leaves: &delta::LeafTable| leaves.tensor_digests(&old.schema);
    let tensors = old.schema.tensors().iter().zip(digests(&base_leaves)).zip(digests(&target_leaves));
    Ok(Encoded {
        schema: old.schema.to_bytes(),
        tensors: tensors
            .map(|((spec, base), target)| TensorReceipt {
                name: spec.name.clone(),
                dtype: spec.dtype.as_str().to_owned(),
                shape: spec.shape.clone(),
                byte_len: spec.byte_len,
                base,
                target,
            })
            .collect(),
        changed_elements: report.changed_elements,
        total_elements: report.total_elements,
    })
}

fn layout_of(schema: &Schema) -> Result<Layout, StoreError> {
    generate_layout(schema).map_err(|e| ReceiptError::Tensor(e.to_string()).into())
}
