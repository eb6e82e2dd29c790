//! `tensorpatch doctor`: whether a place is fit for a stream.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::upkeep::{DiagnoseOptions, Diagnosis, Finding, Verdict, diagnose};

use crate::exit::{Unsound, conclude};
use crate::output::Report;
use crate::screen::{ADVICE, BAD, GOOD, WARNING, styled};
use crate::session::Session;
use crate::streams::{self, Access};

/// Find out what does not work between this machine and a store
///
/// Tries what publishers and replicas need, and says what to do about what does not work: credentials,
/// listing, the stream, latency and rates; with --write also conditional writes and the clocks.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The stream, or the place where one is to be: a path or file:///..., s3://, gs://, az:// or
    /// hf://buckets/...
    url: String,
    /// Write small objects below probe/ as well, and remove them again
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct DoctorReport {
    url: String,
    fit: bool,
    #[serde(flatten)]
    diagnosis: Diagnosis,
}

impl Report for DoctorReport {
    fn lines(&self) -> Vec<String> {
        let findings = &self.diagnosis.findings;
        let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        findings.iter().flat_map(|finding| lines_of(finding, width)).collect()
    }
}

fn lines_of(finding: &Finding, width: usize) -> Vec<String> {
    let mark = match finding.verdict {
        Verdict::Good => styled(GOOD, "good"),
        Verdict::Warning => styled(WARNING, "look"),
        Verdict::Bad => styled(BAD, "bad "),
        _ => "-   ".into(),
    };
    let mut lines = vec![format!("{mark}  {:width$}  {}", finding.check, finding.what)];
    if let Some(advice) = &finding.advice {
        lines.push(format!("      {:width$}  {} {advice}", "", styled(ADVICE, "advice:")));
    }
    lines
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let policy = arguments.access.policy()?;
    let mut options = DiagnoseOptions::default().trusting(arguments.access.trust_key.iter().copied());
    if arguments.write {
        options = options.writing();
    }
    if let Some(id) = arguments.access.stream {
        options = options.expecting_stream(id);
    }
    if let Some(version) = arguments.access.expect_tip {
        options = options.expecting_tip(version);
    }
    let diagnosis = streams::wait(session, async { Ok(diagnose(&arguments.url, &policy, &options).await) })?;
    let (fit, url) = (diagnosis.is_fit(), arguments.url.clone());
    let wrong = match diagnosis.blames_stream() {
        true => Some(Unsound::InPlace(url.clone())),
        false => (!fit).then(|| Unsound::Place(url.clone())),
    };
    conclude(session.output, &DoctorReport { url, fit, diagnosis }, wrong)
}
