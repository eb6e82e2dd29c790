//! The wire layer of tensorpatch: what a patch file consists of, and nothing about how its contents are made.
//!
//! * [`Schema`], [`Layout`] and the digests: the values that a patch is bound to.
//! * [`PatchView`]: a whole patch file in one slice, as borrowed views of its parts.
//! * [`ForwardReader`] and [`RandomReader`]: the same without the whole file at hand; they say which bytes
//!   they need next.
//! * [`PatchWriter`] and [`BlockBuilder`]: the bytes of a patch, part by part.
//! * [`Grid`]: which chunks a patch may and must have records for.
//! * [`Limits`] and [`Error`]: what untrusted bytes may ask for, and what is said when they ask for more.
//!
//! The format is specified in `spec/format.md`; section numbers in this crate refer to it. The crate does no
//! compression and no I/O, and forbids `unsafe`.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")
)]

mod address;
mod block;
mod bytes;
mod digest;
mod dtype;
mod encoding;
mod error;
mod error_class;
mod error_kind;
mod grid;
mod header;
mod index;
mod layout;
mod limits;
mod packed;
mod patch;
mod reader;
mod scan;
mod schema;
mod section;
mod trailer;
mod wire;
mod write;

pub use block::{Block, ChunkRecord, ChunkRecords};
pub use digest::{
    LayoutDigest, LeafDigest, LeafHash, ParseDigestError, SchemaDigest, StateDigest, TaggedStateDigest,
    TensorDigest,
};
pub use dtype::{Dtype, ElementFormat};
pub use encoding::Encoding;
pub use error::{Error, Violation};
pub use error_class::ErrorClass;
pub use error_kind::ErrorKind;
pub use grid::Grid;
pub use header::{MAGIC, PatchHeader};
pub use index::{BlockEntry, Index};
pub use layout::{FileLayout, Layout, LayoutError};
pub use limits::{LimitKind, Limits};
pub use packed::{Listing, Packed, Packing};
pub use patch::PatchView;
pub use reader::{Arrivals, ForwardReader, Need, RandomAccess, RandomReader};
pub use scan::{PatchPart, Want};
pub use schema::{ChunkAddress, ChunkIndex, Schema, SchemaError, TensorIndex, TensorSpec};
pub use section::{SectionHead, SectionKind};
pub use trailer::{Ends, Trailer};
pub use wire::{Kind, Profile};
pub use write::{BlockBuilder, FinishedBlock, LayoutDue, PatchWriter, SchemaDue, WriteError};

/// Bytes of a tensor that make one chunk (section 2). A constant of the format: changing it changes every
/// digest.
pub const CHUNK_BYTES: usize = 1 << 20;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
