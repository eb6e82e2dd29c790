//! What a caller chooses about publishing.

use std::path::PathBuf;

use tensorpatch_delta as delta;
use tensorpatch_stream::Nonce;

use super::anchor_policy::AnchorPolicy;
use crate::observe::Observer;

/// Choices for publishing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PublishOptions {
    /// The name that the commit records give for the publisher.
    pub publisher: String,
    /// Profile, threads and limits of the patches. The leaf hash is the stream's.
    pub diff: delta::Options,
    /// When [`Publisher::publish`](crate::Publisher::publish) and [`ranks::commit`](crate::ranks::commit) add
    /// an anchor to the version, so that newcomers need no long chain of patches.
    pub anchors: AnchorPolicy,
    /// The newest version as a checkpoint of the caller's, which
    /// [`Publisher::publish`](crate::Publisher::publish) makes the patch from: then no baseline is kept.
    ///
    /// It is hashed while it is read, and refused if it is not the newest version of the stream, down to a
    /// bit. Anchors are not added, as they are made of the baseline.
    pub base: Option<PathBuf>,
    /// Whether a checkpoint that is the newest version already becomes a version of its own all the same
    /// [default: only with a label of its own].
    pub allow_unchanged: bool,
    /// Files beside the weights that are published although their names say weights of another format, a
    /// leftover or a log; below the directory of the checkpoint, such as `onnx/model.onnx`.
    pub carried: Vec<String>,
    /// Who is told of progress.
    pub observer: Observer,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            publisher: format!("publisher-{}", Nonce::random()),
            diff: delta::Options::default(),
            anchors: AnchorPolicy::default(),
            base: None,
            allow_unchanged: false,
            carried: Vec::new(),
            observer: Observer::default(),
        }
    }
}

impl PublishOptions {
    /// The same under this name, of 1 to 256 bytes.
    #[must_use]
    pub fn with_publisher(mut self, name: impl Into<String>) -> Self {
        self.publisher = name.into();
        self
    }

    /// The same with these choices for patches.
    #[must_use]
    pub fn with_diff(mut self, diff: delta::Options) -> Self {
        self.diff = diff;
        self
    }

    /// Sets when a version gets an anchor.
    #[must_use]
    pub fn with_anchors(mut self, anchors: AnchorPolicy) -> Self {
        self.anchors = anchors;
        self
    }

    /// The same with patches from the checkpoint at `base`, which is the newest version.
    ///
    /// For trainers that keep the checkpoint before unaltered: no copy of the model is kept or written.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<PathBuf>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// Publishes a checkpoint that is the newest version already all the same.
    #[must_use]
    pub fn allowing_unchanged(mut self) -> Self {
        self.allow_unchanged = true;
        self
    }

    /// The same, but files of these names are published although they would be left out.
    #[must_use]
    pub fn carrying(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.carried = names.into_iter().collect();
        self
    }

    /// The same with `observer` told of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}
