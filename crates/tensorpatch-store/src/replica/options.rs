//! What a caller chooses about a replica.

use tensorpatch_stream::Version;

use tensorpatch_delta as delta;

use crate::observe::Observer;

/// The version that a replica is to be brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The newest. Never one below the version held.
    Latest,
    /// This one, be it ahead or back.
    Version(Version),
}

/// How the files of a replica change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ApplyMode {
    /// Bytes are altered in the files, guarded by a journal, where tensors stay in their places: least disk,
    /// least writing.
    #[default]
    InPlace,
    /// Complete new files are made beside the old ones and renamed: the old version can be read until the
    /// switch.
    Beside,
}

/// When a pull reads every byte of the version held, and repairs what is not as it was published. Otherwise
/// it compares presence, sizes and headers. What a patch is applied to is always hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// The weights, where the stream is read with trusted keys and has nothing newer.
    #[default]
    WhereTrusted,
    /// All files, first of all.
    Always,
    /// Never.
    Never,
}

/// Choices for a replica.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// How the files change.
    pub mode: ApplyMode,
    /// Whether weights in the directory that are no version of the stream may be replaced, and files beside
    /// them that came with none.
    pub replace: bool,
    /// Whether files beside the weights may be of formats that can run code when they are loaded, such as
    /// `.bin` and `.pt`. A version with one is else refused: a publisher takes one along only if it is told
    /// to.
    pub allow_code: bool,
    /// A name that no other replica of the stream has, for people too, under which the replica keeps a lease:
    /// while that lives, collectors keep the path from the replica's version to the tip. Each pull renews it,
    /// and so does following.
    pub lease: Option<String>,
    /// Whether the patch that leads back to the version before is not kept.
    pub without_inverse: bool,
    /// Threads and limits for decoding.
    pub apply: delta::Options,
    /// When the files that are held are read, and not only looked at.
    pub verify: Verify,
    /// Who is told of progress.
    pub observer: Observer,
}

impl ReplicaOptions {
    /// The same with the weights that are held hashed as `verify` says.
    #[must_use]
    pub fn with_verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// The same with files that change as `mode` says.
    #[must_use]
    pub fn with_mode(mut self, mode: ApplyMode) -> Self {
        self.mode = mode;
        self
    }

    /// The same, but weights that are no version of the stream may be replaced.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replace = true;
        self
    }

    /// The same, but files beside the weights may be of formats that can run code when they are loaded.
    #[must_use]
    pub fn allowing_code(mut self) -> Self {
        self.allow_code = true;
        self
    }

    /// Keeps a lease under the name `holder`, which no other replica of the stream has.
    #[must_use]
    pub fn with_lease(mut self, holder: impl Into<String>) -> Self {
        self.lease = Some(holder.into());
        self
    }

    /// The same without the patch that leads back to the version before, which a replica keeps that is
    /// altered in place: going back then takes an anchor and all patches since, but each step forward a
    /// little less time.
    #[must_use]
    pub fn without_inverse(mut self) -> Self {
        self.without_inverse = true;
        self
    }

    /// The same with files whose `durability` is this. Without any, a power cut may leave them torn; the next
    /// pull finds out and fetches again what is wrong.
    #[must_use]
    pub fn with_durability(mut self, durability: delta::Durability) -> Self {
        self.apply.durability = durability;
        self
    }

    /// The same with these threads and limits.
    #[must_use]
    pub fn with_apply(mut self, apply: delta::Options) -> Self {
        self.apply = apply;
        self
    }

    /// The same with `observer` told of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}
