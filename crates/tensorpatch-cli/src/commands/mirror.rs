//! `tensorpatch mirror`: a copy of a stream in another place.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::upkeep::{self, MirrorOptions, Mirrored};
use tensorpatch::store::{StoreError, cache_dir};

use crate::exit::{Refusal, Unsound, conclude};
use crate::output::{Report, bytes, counted, fields};
use crate::session::Session;
use crate::streams::{self, Source};

/// Copy a stream to another place
///
/// Copies what the other place does not have, in the order of the versions, verified. The copy is the same
/// stream: replicas follow either. Repeat it to bring the copy up to date, to restore objects that it has
/// lost, or to go on after an interruption.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Where the copy goes
    to: String,
    /// Where objects lie on their way [default: in the user's cache]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

#[derive(Serialize)]
struct MirrorReport {
    url: String,
    copy: String,
    #[serde(flatten)]
    mirrored: Mirrored,
}

impl Report for MirrorReport {
    fn lines(&self) -> Vec<String> {
        let mirrored = &self.mirrored;
        let held =
            mirrored.from.map_or_else(|| "nothing".to_owned(), |from| format!("versions up to {from}"));
        let now =
            mirrored.to.map_or_else(|| "none yet".to_owned(), |to| format!("up to {to}; held {held} before"));
        let mut pairs = vec![
            ("copy", self.copy.clone()),
            ("versions", now),
            ("copied", format!("{}, {}", counted(mirrored.objects, "object"), bytes(mirrored.bytes))),
        ];
        if mirrored.restored > 0 {
            pairs.push(("restored", format!("{} of them, which the copy had lost", mirrored.restored)));
        }
        let mut lines = fields(&pairs);
        lines.extend(
            mirrored.problems.iter().map(|problem| format!("problem: {}: {}", problem.name, problem.what)),
        );
        lines
    }
}

/// Says what lets a copy go on that stays before a version whose object is lost or damaged.
fn about_copy(url: &str, error: StoreError) -> anyhow::Error {
    let is_record = |name: &str| name.ends_with(".json");
    match &error {
        StoreError::Missing { name } | StoreError::Damaged { name, .. } if !is_record(name) => {}
        _ => return error.into(),
    }
    let what = format!("{url}: the copy stays before a version that cannot be copied whole");
    let advice = "copy the object back from another copy or a backup; or, where an anchor leads past that version, let \
                  tensorpatch gc URL --keep N --delete remove the versions before the anchor: the copy then goes on";
    Refusal::bad_input(what, advice, error).into()
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let mirrored = streams::wait(session, async {
        let stream = streams::about(&arguments.source.url, arguments.source.open().await)?;
        let work = match &arguments.work {
            Some(work) => work.clone(),
            None => cache_dir("mirrors", stream.id())?,
        };
        let options = MirrorOptions::new(work).with_observer(streams::observer(session));
        let mirrored = upkeep::mirror_to(&stream, &arguments.to, &options).await;
        mirrored.map_err(|error| about_copy(&arguments.source.url, error))
    })?;
    let wrong = mirrored.problems.first().map(|problem| Unsound::Copied {
        url: arguments.source.url.clone(),
        name: problem.name.clone(),
        what: problem.what.clone(),
    });
    let (url, copy) = (arguments.source.url.clone(), arguments.to.clone());
    conclude(session.output, &MirrorReport { url, copy, mirrored }, wrong)
}
