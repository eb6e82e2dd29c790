//! Delta weight sync for safetensors checkpoints: publish every training step, follow it anywhere.
//!
//! A reinforcement-learning step changes about one bf16 weight in a hundred. tensorpatch finds those that changed, by
//! bits, encodes them in less than a byte each, and rebuilds the new checkpoint from the old one bit for bit,
//! verified by a digest of the whole state. Patches travel as files, or through an object store as a *stream* of
//! versions that replicas follow.
//!
//! # Where things are
//!
//! | module | what for |
//! |---|---|
//! | [`checkpoint`] | open and write safetensors checkpoints: a file, or a directory of shards |
//! | [`delta`] | make patches of checkpoints, and apply them |
//! | [`formats`] | read and write the delta formats of other projects, and convert between them |
//! | [`store`] | publish versions to a stream, and pull them |
//! | [`mod@format`] | the types of the wire: schemas, layouts, digests, limits, errors |
//! | [`codec`] | the kernels over chunks; only for whoever builds another container |
//!
//! Each is a crate of its own (`tensorpatch-delta` for [`delta`], and so on), for who needs only that one. This crate adds no
//! logic.
//!
//! # A patch between two checkpoints
//!
//! ```
//! use tensorpatch::checkpoint::{Checkpoint, Form};
//! use tensorpatch::delta::{Options, Patch, Progress, State, Version, apply_to, diff};
//! use tensorpatch::format::Limits;
//! # use std::path::Path;
//! # fn checkpoint(path: &Path, weights: [u8; 4]) -> std::io::Result<()> {
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend(weights);
//! #     std::fs::write(path, file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # let (old, new, rebuilt) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("rebuilt"));
//! # checkpoint(&old, [1, 2, 3, 4])?;
//! # checkpoint(&new, [1, 2, 3, 5])?;
//!
//! let limits = Limits::default();
//! let base = Checkpoint::open(&old, &limits)?;
//! let target = Checkpoint::open(&new, &limits)?;
//! let version = |checkpoint| {
//!     State::of(checkpoint).map(|state| Version { state, layout: checkpoint.layout(), leaves: None })
//! };
//!
//! let options = Options::default();
//! let mut bytes = Vec::new();
//! let report = diff(&version(&base)?, &version(&target)?, &options, Progress::none(), &mut bytes)?;
//! assert_eq!(report.changed_elements, 1);
//!
//! let patch = Patch::parse(&bytes, &limits)?;
//! apply_to(&base, &patch, &rebuilt, Form::File, &options, Progress::none())?;
//! assert_eq!(std::fs::read(&rebuilt)?, std::fs::read(&new)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A stream from a trainer to its replicas
//!
//! ```
//! use tensorpatch::store::{CreateOptions, PublishOptions, Publisher, Replica, ReplicaOptions, Stream, Target, open_store};
//! # fn save_checkpoint(path: &std::path::Path, step: u8) -> std::io::Result<()> {
//! #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
//! #     let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! #     file.extend(header);
//! #     file.extend([step, 2, 3, 4]);
//! #     std::fs::write(path, file)
//! # }
//! # let dir = tempfile::tempdir()?;
//! # let path = |name: &str| dir.path().join(name);
//! # let url = path("stream");
//! # let url = url.to_str().ok_or("not UTF-8")?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//!
//! // The trainer.
//! let (store, prefix) = open_store(url)?;
//! let stream = Stream::open_or_create(store, prefix, CreateOptions::default()).await?;
//! let publisher = Publisher::open(stream, path("baseline"), PublishOptions::default()).await?;
//! for step in 0..3 {
//!     save_checkpoint(&path("model.safetensors"), step)?;
//!     publisher.publish(&path("model.safetensors")).await?;
//! }
//!
//! // A replica, anywhere.
//! let (store, prefix) = open_store(url)?;
//! let stream = Stream::open(store, prefix).await?;
//! let replica = Replica::open(stream, path("replica"), ReplicaOptions::default());
//! replica.pull(Target::Latest).await?;
//! assert_eq!(std::fs::read(path("replica/model.safetensors"))?, std::fs::read(path("model.safetensors"))?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `aws` | streams on S3, whatever speaks S3, and the Hugging Face Hub |
//! | `gcp` | streams on Google Cloud Storage |
//! | `azure` | streams on Azure Blob Storage |
//!
//! None is on by default: each brings an HTTP client and TLS. Streams in local directories, and in any
//! `ObjectStore` that the caller brings, need none.
//!
//! # What can go wrong
//!
//! Each module has errors of its own, as types, that name the file, the tensor or the byte offset, and what was expected and
//! found. Those about a patch have a [stable class](format::ErrorClass). No function here panics, whatever the bytes;
//! none leaves half a result under the name of a whole one.
//!
//! # Untrusted input
//!
//! Patches, records and checkpoints may come from anyone: every size that they declare is checked against
//! [`Limits`](format::Limits) before memory is allocated for it. A digest tells accidents, not forgery, from the real thing
//! unless it is made with [`LeafHash::Blake3`](format::LeafHash::Blake3).

pub use tensorpatch_checkpoint as checkpoint;
pub use tensorpatch_codec as codec;
pub use tensorpatch_delta as delta;
pub use tensorpatch_format as format;
pub use tensorpatch_formats as formats;
pub use tensorpatch_store as store;
