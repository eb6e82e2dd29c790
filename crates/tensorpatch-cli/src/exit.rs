//! Exit codes, and how errors are told.

mod subject;
mod verdict;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use tensorpatch::checkpoint::CheckpointError;
use tensorpatch::delta::{ApplyError, DiffError};
use tensorpatch::format::{ErrorClass, ErrorKind};
use tensorpatch::store::{StoreError, Version};

use self::subject::Subject;
use self::verdict::{Verdict, judge};
use crate::interrupt::Interrupted;
use crate::output::{Output, Report, counted};
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

/// A refusal of the command line itself, or a failure of what it asks for, with what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Refusal {
    what: String,
    advice: String,
    code: Code,
    #[source]
    source: Option<StoreError>,
}

impl Refusal {
    pub(crate) fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into(), code: Code::Refused, source: None }
    }

    /// Of something that was right to ask for.
    pub(crate) fn failure(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code: Code::Failure, ..Self::usage(what, advice) }
    }

    /// Of something that is damaged.
    pub(crate) fn bad_input(what: impl Into<String>, advice: impl Into<String>, error: StoreError) -> Self {
        Self { code: Code::BadInput, source: Some(error), ..Self::usage(what, advice) }
    }

    /// Of a checkpoint that a patch does not fit.
    pub(crate) fn wrong_base(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code: Code::WrongBase, ..Self::usage(what, advice) }
    }
}

/// Something wrong that has been reported, by where it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsound {
    /// In a stream.
    #[error("{0}: the stream is not sound")]
    Stream(String),
    /// In the newest record of a stream, so that no version is added to it.
    #[error("{0}: the stream is not sound")]
    Records(String),
    /// In a stream with a record that no trusted key has signed.
    #[error("{0}: the stream is not sound")]
    Unsigned(String),
    /// In a stream whose versions are listed from the first on that can be had after what is wrong.
    #[error("{url}: versions before {first} are not listed: {why}")]
    LogCut {
        /// The stream.
        url: String,
        /// The first version that is listed.
        first: Version,
        /// What is wrong.
        why: String,
    },
    /// In a stream that was copied as far as that goes.
    #[error("{url}: {name}: {what}")]
    Copied {
        /// The stream.
        url: String,
        /// The first object that is wrong.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// In a replica.
    #[error("{0}: the replica is not what was published")]
    Replica(String),
    /// In a place for a stream.
    #[error("{0}: the place is not fit for a stream")]
    Place(String),
    /// In the stream at a place that works.
    #[error("{0}: the place works, and the stream there is not as it should be")]
    InPlace(String),
    /// A replica that serves no version.
    #[error("{dir}: it holds no whole version")]
    HoldsNothing {
        /// The directory.
        dir: String,
    },
    /// A replica that is not there.
    #[error("{dir}: there is no such directory")]
    NoDirectory {
        /// Where it should be.
        dir: String,
    },
    /// A replica whose files are not all there.
    #[error("{dir}: it holds no whole version: {what}")]
    Incomplete {
        /// The directory.
        dir: String,
        /// What is missing.
        what: String,
    },
    /// Between a replica and its stream.
    #[error("{dir}: {} behind, at most {most} are allowed", counted(*behind, "version"))]
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
    /// What it is about.
    #[serde(flatten)]
    subject: Subject,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
}

impl<'a> ErrorBody<'a> {
    fn of(error: &anyhow::Error, verdict: &'a Verdict, message: &'a str) -> Self {
        Self {
            exit_code: verdict.code.number(),
            class: verdict.class.map(ErrorClass::code),
            offset: verdict.offset,
            subject: Subject::of(error),
            message,
            advice: verdict.advice.as_deref(),
        }
    }
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
            subject: Subject::default(),
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
    // What is unsound was part of the report.
    if json && !error.is::<Unsound>() {
        print_json(&ErrorBody::of(error, &verdict, &message));
    }
    verdict.code
}

/// Prints a report, and ends with what it says is wrong: for programs that is a member of the report, as no
/// second document may follow.
pub(crate) fn conclude(output: Output, report: &impl Report, wrong: Option<Unsound>) -> Result<()> {
    let Some(wrong) = wrong else { return output.report(report) };
    let error = anyhow::Error::new(wrong);
    let (verdict, message) = (judge(&error), message(&error));
    output.report(&Concluded { report, error: ErrorBody::of(&error, &verdict, &message) })?;
    Err(error)
}

/// A report with what is wrong.
#[derive(Serialize)]
struct Concluded<'a, R> {
    #[serde(flatten)]
    report: &'a R,
    error: ErrorBody<'a>,
}

impl<R: Report> Report for Concluded<'_, R> {
    fn lines(&self) -> Vec<String> {
        self.report.lines()
    }
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

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn the_page_of_the_commands_has_the_same_exit_codes() {
        let page = include_str!("../../../docs/commands.md");
        let rows = page.lines().skip_while(|line| *line != "| exit code | meaning |").skip(2);
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
