//! What an error means: the exit code, the class of the specification, and what to do about it.

use std::io;

use tensorpatch::checkpoint::{CheckpointError, HeaderViolation};
use tensorpatch::delta::{ApplyError, DiffError};
use tensorpatch::format::{self, ErrorClass, ErrorKind};
use tensorpatch::formats::{FormatsError, Needed};
use tensorpatch::store::{Cause, PlanError, StoreError};

use super::{Code, Refusal, Unsound};
use crate::interrupt::Interrupted;
use crate::output::OutputClosed;

pub(super) struct Verdict {
    pub(super) code: Code,
    pub(super) class: Option<ErrorClass>,
    pub(super) offset: Option<u64>,
    pub(super) advice: Option<String>,
}

impl Verdict {
    fn new(code: Code) -> Self {
        Self { code, class: None, offset: None, advice: None }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// The first error of the chain that is known decides; where it has no advice, the operating system's may.
pub(super) fn judge(error: &anyhow::Error) -> Verdict {
    let mut verdict = judge_known(error);
    if verdict.advice.is_none() {
        let mut io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        verdict.advice = io.find_map(advice_of_io).map(str::to_owned);
    }
    verdict
}

fn advice_of_io(error: &io::Error) -> Option<&'static str> {
    Cause::of_io(error).advice().or((error.kind() == io::ErrorKind::NotFound).then_some("check the path"))
}

fn judge_known(error: &anyhow::Error) -> Verdict {
    for cause in error.chain() {
        if cause.is::<OutputClosed>() {
            return Verdict::new(Code::OutputClosed);
        }
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return Verdict::new(refusal.code).advise(&refusal.advice);
        }
        if let Some(ended) = cause.downcast_ref::<Interrupted>() {
            return Verdict::new((*ended).into()).advise(match ended {
                Interrupted::Asked(_) => "run the same command again: it goes on, or begins again",
                Interrupted::Shrunk => "wait until the file is written whole, and run the same command again",
            });
        }
        if let Some(unsound) = cause.downcast_ref::<Unsound>() {
            return match unsound {
                Unsound::Stream(_) => Verdict::new(Code::BadInput).advise(
                    "copy what is named from a mirror or a backup; tensorpatch anchor URL mends the way to the newest \
                     version; docs/runbook.md has more",
                ),
                Unsound::Records(_) => Verdict::new(Code::BadInput).advise(
                    "copy what is named, a record or stream.json, from a mirror or a backup; \"a damaged record\" in \
                     docs/runbook.md says what to do where there is no copy",
                ),
                Unsound::Unsigned(_) => Verdict::new(Code::BadInput).advise(
                    "if the key of the stream was changed, trust the new one alone; else whoever has it takes back what it \
                     has not signed: tensorpatch rollback URL --sign-key FILE",
                ),
                Unsound::LogCut { .. } => Verdict::new(Code::BadInput).advise(
                    "copy the record from a mirror or a backup; without one nothing can be done for those versions, and \
                     those that are listed can be pulled",
                ),
                Unsound::Place(_) | Unsound::InPlace(_) => Verdict::new(Code::Failure),
                Unsound::HoldsNothing { .. } => Verdict::new(Code::Behind)
                    .advise("if it is the right directory, tensorpatch pull brings it to the newest version"),
                Unsound::NoDirectory { .. } => Verdict::new(Code::Behind)
                    .advise("check the path: it should be the directory of a pull"),
                Unsound::Incomplete { .. } => Verdict::new(Code::Behind)
                    .advise("tensorpatch pull restores what is missing from the stream"),
                Unsound::Behind { .. } => Verdict::new(Code::Behind).advise(
                    "tensorpatch pull brings it to the newest version; see whether tensorpatch follow runs",
                ),
                Unsound::Copied { .. } => Verdict::new(Code::BadInput).advise(
                    "tensorpatch fsck URL names all that is wrong with the stream that was copied; where the copy has \
                     what is missing or damaged, copy it back under the same name",
                ),
                Unsound::Replica(_) => Verdict::new(Code::LocalDamage)
                    .advise("tensorpatch pull --verify restores what is wrong from the stream"),
            };
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return store(error);
        }
        if let Some(error) = cause.downcast_ref::<FormatsError>() {
            return formats(error);
        }
        if let Some(error) = cause.downcast_ref::<ApplyError>() {
            return apply(error);
        }
        if let Some(error) = cause.downcast_ref::<DiffError>() {
            return diff(error);
        }
        if let Some(error) = cause.downcast_ref::<CheckpointError>() {
            return checkpoint(error);
        }
        if let Some(error) = cause.downcast_ref::<format::Error>() {
            return patch(error);
        }
    }
    Verdict::new(Code::Failure)
}

fn apply(error: &ApplyError) -> Verdict {
    let verdict =
        Verdict { class: error.class(), offset: error.offset(), ..Verdict::new(error.kind().into()) };
    match error {
        ApplyError::Patch(error) => patch(error),
        ApplyError::PatchFile { source, .. } => patch(source),
        ApplyError::Checkpoint(error) => checkpoint(error),
        ApplyError::WrongBase { .. } => {
            verdict.advise("find the checkpoint with the expected digest: tensorpatch digest CHECKPOINT")
        }
        ApplyError::Chunk { .. } | ApplyError::Layout { .. } => {
            verdict.advise("the patch is damaged or was made by a faulty writer: fetch or make it again")
        }
        ApplyError::TargetMismatch { .. } => {
            verdict.advise("the patch was made by a faulty writer: make it again")
        }
        ApplyError::NotInPlace(_) => verdict.advise("write a new checkpoint with -o"),
        ApplyError::Replica { .. } => verdict.advise("bring it to another version with tensorpatch pull"),
        // The messages of the others say what to do.
        _ => verdict,
    }
}

fn diff(error: &DiffError) -> Verdict {
    match error {
        DiffError::Checkpoint(error) => checkpoint(error),
        error => Verdict::new(error.kind().into()),
    }
}

fn checkpoint(error: &CheckpointError) -> Verdict {
    let verdict = Verdict::new(error.kind().into());
    match error {
        CheckpointError::Pending { .. } => {
            verdict.advise("apply it again with --in-place: that finishes what was interrupted first")
        }
        CheckpointError::Updating { .. } => verdict.advise(
            "tensorpatch pull URL DIR finishes an update that was interrupted; if one is under way, wait until it is done",
        ),
        CheckpointError::NotDurable { .. } => {
            verdict.advise("check the file system; once sync(1) succeeds, the file is safe")
        }
        CheckpointError::MissingShard { .. } => verdict.advise("download the checkpoint again, all of it"),
        CheckpointError::Foreign { found, .. } => verdict.advise(found.advice()),
        CheckpointError::Header { source, .. } => verdict.advise(match source.violation {
            HeaderViolation::Truncated { .. } => "the file is not complete: fetch or save it again",
            HeaderViolation::FileLength { expected, found } if found < expected => {
                "the file is not complete: fetch or save it again"
            }
            HeaderViolation::FileLength { .. } | HeaderViolation::TrailingBytes { .. } => {
                "something was written behind the tensors: save the file again with safetensors"
            }
            HeaderViolation::Limit { .. } => "no known checkpoint needs this much: distrust the file",
            _ => "the file is damaged or of a faulty writer: fetch it, or save it with safetensors, again",
        }),
        CheckpointError::Index { .. }
        | CheckpointError::TensorInTwoFiles { .. }
        | CheckpointError::MissingTensor { .. }
        | CheckpointError::UnexpectedTensor { .. }
        | CheckpointError::TensorDiffers { .. }
        | CheckpointError::NoIndex { .. } => {
            verdict.advise("index and files are not of one checkpoint: fetch or save all of it again")
        }
        CheckpointError::Limit { .. } => {
            verdict.advise("no known checkpoint needs this much: distrust the file")
        }
        CheckpointError::NotAFile { .. } => {
            verdict.advise("give a safetensors file, or the directory of one")
        }
        CheckpointError::NoRoom { .. } => {
            Verdict { advice: Cause::NoRoom.advice().map(str::to_owned), ..verdict }
        }
        CheckpointError::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => {
                verdict.advise("run it as a user who may read and write there, or change the permissions")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                verdict.advise("the file system is read-only: write elsewhere")
            }
            io::ErrorKind::FileTooLarge => {
                verdict.advise("raise the limit on the size of files (ulimit -f), or write elsewhere")
            }
            _ => verdict,
        },
        // The messages of the others say what to do.
        _ => verdict,
    }
}

fn formats(error: &FormatsError) -> Verdict {
    let verdict = Verdict::new(error.kind().into());
    match (error, error.kind()) {
        (FormatsError::Checkpoint(error), _) => checkpoint(error),
        (FormatsError::Apply(error), _) => apply(error),
        (FormatsError::Diff(error), _) => diff(error),
        (FormatsError::Unsaid { needed: Needed::Base, .. }, _) => {
            verdict.advise("name it with --base CHECKPOINT, or write a checkpoint: --to checkpoint")
        }
        (FormatsError::Unsaid { .. }, _) => {
            verdict.advise("name them with --target-version N and --base-version N")
        }
        (_, ErrorKind::BadInput) => {
            verdict.advise("the source is damaged, unfinished or of a faulty writer: fetch or make it again")
        }
        (_, ErrorKind::WrongBase) => verdict
            .advise("find the checkpoint that the delta was made from; if this is it, the delta is faulty"),
        _ => verdict,
    }
}

fn patch(error: &format::Error) -> Verdict {
    let class = error.class();
    let verdict =
        Verdict { class: Some(class), offset: Some(error.offset), ..Verdict::new(error.kind().into()) };
    match class {
        ErrorClass::Truncated => verdict.advise("the patch is not complete: fetch it again"),
        ErrorClass::NotAPatch => {
            verdict.advise("check which file was meant; patches are made by tensorpatch diff")
        }
        ErrorClass::UnsupportedVersion | ErrorClass::UnsupportedFeature => {
            verdict.advise("use a newer version of tensorpatch")
        }
        ErrorClass::Limit => verdict.advise("no known checkpoint needs this much: distrust the file"),
        ErrorClass::Checksum => verdict.advise("the patch was damaged on its way: fetch it again"),
        ErrorClass::WrongBase => {
            verdict.advise("find the checkpoint that the patch was made from: tensorpatch inspect PATCH")
        }
        _ => verdict.advise("the file is damaged or was made by a faulty writer: fetch or make it again"),
    }
}

fn store(error: &StoreError) -> Verdict {
    let verdict = Verdict::new(error.kind().into());
    match error {
        StoreError::Checkpoint(error) => checkpoint(error),
        StoreError::Apply(error) => apply(error),
        StoreError::Diff(error) => diff(error),
        StoreError::NoStream { .. } | StoreError::Empty => {
            verdict.advise("check the URL; tensorpatch publish creates a stream")
        }
        StoreError::StreamGone { .. } => verdict.advise(
            "mount the directory or restore the bucket, and follow again; if the stream was deleted on purpose, there is \
             nothing left to follow",
        ),
        StoreError::StreamLost { .. } => verdict.advise(
            "mount the directory, restore the bucket or mend the URL: the replica goes on from there. If another stream \
             is to begin there, pull it into another directory",
        ),
        StoreError::NoVersion { .. } => verdict.advise("tensorpatch log URL lists the versions"),
        StoreError::LostRace { .. } | StoreError::NotAtTip { .. } => {
            verdict.advise("publish again: the patch is then made from the newest version")
        }
        StoreError::AnotherStream { .. } => verdict.advise(
            "if the stream should still be that one, its stream.json was exchanged: tensorpatch fsck URL tells; if another \
             one was meant, use another directory, or remove its folder .tensorpatch to start again from the weights there",
        ),
        StoreError::ForeignDirectory { .. } => {
            verdict.advise("use another directory, or --replace if the weights there may go")
        }
        StoreError::NotABaseline { .. } => verdict.advise(
            "name an empty or missing directory, which is filled from the stream, or leave --baseline out; \
             tensorpatch anchor takes a replica, too: tensorpatch pull makes one",
        ),
        StoreError::KeptOtherwise { .. } => verdict.advise(
            "name another directory: an empty or missing one is filled from the stream; nothing in it was altered",
        ),
        StoreError::AnotherCopy { .. } => verdict.advise("choose an empty or missing place for the copy"),
        StoreError::Occupied { .. } => {
            verdict.advise("choose an empty or missing directory; nothing there was altered")
        }
        StoreError::OnlySigned { .. } => verdict.advise(
            "to take a version back, move its record away with the tools of the store: \"a damaged record\" in \
             docs/runbook.md says how; if the stream was signed before, somebody has replaced stream.json: restore it",
        ),
        StoreError::RunsCode { .. } => {
            verdict.advise("if you know what the file is, allow it with --allow-code; else distrust the publisher")
        }
        StoreError::Plan(PlanError::TooLong { .. }) => verdict.advise(
            "shorten the path first: tensorpatch fold URL --from A --to B, or publish an anchor with --anchor-every",
        ),
        StoreError::Missing { name } if name.starts_with("commits/") => verdict.advise(
            "copy the record from a mirror or a backup; without one, tensorpatch anchor URL leads past it: \"a damaged \
             record\" in docs/runbook.md says more",
        ),
        StoreError::Damaged { name, .. } | StoreError::Record { name, .. } if name.starts_with("commits/") => verdict
            .advise(
                "copy the record from a mirror or a backup; if it is a stray copy of another record, move it away; if all \
                 records are of one other stream, it is stream.json that was exchanged; \"a damaged record\" in \
                 docs/runbook.md says what to do where there is no copy",
            ),
        StoreError::Damaged { name, .. } | StoreError::Record { name, .. } if name == "stream.json" => verdict
            .advise("copy stream.json back from a mirror or a backup: it never changes, and the versions are as they were"),
        StoreError::NotKept { from: Some(from), tip, .. } => {
            let kept = tip.unwrap_or(*from).get().saturating_sub(from.get()).saturating_add(1);
            verdict.advise(format!(
                "give up the versions before {from}, which cannot be reached: tensorpatch gc URL --keep {kept}, once no \
                 lease or pin needs them; or copy what is missing from a mirror: tensorpatch fsck URL names it"
            ))
        }
        StoreError::NotKept { .. } => verdict.advise(
            "tensorpatch anchor URL gives the newest version another way; what comes before it can be given up then",
        ),
        StoreError::NotTakenBack { .. } => verdict.advise(
            "copy the record back from a mirror or a backup, and the version counts again; to give up that version and \
             all after it, add --force: replicas that hold them must start again",
        ),
        StoreError::NotSigned { .. } => verdict.advise(
            "leave --trust-key and --sign-key out if nobody was to sign it; if it was signed before, somebody has \
             replaced stream.json: restore it from a mirror or a backup",
        ),
        StoreError::Missing { .. }
        | StoreError::Damaged { .. }
        | StoreError::Record { .. }
        | StoreError::PatchDiffers { .. }
        | StoreError::Plan(PlanError::NoPath { .. }) => verdict.advise(
            "the stream is damaged, and what is held stays as it was: tensorpatch anchor URL mends the way to the \
             newest version, where it was published or with --baseline and a replica that holds it; or copy what \
             is missing or altered from a mirror",
        ),
        StoreError::Collected { .. } => {
            verdict.advise("tensorpatch log URL lists the versions; gc --pin keeps one for longer")
        }
        StoreError::PlaceBehind { .. } => verdict.advise(
            "if it is a mirror, wait, or run tensorpatch mirror again; if versions were taken back there, \"after a bucket \
             was rolled back\" in docs/runbook.md says what to do",
        ),
        StoreError::HistoryRewritten(_) => verdict.advise(
            "if the stream was restored or rolled back on purpose, start again from it: delete the directory if it is \
             the baseline of a publisher; of a replica delete the folder .tensorpatch alone, and pull with --replace",
        ),
        StoreError::PlanBytes { .. } => verdict.advise(
            "raise the limit with --max-plan-bytes, or shorten the path: tensorpatch fold URL --from A --to B",
        ),
        StoreError::HistoryBytes { .. } => verdict.advise(
            "raise the limit with --max-history-bytes, if the stream is as long as that; else distrust its records",
        ),
        StoreError::LeafHash { .. } => {
            verdict.advise("leave --leaf-hash out, or publish to a new stream")
        }
        StoreError::WeakLeafHash { .. } => verdict.advise(
            "publish to a new stream with --sign-key, which then has the leaf hash blake3; or read this one without a key",
        ),
        StoreError::WrongStream { .. } => verdict.advise(
            "check the URL and --stream. If another stream was made there on purpose, name it once with --stream",
        ),
        StoreError::Moved { stream, .. } => verdict.advise(format!(
            "find out who has put it there: published here, versions would count where it was. If it was moved on \
             purpose, say so once with --stream {stream}"
        )),
        StoreError::UsedKey { .. } => {
            verdict.advise("make a new key for every rotation: tensorpatch keygen FILE")
        }
        StoreError::HiddenTip { .. } => verdict.advise(
            "if this is a mirror, wait until it is up to date; else find out who hides or has deleted the newer \
             versions, and restore them: going on would fork the stream. If they were given up on purpose: leave \
             --expect-tip out, or forget what was signed with tensorpatch rollback URL --sign-key FILE --force",
        ),
        StoreError::Removed { note, .. } => verdict.advise(format!(
            "find out who has removed or hides it, and restore it. If another stream is to begin there: remove {}",
            note.display()
        )),
        StoreError::SignedTip { .. } => {
            verdict.advise("remove the file, and name the newest version that you know of with --expect-tip")
        }
        StoreError::RetiredKey { .. } => verdict.advise(
            "sign with the key that it was handed over to; to hand the stream over again, use that one as the old key",
        ),
        StoreError::Handover(_) => verdict.advise(
            "ask the owner of the stream for its newest public key, and trust that alone (--trust-key)",
        ),
        StoreError::NeedsKey { .. } => verdict.advise("name the public key of the publisher with --trust-key"),
        StoreError::NoCache { .. } | StoreError::Cache { .. } => verdict.advise(
            "name a directory, with --baseline to publish and to anchor, with --work to fold, mirror and report; or set \
             XDG_CACHE_HOME to one that this user may write to",
        ),
        StoreError::NotADirectory { .. } => verdict.advise("name a directory, or a path where one can be made"),
        StoreError::Untrusted { name, .. } if name == "stream.json" => verdict.advise(
            "name the key that the stream is signed with, as tensorpatch keygen printed it: --trust-key to read, \
             --sign-key to write, --old-key-file or --old-key to rotate; if nobody knows that key, distrust the stream",
        ),
        StoreError::Untrusted { .. } => verdict.advise(
            "if the key of the stream was changed, give the new public key in the place of the old one. Else the \
             record is forged, or signed with a key that is not named: whoever has the key that counts takes it back \
             with tensorpatch rollback URL --sign-key FILE",
        ),
        StoreError::WrongBase { .. } => verdict.advise(
            "give the checkpoint that was published last, or leave --base out: the stream has the newest version",
        ),
        StoreError::WrongState { .. } | StoreError::LocalDamage { .. } => {
            verdict.advise("run tensorpatch pull, or publish again: what is damaged is restored from the stream")
        }
        StoreError::Receipts(_) => {
            verdict.advise("nothing is published: collect the receipts of all ranks")
        }
        StoreError::OutcomeUnknown { .. } if error.is_transient() => {
            verdict.advise("run the same command again: it finds out and goes on")
        }
        StoreError::StreamRecordLost { .. } => verdict.advise(
            "restore stream.json, from a mirror or a backup: the versions are as they were, and nothing was created",
        ),
        StoreError::Unsigned { .. } => {
            verdict.advise("give --sign-key with the key that the stream is signed with")
        }
        // The messages of the others say what to do.
        error => match error.cause().and_then(Cause::advice) {
            Some(advice) => verdict.advise(advice),
            None => verdict,
        },
    }
}
