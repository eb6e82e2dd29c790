//! What can go wrong between a checkpoint and a bucket.

// Long because callers match on one type, whose variants say what was expected and what was found.

mod kind;
mod local;

use std::path::PathBuf;

use crate::cause::{Cause, Told, told_io};
use crate::settings::PolicyError;
use tensorpatch_checkpoint::Misplaced;
use tensorpatch_format::{LeafHash, TaggedStateDigest};
use tensorpatch_stream::{
    ChainError, HandoverError, KeyError, PlanError, ReceiptError, RecordError, StreamId, TrustKey, Version,
};

/// A refusal or failure of the store layer. Whatever existed before is as it was, unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store refused or failed; [`StoreError::cause`] says why.
    #[error("{name}: {}", Told(source))]
    Object {
        /// The object or folder, relative to the stream.
        name: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// An object that a record names is not there.
    #[error("{name} is not in the store")]
    Missing {
        /// The object.
        name: String,
    },
    /// An object is not what its record says.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The object.
        name: String,
        /// Expected and found.
        what: String,
    },
    /// An object is not the record that it should be.
    #[error("{name} is not a valid record: {source}")]
    Record {
        /// The object.
        name: String,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// A record is not signed by a trusted key.
    #[error("{name} is not to be trusted: {what}")]
    Untrusted {
        /// The object.
        name: String,
        /// Why not.
        what: String,
    },
    /// There is no stream at this place.
    #[error("there is no stream at {place}: create one by publishing to it")]
    NoStream {
        /// The store and prefix.
        place: String,
    },
    /// A stream that was followed is there no longer. What is held stays as it was.
    #[error("the stream at {place} is gone, which was there before: what is held stays as it was")]
    StreamGone {
        /// The store and prefix.
        place: String,
    },
    /// The stream record is gone, but other records of the stream are there. Nothing was created.
    #[error(
        "{place}: stream.json is gone, but records of {} are there, {}",
        stream.map_or("a stream".into(), |id| format!("the stream {id}")),
        newest.map_or("without versions".into(), |v| format!("up to version {v}"))
    )]
    StreamRecordLost {
        /// The store and prefix.
        place: String,
        /// The newest version that is there.
        newest: Option<Version>,
        /// The stream, by its newest commit record.
        stream: Option<StreamId>,
    },
    /// The stream is signed, and what was to be added is not.
    #[error(
        "{place} is signed, and what would be published is not: no replica that trusts its key would take it"
    )]
    Unsigned {
        /// The store and prefix.
        place: String,
    },
    /// A key was named, and the stream is not signed at all.
    #[error("{place} is not signed: no key counts for it")]
    NotSigned {
        /// The store and prefix.
        place: String,
    },
    /// What only the owner of a signed stream may do was asked of one that is not signed.
    #[error("{place} is not signed: {what} is for signed streams only")]
    OnlySigned {
        /// The store and prefix.
        place: String,
        /// What was to be done.
        what: &'static str,
    },
    /// A version was not taken back, which may be one of the owner's. Nothing was removed.
    #[error("{name} was not removed: {what}")]
    NotTakenBack {
        /// The commit record.
        name: String,
        /// Why it may be the owner's.
        what: String,
    },
    /// A stream is already at the place where one should be created.
    #[error("there is a stream {stream} at {place} already")]
    StreamExists {
        /// The store and prefix.
        place: String,
        /// The stream.
        stream: StreamId,
    },
    /// The store does not keep create-if-absent (spec/stream.md sections 2 and 7).
    #[error(
        "the store cannot keep two publishers apart: {0}. Use another store, or create the stream with \
         --single-writer, if you can promise that there is never more than one publisher at a time"
    )]
    NoConditionalCreate(String),
    /// Another publisher has won the version. The own bytes are abandoned; catch up and publish again.
    #[error("version {version} was published by {winner:?} first")]
    LostRace {
        /// The version.
        version: Version,
        /// Who won it.
        winner: String,
    },
    /// The store did not say whether the commit arrived, and it may still. The next run finds out.
    #[error("it is not known whether version {version} was published: {}", Told(source))]
    OutcomeUnknown {
        /// The version.
        version: Version,
        /// What the store said last.
        #[source]
        source: object_store::Error,
    },
    /// The baseline is not at the stream's tip. Catch up, then publish again.
    #[error("the baseline holds {}, but the stream is at version {tip}", held.map_or("nothing".into(), |v| format!("version {v}")))]
    NotAtTip {
        /// What the baseline holds.
        held: Option<Version>,
        /// The newest version of the stream.
        tip: Version,
    },
    /// The stream is not the one that the directory belongs to.
    #[error("{} belongs to the stream {expected}, but this is the stream {found}", path.display())]
    AnotherStream {
        /// The replica or baseline.
        path: PathBuf,
        /// The stream that it follows.
        expected: StreamId,
        /// The stream that was found.
        found: StreamId,
    },
    /// Something else is in the directory where a stream or a copy of one should be made. Nothing was.
    #[error("{} {what}: no stream is made in it", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What is there.
        what: String,
    },
    /// Something else is where a copy of the stream should go. Nothing there was altered.
    #[error("{place} {what}: nothing was copied over it")]
    AnotherCopy {
        /// The store and prefix of the copy.
        place: String,
        /// What is there.
        what: String,
    },
    /// The stream has another version under the number of one that is known, or lacks it among others.
    #[error("the history of the stream was rewritten: {0}")]
    HistoryRewritten(String),
    /// The place does not show the version that the directory holds, nor another in its stead: a mirror that
    /// is behind looks like this. What is held stays.
    #[error(
        "{place} is behind: its newest version is {}, and {} holds version {held}, which stays",
        found.map_or("none".into(), |v| v.to_string()), path.display()
    )]
    PlaceBehind {
        /// The store and prefix.
        place: String,
        /// The replica.
        path: PathBuf,
        /// The version that it holds.
        held: Version,
        /// The newest that was found.
        found: Option<Version>,
    },
    /// The stream has no such version.
    #[error("the stream has no version {wanted}: the newest is {}", tip.map_or("none".into(), |v| v.to_string()))]
    NoVersion {
        /// The version asked for.
        wanted: Version,
        /// The newest version.
        tip: Option<Version>,
    },
    /// A collector has removed what leads to the version.
    #[error("version {wanted} was collected: the oldest that is kept is {oldest}")]
    Collected {
        /// The version asked for.
        wanted: Version,
        /// The oldest version that is kept.
        oldest: Version,
    },
    /// Nothing whole leads to a version that a collector is to keep. Nothing was deleted.
    #[error(
        "version {wanted} is to stay, and nothing whole leads to it{}",
        from.map_or_else(String::new, |from| format!(": from version {from} on everything can be reached"))
    )]
    NotKept {
        /// The version.
        wanted: Version,
        /// The lowest anchor from which on every version can be reached.
        from: Option<Version>,
        /// The newest version.
        tip: Option<Version>,
    },
    /// The stream has no version at all.
    #[error("the stream has no version yet")]
    Empty,
    /// There is no usable path to the version.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The directory has a checkpoint or other files that are no version of the stream.
    #[error(
        "{} is in use by something else: {what}. Give an empty directory, or allow its weights to be replaced",
        path.display()
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        what: String,
    },
    /// A directory with something else was named as a baseline, which would have been overwritten. Nothing in
    /// it was altered.
    #[error("{} is no baseline: it has {found:?}, and nothing that tensorpatch keeps", path.display())]
    NotABaseline {
        /// The directory.
        path: PathBuf,
        /// A file in it.
        found: String,
    },
    /// A replica was named as a baseline, or a baseline as a replica: one would alter it under the other.
    /// Nothing in it was altered.
    #[error("{} is {kept_as}: {why}", path.display())]
    KeptOtherwise {
        /// The directory.
        path: PathBuf,
        /// What it is.
        kept_as: &'static str,
        /// Why it cannot be the other as well.
        why: &'static str,
    },
    /// The state of the local files is not what was recorded, or a patch did not lead to what was committed.
    #[error("{}: the state is {found}, not {expected}", path.display())]
    WrongState {
        /// The directory or file.
        path: PathBuf,
        /// The state that should be there.
        expected: TaggedStateDigest,
        /// The state that is.
        found: TaggedStateDigest,
    },
    /// A checkpoint that a patch was to be made from is not the newest version. Nothing was published.
    #[error("{} is not version {version}, the newest of the stream: {what}", path.display())]
    WrongBase {
        /// The checkpoint.
        path: PathBuf,
        /// The newest version.
        version: Version,
        /// How they differ.
        what: String,
    },
    /// The files of a replica or baseline are no checkpoint any more. Pulling again replaces them.
    #[error("{} is damaged: {what}", path.display())]
    LocalDamage {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A directory that is no replica.
    #[error("{} is no replica: it has no .tensorpatch/state.json; give the directory of a pull", path.display())]
    NotAReplica {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the version cannot be put in its place. Nothing was altered.
    #[error("{}: {what}; the version held stays as it was", path.display())]
    Place {
        /// The file or directory.
        path: PathBuf,
        /// What is in the way, and what to do.
        what: String,
    },
    /// A version has a file where there is one of the user's own. Nothing was altered.
    #[error(
        "{}: it did not come with a version, and version {version} has another file of this name: move it away, or \
         allow it to be replaced (--replace); the version held stays as it was",
        path.display()
    )]
    OwnFile {
        /// The file.
        path: PathBuf,
        /// The version.
        version: Version,
    },
    /// A version with a file of a format that can run code when it is loaded, and nobody has asked for one.
    #[error("version {version} has {name:?}, which can run code when it is loaded: nothing was altered")]
    RunsCode {
        /// The version.
        version: Version,
        /// The file.
        name: String,
    },
    /// Something is where a file or directory of tensorpatch's own belongs, such as a link that somebody
    /// has put there. It was neither followed nor altered.
    #[error(transparent)]
    Misplaced(Misplaced),
    /// The local state file is not one, or says what cannot be.
    #[error("{} cannot be understood: {what}. Remove it to start again from the weights that lie there", path.display())]
    LocalState {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file is where a directory should be. It was not altered.
    #[error(
        "{} is a file, and {}",
        file.display(),
        if file == path { "a directory is wanted there".into() } else { format!("no directory {} can be below it", path.display()) }
    )]
    NotADirectory {
        /// The directory.
        path: PathBuf,
        /// The file: that path itself, or one that it would be below.
        file: PathBuf,
    },
    /// The user's cache cannot be written to, and no other directory was named.
    #[error("{}: nothing can be kept in the user's cache: {source}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A local file could not be read or written.
    #[error("{}: {}", path.display(), told_io(source))]
    Local {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A patch is not what the commit says that it is.
    #[error("the patch of version {version} does not fit its commit: {what}")]
    PatchDiffers {
        /// The version.
        version: Version,
        /// Expected and found.
        what: String,
    },
    /// A file that cannot be published under its name.
    #[error("{} has a name that cannot be published: no control characters and none of / \\ {{ }} ^ % [ ] \" > < ~ # | * ? and `; rename it, or remove it", path.display())]
    FileName {
        /// The file.
        path: PathBuf,
    },
    /// A file that no version may have, because not every replica could write it, or that cannot be read.
    #[error("{} cannot be published: {what}", path.display())]
    Unpublishable {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        what: String,
    },
    /// A file that was given to lie beside the weights, and may not.
    #[error("{name:?} cannot be published beside the weights: {what}")]
    Companion {
        /// The name of the file.
        name: String,
        /// Why not.
        what: &'static str,
    },
    /// Tensors to be published that could not be had.
    #[error("the tensors to publish could not be had: {0}")]
    Tensors(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A lease without a name: all replicas that keep one would share it.
    #[error("a lease needs a name that no other replica has, and the one that was given is empty")]
    NoHolder,
    /// A label, or a publisher's name, that no record may have.
    #[error(transparent)]
    Text(RecordError),
    /// A key that would break the rules for names.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A local file that is larger than it may be.
    #[error("{} has more than the {limit} bytes that it may have", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A checkpoint on disk is broken or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] tensorpatch_checkpoint::CheckpointError),
    /// A patch was not applied.
    #[error(transparent)]
    Apply(#[from] tensorpatch_delta::ApplyError),
    /// A patch was not made.
    #[error(transparent)]
    Diff(#[from] tensorpatch_delta::DiffError),
    /// Tensors that do not fit their schema.
    #[error(transparent)]
    State(#[from] tensorpatch_delta::StateError),
    /// The caller's progress said to stop.
    #[error(transparent)]
    Cancelled(#[from] tensorpatch_delta::Cancelled),
    /// A tensor, or rows or bytes of one, that the version does not have.
    #[error("version {version}: {what}")]
    NoSuchRange {
        /// The version.
        version: Version,
        /// What it does not have.
        what: String,
    },
    /// The receipts of the ranks are not a version.
    #[error(transparent)]
    Receipts(#[from] ReceiptError),
    /// The records of the stream have more bytes than the policy allows.
    #[error("the records to read have more than {limit} bytes (max_history_bytes)")]
    HistoryBytes {
        /// The limit.
        limit: u64,
    },
    /// A plan with more bytes than the policy allows.
    #[error(
        "the cheapest path to version {version} has {bytes} bytes: at most {limit} are allowed (max_plan_bytes)"
    )]
    PlanBytes {
        /// The version.
        version: Version,
        /// Bytes of the plan.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A setting of the [`Policy`](crate::Policy) that is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The stream hashes its states otherwise than was asked for.
    #[error("{place}: the stream's leaf hash is {found}, not {wanted}")]
    LeafHash {
        /// The store and prefix.
        place: String,
        /// The leaf hash asked for.
        wanted: LeafHash,
        /// That of the stream.
        found: LeafHash,
    },
    /// A key is trusted, or to sign with, but the stream hashes its states so that other weights with the
    /// same digest can be made.
    #[error(
        "{place}: the leaf hash of its states is {found}, for which anybody can make other weights with the same \
         digest: signatures guard streams of the leaf hash blake3 alone"
    )]
    WeakLeafHash {
        /// The store and prefix.
        place: String,
        /// The leaf hash of the stream.
        found: LeafHash,
    },
    /// The stream at the place is another than was asked for.
    #[error("{place} has the stream {found}, not {expected}")]
    WrongStream {
        /// The store and prefix.
        place: String,
        /// The id that was asked for.
        expected: StreamId,
        /// The id of the stream that is there.
        found: StreamId,
    },
    /// The stream was published to in another place, with this key or from this baseline: it was moved, or
    /// this is a copy, and versions that are published to it would count here alone.
    #[error("{place}: the stream {stream} is here, which was published to at {known}")]
    Moved {
        /// The store and prefix.
        place: String,
        /// The stream.
        stream: StreamId,
        /// The store and prefix where it was.
        known: String,
    },
    /// There is no stream where one should be, of which a replica holds a version. What is held stays.
    #[error("{place} has no stream: {} holds version {held} of the stream {stream}, which was there", path.display())]
    StreamLost {
        /// The store and prefix.
        place: String,
        /// The replica.
        path: PathBuf,
        /// The stream that it is of.
        stream: StreamId,
        /// The version that it holds.
        held: Version,
    },
    /// The stream does not show a version that it is known to have had: somebody has hidden or deleted it.
    #[error(
        "{place}: the newest version is {}, but version {known} is known to exist",
        found.map_or("none".into(), |v| v.to_string())
    )]
    HiddenTip {
        /// The store and prefix.
        place: String,
        /// The version that is known.
        known: Version,
        /// The newest that was found.
        found: Option<Version>,
    },
    /// There is no stream where one was signed: it is hidden, or was removed.
    #[error("{place}: there is no stream any more, but version {known} was signed here")]
    Removed {
        /// The store and prefix.
        place: String,
        /// The version that was signed last.
        known: Version,
        /// The file that says so.
        note: PathBuf,
    },
    /// The file that says which version was signed last cannot be understood.
    #[error("{}: it does not say which version was signed last: {what}", path.display())]
    SignedTip {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The stream is signed, and it was not said whose signatures count.
    #[error("{place} is signed: {what} needs a key to trust, or would believe unsigned records")]
    NeedsKey {
        /// The store and prefix.
        place: String,
        /// What was to be done.
        what: &'static str,
    },
    /// The key to sign with was handed over, and counts no more.
    #[error("{place}: the key to sign with was handed over after version {last}")]
    RetiredKey {
        /// The store and prefix.
        place: String,
        /// The last version for which it counts.
        last: Version,
    },
    /// A stream is to be handed over to a key that counted for it before: who knows the one that came after
    /// it could hide that it has.
    #[error("{place}: the new key {key} was a key of this stream before")]
    UsedKey {
        /// The store and prefix.
        place: String,
        /// The public key.
        key: Box<TrustKey>,
    },
    /// What is said of the keys of the stream contradicts itself.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// There is no directory for caches, and none was named.
    #[error("there is no home directory to keep {purpose} in: {what}")]
    NoCache {
        /// What was to be kept.
        purpose: &'static str,
        /// Which variable is wrong.
        what: String,
    },
    /// A URL that names no store.
    #[error("{url:?}: {what}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// A task of the runtime was cancelled or panicked.
    #[error("a background task ended early: {0}")]
    Task(String),
}

impl From<ChainError> for StoreError {
    fn from(error: ChainError) -> Self {
        Self::Plan(error.into())
    }
}

/// Whether a store may answer otherwise when asked again.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    Cause::of(error).may_pass()
}
