//! `tensorpatch report`: a stream in figures, as a page.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tensorpatch::checkpoint::AtomicFile;
use tensorpatch::store::cache_dir;
use tensorpatch::store::upkeep::{ReportOptions, StreamReport, report};

use crate::arguments::parse_number;
use crate::output::{Report, bytes, count, counted, fields};
use crate::page::{self, page};
use crate::session::Session;
use crate::streams::{self, Source};

/// More are no figure that anybody can read.
const MAX_VERSIONS: u64 = 10_000;

/// Write a page with figures of a stream
///
/// One file of HTML that needs no network, for a browser of any size. It has the bytes of each version, the
/// chain with its anchors and folds, the cost of a late join, the replicas, and for the newest steps which
/// share of each layer changed and how far. To see that, it downloads a version and the patches since, as a
/// replica does. With --json it prints the figures instead.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The page to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "json")]
    output: Option<PathBuf>,
    /// Compare the weights of the newest N steps; 0 downloads nothing
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_number)]
    steps: u64,
    /// Cover the newest N versions
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = parse_versions)]
    versions: u64,
    /// Where to keep the checkpoint that steps are compared with; it may be deleted at any time
    /// [default: a directory in the user's cache]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// Reads how many versions are covered.
fn parse_versions(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_VERSIONS).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {MAX_VERSIONS}"))
}

/// The figures, as the page embeds them and as --json prints them.
#[derive(Serialize)]
struct Figures<'a> {
    url: &'a str,
    #[serde(flatten)]
    report: &'a StreamReport,
}

/// What is said once the page is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    figures: Figures<'a>,
    #[serde(skip)]
    page: Option<(&'a Path, u64)>,
}

impl Report for Written<'_> {
    fn lines(&self) -> Vec<String> {
        let report = self.figures.report;
        let mut pairs = vec![
            ("stream", format!("{} ({})", self.figures.url, report.stream)),
            ("covers", counted(report.versions.len() as u64, "version")),
            ("compared", counted(report.steps.len() as u64, "step")),
        ];
        if let Some(obstacle) = &report.steps_obstacle {
            pairs.push(("then", obstacle.clone()));
        }
        if !report.replicas.is_empty() {
            pairs.push(("leases", count(report.replicas.len() as u64)));
        }
        if let Some((path, size)) = self.page {
            pairs.push(("page", format!("{}, {}", path.display(), bytes(size))));
        }
        fields(&pairs)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let options = ReportOptions::default()
        .with_versions(arguments.versions)
        .with_steps(arguments.steps)
        .with_apply(session.options())
        .with_observer(streams::observer(session));
    let (place, found) = arguments.source.wait(session, async {
        let stream = arguments.source.open().await?;
        let work = match &arguments.work {
            Some(work) => work.clone(),
            None => cache_dir("reports", stream.id())?,
        };
        Ok((stream.place(), report(&stream, work, &options).await?))
    })?;
    let figures = Figures { url: &arguments.source.url, report: &found };
    let mut written = None;
    if let Some(path) = &arguments.output {
        let html = page(&place, &found, &figures)?;
        let mut file = AtomicFile::create_over(path, page::START.as_bytes())?;
        file.write_all(html.as_bytes()).with_context(|| path.display().to_string())?;
        file.commit()?;
        written = Some((path.as_path(), html.len() as u64));
    }
    session.output.report(&Written { figures, page: written })
}
