//! Delta weight sync for safetensors checkpoints: publish every training step, follow it anywhere.
//!
//! An RL step changes about 1 % of a model's bf16 weights. tensorpatch compares two checkpoints bitwise,
//! writes the changes to a patch at less than a byte each, and rebuilds the new checkpoint from the old one
//! and the patch, byte for byte, verified by a digest of the whole state. Patches travel as files, or through
//! an object store as a *stream* of versions that replicas follow.
//!
//! # A patch between two checkpoints
//!
//! A checkpoint is a `.safetensors` file, or a Hugging Face directory with its shards and index.
//!
//! ```
//! use tensorpatch::{Patch, diff};
//! # fn checkpoint(path: &std::path::Path, weights: [u8; 4]) -> std::io::Result<()> {
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend(weights);
//! #     std::fs::write(path, file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! # checkpoint("step-5".as_ref(), [1, 2, 3, 4])?;
//! # checkpoint("step-6".as_ref(), [1, 2, 3, 5])?;
//!
//! // Where the model is trained.
//! let report = diff("step-5", "step-6")?.write("step-6.tpatch")?;
//! println!("{} of {} elements changed", report.changed_elements, report.total_elements);
//!
//! // Where it is served.
//! let patch = Patch::open("step-6.tpatch")?;
//! patch.apply("step-5", "rebuilt")?;
//! assert_eq!(std::fs::read("rebuilt")?, std::fs::read("step-6")?);
//!
//! // Or without a second copy on disk.
//! patch.apply_in_place("step-5")?;
//! assert_eq!(tensorpatch::digest("step-5")?, tensorpatch::digest("step-6")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files appear when they are whole and verified, or not at all. Applying in place keeps a journal: after a
//! crash the same call finishes the work, and until then everything here refuses to read the checkpoint.
//!
//! | to | call |
//! |---|---|
//! | choose a profile, hash, threads or limits | [`Diff::with_options`], [`Apply::with_options`] |
//! | show progress, or cancel | [`Diff::with_progress`], [`Apply::with_progress`], [`Progress::stoppable`] |
//! | write a patch to a socket or a pipe | [`Diff::write_to`] |
//! | read one from memory | [`Patch::parse`], [`Patch::from_vec`] |
//! | make a patch that needs no base, and unpack it | [`full`], [`Patch::unpack`] |
//! | open a checkpoint, and write one | [`checkpoint::Checkpoint`], [`checkpoint::CheckpointWriter`] |
//!
//! # Tensors in memory
//!
//! A trainer need not write a checkpoint: what the [`safetensors`] crate can view can be compared with one on
//! disk, one tensor at a time and in any order.
//!
//! ```
//! use tensorpatch::safetensors::{Dtype, SafeTensors, tensor::TensorView};
//! use tensorpatch::{Others, Patch, diff_tensors, full_tensors};
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//!
//! // The first version, from an iterator of names and tensors.
//! let (a, b) = ([1; 8], [2; 4]);
//! let a = ("a", TensorView::new(Dtype::F32, vec![2], &a)?);
//! let b = ("b", TensorView::new(Dtype::BF16, vec![2], &b)?);
//! full_tensors([b, a]).write("step-1.tpatch")?;
//! Patch::open("step-1.tpatch")?.unpack("step-1")?;
//!
//! // The next one: "a" has other values, the others stay.
//! let changed = ("a", TensorView::new(Dtype::F32, vec![2], &[1, 1, 1, 1, 9, 9, 9, 9])?);
//! diff_tensors("step-1", [changed.clone()])?.with_others(Others::Kept).write("step-2.tpatch")?;
//! Patch::open("step-2.tpatch")?.apply_in_place("step-1")?;
//!
//! let bytes = std::fs::read("step-1")?;
//! assert_eq!(SafeTensors::deserialize(&bytes)?.tensor("a")?, changed.1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`MemoryState`] is a whole state in memory: to diff two of them, or to decode a patch without files.
//! [`Publisher::publish_tensors`](store::Publisher::publish_tensors) and
//! [`Publisher::feed`](store::Publisher::feed) publish tensors to a stream.
//!
//! # A stream from a trainer to its replicas
//!
//! A URL names a directory or the prefix of a bucket: [`store::open_store`] lists the kinds. The publisher
//! keeps a copy of the newest version to make patches from, in the user's cache unless its
//! [builder](Publisher::builder) is told otherwise. A replica is a directory with an ordinary checkpoint.
//!
//! ```
//! use tensorpatch::{Publisher, Replica};
//! # fn checkpoint(path: &str, step: u8) -> std::io::Result<()> {
//! #     std::fs::create_dir(path)?;
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend([step, 2, 3, 4]);
//! #     std::fs::write(format!("{path}/model.safetensors"), file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! # checkpoint("step-7", 7)?;
//! # checkpoint("step-8", 8)?;
//! # let url = "run-7";
//! # tokio::runtime::Runtime::new()?.block_on(async {
//!
//! // The trainer. `Publisher::open(url)` is the same with a baseline in the user's cache.
//! let publisher = Publisher::builder(url).baseline("baseline").open().await?;
//! publisher.publish("step-7").await?;
//!
//! // A replica, on any other machine.
//! let replica = Replica::open(url, "replica").await?;
//! replica.pull().await?;
//!
//! // It follows: what is held at the start comes first, then each version that is published.
//! let mut versions = replica.follow();
//! # publisher.publish("step-8").await?;
//! while let Some(pulled) = versions.next().await? {
//!     println!("version {} is in {}", pulled.to, replica.dir().display());
//! #   break;
//! }
//! # assert_eq!(std::fs::read("replica/model.safetensors")?, std::fs::read("step-8/model.safetensors")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | to | call |
//! |---|---|
//! | name the publisher, choose the profile or the anchors, show progress or stop | [`store::PublishOptions`] |
//! | replace files instead of altering them, keep a lease, show progress or stop | [`store::ReplicaOptions`] |
//! | sign what is published, or trust only what is signed | [`store::PublisherBuilder::sign_key`], [`store::ReplicaBuilder::trust_keys`] |
//! | set retries, timeouts, transfers at once, limits | [`store::Policy`], or its variables of the environment |
//! | download ahead and switch when the engine is paused | [`Replica::prepare`], [`Replica::activate`] |
//! | read some tensors of a version, without the rest | [`store::Stream::range_reader`] |
//! | publish from several ranks | [`store::ranks`] |
//! | check, collect, copy a stream | [`store::upkeep`] |
//! | use a store of the program's own | [`store::Stream::open`], [`Publisher::on`], [`Replica::of`], with [`object_store`] |
//!
//! Futures may be dropped at any time: each call says what that does.
//!
//! # Without a runtime
//!
//! [`blocking`] has the same publishers and replicas; following is an iterator.
//!
//! ```no_run
//! use tensorpatch::blocking::{Publisher, Replica};
//!
//! Publisher::open("s3://bucket/run-7")?.publish("step-7")?;
//! Replica::open("s3://bucket/run-7", "replica")?.pull()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `aws` | streams on S3 and whatever speaks S3 |
//! | `gcp` | streams on Google Cloud Storage |
//! | `azure` | streams on Azure Blob Storage |
//! | `hub` | streams in buckets of the Hugging Face Hub; it includes `aws` |
//!
//! None is on by default: each brings an HTTP client and TLS. Streams in local directories, and in any
//! `ObjectStore` that the caller brings, need none.
//!
//! # What can go wrong
//!
//! Errors are types that name the file, the tensor or the byte offset, and what was expected and found. Their
//! `kind()` says who must act:
//!
//! ```
//! use tensorpatch::{ErrorKind, Replica};
//! # let dir = tempfile::tempdir()?;
//! # let url = dir.path().join("none").display().to_string();
//! # tokio::runtime::Runtime::new()?.block_on(async {
//!
//! match Replica::open(url, "replica").await {
//!     Err(error) if error.kind() == ErrorKind::NotFound => println!("nothing is published yet"),
//!     Err(error) if error.kind() == ErrorKind::Transient => println!("try again later: {error}"),
//!     opened => drop(opened?.pull().await?),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Those about a patch also have a [stable class](format::ErrorClass). No function here
//! panics, whatever the bytes; none leaves half a result under the name of a whole one.
//!
//! # Untrusted input
//!
//! Patches, records and checkpoints may come from anyone: every size that they declare is checked against
//! [`Limits`] before memory is allocated for it. A digest tells accidents, not forgery, from the real thing
//! unless it is made with [`LeafHash::Blake3`].
//!
//! # Modules
//!
//! Each is a crate of its own (`tensorpatch-delta` for [`delta`], and so on), for those who need only that
//! one. This crate adds no logic.
//!
//! | module | what for |
//! |---|---|
//! | [`delta`] | make patches of checkpoints and of tensors in memory, and apply them |
//! | [`store`] | publish versions to a stream, and pull them |
//! | [`checkpoint`] | open and write safetensors checkpoints: a file, or a directory of shards |
//! | [`formats`] | read and write the delta formats of other projects |
//! | [`mod@format`] | the types of the wire: schemas, layouts, digests, limits, errors |
//! | [`codec`] | the kernels over chunks, to build another container |

pub use tensorpatch_checkpoint as checkpoint;
pub use tensorpatch_codec as codec;
pub use tensorpatch_delta as delta;
pub use tensorpatch_format as format;
pub use tensorpatch_formats as formats;
pub use tensorpatch_store as store;

pub use tensorpatch_delta::{
    AppliedInPlace, Apply, ApplyError, ApplyReport, Cancelled, Diff, DiffError, DiffReport, DiffTensors,
    MemoryState, Options, Others, Patch, Progress, TensorDiff, TensorsError, diff, diff_tensors, digest,
    full, full_tensors, safetensors,
};
pub use tensorpatch_format::{ErrorKind, LeafHash, Limits, Profile, StateDigest, TaggedStateDigest};
pub use tensorpatch_store::{Publisher, Replica, StoreError, blocking, object_store};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
