//! `tensorpatch fsck`: is a stream whole?

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::upkeep::{self, CheckOptions, Checked, Signatures};

use crate::exit::{Unsound, conclude};
use crate::output::{Report, bytes, count, counted, fields};
use crate::session::Session;
use crate::streams::{self, Source};

/// Check every object of a stream
///
/// Checks every record, link and object, and that every version can be reached. Ends with exit code 3 if
/// something is wrong.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Ask for the size of each object only, instead of reading and hashing all of them
    #[arg(long)]
    shallow: bool,
}

#[derive(Serialize)]
struct FsckReport {
    url: String,
    stream: String,
    sound: bool,
    #[serde(skip)]
    newest_is_damaged: bool,
    #[serde(flatten)]
    checked: Checked,
}

impl Report for FsckReport {
    fn lines(&self) -> Vec<String> {
        let checked = &self.checked;
        let how = if checked.deep { "read and hashed" } else { "asked for their size" };
        let newest = match checked.tip {
            Some(tip) if self.newest_is_damaged => {
                format!("up to {tip}; those after it cannot be read")
            }
            Some(tip) => format!("up to {tip}"),
            None if checked.problems.is_empty() => "none yet".to_owned(),
            None => "not known: no record can be read".to_owned(),
        };
        let mut summary = vec![
            ("stream", format!("{} ({})", self.url, self.stream)),
            ("versions", newest),
            ("objects", format!("{} of {}, {how}", count(checked.objects), bytes(checked.bytes))),
        ];
        if checked.signatures == Signatures::Unchecked {
            summary.push(("signatures", "not checked, give --trust-key".to_owned()));
        }
        summary.extend(checked.pruned_below.map(|floor| {
            let excused = counted(checked.excused, "object");
            ("collected", format!("versions below {floor}, {excused} gone, by a record that nobody signs"))
        }));
        if !checked.abandoned.is_empty() {
            let abandoned = counted(checked.abandoned.len() as u64, "object");
            summary.push((
                "abandoned",
                match checked.problems.is_empty() {
                    true => format!("{abandoned} that no record names; tensorpatch gc removes them"),
                    false => {
                        format!("{abandoned} that no record names: keep them until the problems are mended")
                    }
                },
            ));
        }
        let mut lines = fields(&summary);
        lines.extend(
            checked.problems.iter().map(|problem| format!("problem: {}: {}", problem.name, problem.what)),
        );
        lines.extend(
            checked.unreachable.iter().map(|version| format!("problem: version {version} cannot be reached")),
        );
        let verdict = match (self.sound, checked.deep) {
            (true, true) => "sound",
            (true, false) => "records and sizes are right; the contents were not read",
            (false, _) => "not sound",
        };
        lines.push(verdict.to_owned());
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let (stream, checked) = arguments.source.wait(session, async {
        let stream = arguments.source.open().await?;
        let mut options = CheckOptions::default().with_observer(streams::observer(session));
        if arguments.shallow {
            options = options.shallow();
        }
        let checked = upkeep::check(&stream, &options).await?;
        Ok((stream, checked))
    })?;
    let report = FsckReport {
        url: arguments.source.url.clone(),
        stream: stream.id().to_string(),
        sound: checked.is_sound(),
        newest_is_damaged: checked.is_cut_short(),
        checked,
    };
    let wrong = match (report.sound, report.newest_is_damaged) {
        (true, _) => None,
        (false, true) => Some(Unsound::Records(stream.place())),
        (false, false) if report.checked.has_untrusted() => Some(Unsound::Unsigned(stream.place())),
        (false, false) => Some(Unsound::Stream(stream.place())),
    };
    conclude(session.output, &report, wrong)
}
