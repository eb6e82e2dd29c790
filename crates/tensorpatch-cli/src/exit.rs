//! Exit codes, and how errors are told.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use tensorpatch::checkpoint::{CheckpointError, HeaderViolation};
use tensorpatch::delta::{ApplyError, DiffError};
use tensorpatch::format::{self, ErrorClass, ErrorKind};
use tensorpatch::formats::FormatsError;
use tensorpatch::store::{Cause, PlanError, StoreError};

use crate::interrupt::Interrupted;
use crate::output::OutputClosed;
use crate::screen::{ADVICE, BAD, styled};
use crate::terminal::{shown, shown_json, shown_lines};

/// The end of `tensorpatch --help`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done
  1    failed: input or output, no room, no permission, or a fault of tensorpatch
  2    refused: the command line is wrong, or asks for something that would do harm
  3    an input is damaged, or not what it should be: checkpoint, patch or record
  4    the patch was made from another base
  5    the stream is not as expected: another publisher was faster, or it is another stream
  6    there is no such stream, version or part of a version
  7    a record is not signed by a trusted key
  8    local files are damaged, or were changed while in use: those of a replica or baseline, or a checkpoint with a journal, or its journal; or a file was cut short while it was read
  9    a replica is further behind than was allowed
  129  interrupted by HUP
  130  interrupted by INT, as Ctrl-C does
  141  standard output was closed by its reader
  143  interrupted by TERM";

/// What the program ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Success,
    Failure,
    Refused,
    BadInput,
    WrongBase,
    StreamConflict,
    NotFound,
    Untrusted,
    LocalDamage,
    Behind,
    OutputClosed,
    Interrupted(u8),
}

impl Code {
    /// The number of the code.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Refused => 2,
            Self::BadInput => 3,
            Self::WrongBase => 4,
            Self::StreamConflict => 5,
            Self::NotFound => 6,
            Self::Untrusted => 7,
            Self::LocalDamage => 8,
            Self::Behind => 9,
            // What a shell shows for a process that SIGPIPE has ended.
            Self::OutputClosed => 141,
            // As a shell shows it for a process that a signal has ended.
            Self::Interrupted(signal) => signal.saturating_add(128),
        }
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Refused => Self::Refused,
            ErrorKind::BadInput => Self::BadInput,
            ErrorKind::WrongBase => Self::WrongBase,
            ErrorKind::Conflict => Self::StreamConflict,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Untrusted => Self::Untrusted,
            ErrorKind::LocalDamage => Self::LocalDamage,
            _ => Self::Failure,
        }
    }
}

impl From<Interrupted> for Code {
    fn from(ended: Interrupted) -> Self {
        match ended {
            Interrupted::Asked(signal) => {
                Self::Interrupted(u8::try_from(signal.as_raw()).unwrap_or_default())
            }
            Interrupted::Shrunk => Self::LocalDamage,
        }
    }
}

/// A refusal of the command line itself, with what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Refusal {
    what: String,
    advice: String,
}

impl Refusal {
    pub(crate) fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// Something wrong that has been reported, by where it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsound {
    /// In a stream.
    #[error("{0}: the stream is not sound")]
    Stream(String),
    /// In a replica.
    #[error("{0}: the replica is not what was published")]
    Replica(String),
    /// In a place for a stream.
    #[error("{0}: the place is not fit for a stream")]
    Place(String),
    /// Between a replica and its stream.
    #[error("{dir}: {behind} versions behind, at most {most} are allowed")]
    Behind {
        /// The directory.
        dir: String,
        /// Versions that the newest is ahead.
        behind: u64,
        /// The limit.
        most: u64,
    },
}

/// What a program learns of an error with `--json`.
#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    exit_code: u8,
    /// The stable class of the format's specification, for errors about a patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    /// Where in the patch file.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
}

/// Tells the user what is wrong with the command line, or what was asked about it.
pub(crate) fn report_usage(error: &clap::Error, arguments: &[OsString]) -> Code {
    let asks_for_json = arguments.iter().take_while(|argument| *argument != "--").any(|a| a == "--json");
    // If the stream is gone there is nobody left to tell.
    if !error.use_stderr() {
        let _ = error.print();
        return Code::Success;
    }
    let _ = io::stderr().write_all(shown_lines(&error.render().to_string()).as_bytes());
    if asks_for_json {
        let text = error.render().to_string();
        let (message, advice) = text.split_once("\n\n").unwrap_or((&text, ""));
        print_json(&ErrorBody {
            exit_code: Code::Refused.number(),
            class: None,
            offset: None,
            message: message.trim().trim_start_matches("error: "),
            advice: Some(advice.trim()).filter(|advice| !advice.is_empty()),
        });
    }
    Code::Refused
}

fn print_json(error: &ErrorBody<'_>) {
    if let Ok(mut json) = serde_json::to_string_pretty(&ErrorReport { error }) {
        json.push('\n');
        let _ = io::stdout().write_all(shown_json(&json).as_bytes());
    }
}

/// Tells the user what went wrong and what to do about it, and says what to exit with.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Code {
    let verdict = judge(error);
    if verdict.code == Code::OutputClosed {
        return verdict.code;
    }
    let message = message(error);
    let mut text = format!("{} {}\n", styled(BAD, "error:"), shown(&message));
    if let Some(advice) = &verdict.advice {
        let _ = writeln!(text, "{} {}", styled(ADVICE, "advice:"), shown(advice));
    }
    // If standard error is gone there is nobody left to tell.
    let _ = anstream::stderr().write_all(text.as_bytes());
    // After the report of a check, an error document would be a second one.
    if json && !error.is::<Unsound>() {
        print_json(&ErrorBody {
            exit_code: verdict.code.number(),
            class: verdict.class.map(ErrorClass::code),
            offset: verdict.offset,
            message: &message,
            advice: verdict.advice.as_deref(),
        });
    }
    verdict.code
}

/// The whole chain of causes in one line, without those that the one before has said already.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut said = error.chain().next().is_some_and(says_all);
    for cause in error.chain().skip(1) {
        if said {
            break;
        }
        said = says_all(cause);
        let cause = cause.to_string();
        if !last.contains(&cause) {
            let _ = write!(text, ": {cause}");
            last = cause;
        }
    }
    text
}

/// Puts `what` did not happen before an error, unless it did and is only not known to outlive a power cut.
pub(crate) fn not_done(error: anyhow::Error, what: impl FnOnce() -> String) -> anyhow::Error {
    let is_done = error.chain().any(|cause| {
        let checkpoint = match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
            (Some(ApplyError::Checkpoint(error)), ..) => Some(error),
            (_, Some(DiffError::Checkpoint(error)), _) => Some(&**error),
            (.., error) => error,
        };
        matches!(checkpoint, Some(CheckpointError::NotDurable { .. }))
    });
    if is_done { error } else { error.context(what()) }
}

/// Whether the message of an error has what those behind it say: behind a failed request are whole pages.
fn says_all(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(
            StoreError::Object { .. }
                | StoreError::OutcomeUnknown { .. }
                | StoreError::NoConditionalCreate(_)
        )
    )
}

struct Verdict {
    code: Code,
    class: Option<ErrorClass>,
    offset: Option<u64>,
    advice: Option<String>,
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
fn judge(error: &anyhow::Error) -> Verdict {
    let mut verdict = judge_known(error);
    if verdict.advice.is_none() {
        let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
        verdict.advice = io.and_then(|io| Cause::of_io(io).advice()).map(str::to_owned);
    }
    verdict
}

fn judge_known(error: &anyhow::Error) -> Verdict {
    for cause in error.chain() {
        if cause.is::<OutputClosed>() {
            return Verdict::new(Code::OutputClosed);
        }
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return Verdict::new(Code::Refused).advise(&refusal.advice);
        }
        if let Some(ended) = cause.downcast_ref::<Interrupted>() {
            return Verdict::new((*ended).into()).advise(match ended {
                Interrupted::Asked(_) => "run the same command again: it goes on, or begins again",
                Interrupted::Shrunk => "wait until the file is written whole, and run the same command again",
            });
        }
        if let Some(unsound) = cause.downcast_ref::<Unsound>() {
            return match unsound {
                Unsound::Stream(_) => Verdict::new(Code::BadInput),
                Unsound::Place(_) => Verdict::new(Code::Failure),
                Unsound::Behind { .. } => Verdict::new(Code::Behind).advise(
                    "tensorpatch pull brings it to the newest version; see whether tensorpatch follow runs",
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
        CheckpointError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => verdict.advise("check the path"),
            io::ErrorKind::PermissionDenied => {
                verdict.advise("run it as a user who may read and write there, or change the permissions")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                verdict.advise("the file system is read-only: write elsewhere")
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                verdict.advise("free some space, or write elsewhere")
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
        StoreError::NoVersion { .. } => verdict.advise("tensorpatch log URL lists the versions"),
        StoreError::LostRace { .. } | StoreError::NotAtTip { .. } => {
            verdict.advise("publish again: the patch is then made from the newest version")
        }
        StoreError::AnotherStream { .. } => verdict.advise(
            "use another directory, or remove its folder .tensorpatch to start again from the weights there",
        ),
        StoreError::ForeignDirectory { .. } => {
            verdict.advise("use another directory, or --replace if the weights there may go")
        }
        StoreError::RunsCode { .. } => {
            verdict.advise("if you know what the file is, allow it with --allow-code; else distrust the publisher")
        }
        StoreError::Plan(PlanError::TooLong { .. }) => verdict.advise(
            "shorten the path first: tensorpatch fold URL --from A --to B, or publish an anchor with --anchor-every",
        ),
        StoreError::Missing { .. }
        | StoreError::Damaged { .. }
        | StoreError::Record { .. }
        | StoreError::PatchDiffers { .. }
        | StoreError::Plan(PlanError::NoPath { .. }) => verdict.advise(
            "the stream is damaged, and what is held stays as it was: tensorpatch anchor URL, where the newest version \
             was published, mends the way to it; or copy what is missing or altered from a mirror",
        ),
        StoreError::Collected { .. } => {
            verdict.advise("tensorpatch log URL lists the versions; gc --pin keeps one for longer")
        }
        StoreError::HistoryRewritten(_) => verdict.advise(
            "if the stream was restored or rolled back on purpose: for a publisher, delete that directory, its baseline; \
             for a replica, delete the folder .tensorpatch in it and pull with --replace",
        ),
        StoreError::LeafHash { .. } => {
            verdict.advise("leave --leaf-hash out, or publish to a new stream")
        }
        StoreError::WeakLeafHash { .. } => verdict.advise(
            "publish to a new stream with --sign-key, which then has the leaf hash blake3; or read this one without a key",
        ),
        StoreError::WrongStream { .. } => verdict.advise("check the URL and --stream"),
        StoreError::HiddenTip { .. } => verdict.advise(
            "find out who hides or has deleted the newer versions, and restore them: going on would fork the stream",
        ),
        StoreError::SignedTip { .. } => {
            verdict.advise("remove the file, and name the newest version that you know of with --expect-tip")
        }
        StoreError::RetiredKey { .. } => verdict.advise("sign with the key that it was handed over to"),
        StoreError::Handover(_) => verdict.advise(
            "ask the owner of the stream for its newest public key, and trust that alone (--trust-key)",
        ),
        StoreError::NeedsKey { .. } => verdict.advise("name the public key of the publisher with --trust-key"),
        StoreError::NoCache(_) => verdict.advise("name a directory with --baseline or --work"),
        StoreError::Untrusted { .. } => verdict.advise(
            "the record is forged, or signed with a key that is not named: see --trust-key and --sign-key",
        ),
        StoreError::WrongState { .. } | StoreError::LocalDamage { .. } => {
            verdict.advise("run the same command again: what is damaged is restored from the stream")
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

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn the_readme_has_the_same_exit_codes() {
        let readme = include_str!("../../../README.md");
        let rows = readme.lines().skip_while(|line| *line != "| exit code | meaning |").skip(2);
        let listed: Vec<String> = rows
            .take_while(|line| line.starts_with('|'))
            .filter_map(|line| {
                let mut cells = line.trim_matches('|').split('|').map(str::trim);
                Some(format!("  {:4} {}", cells.next()?, cells.next()?))
            })
            .collect();
        let printed: Vec<&str> = TABLE.lines().skip(1).collect();
        assert_eq!(listed, printed);
    }
}
