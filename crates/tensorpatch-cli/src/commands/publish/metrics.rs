//! What a publish was, in the text format of Prometheus, in a file: `publish` is gone when it could be asked.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tensorpatch::checkpoint::{AtomicFile, Places, Role};
use tensorpatch::store::{Published, RequestCounts};

use super::Arguments;
use crate::prometheus::{Metrics, START, now};

/// A file of metrics that is begun before anything is published, so that one which cannot be written is known
/// by then.
#[derive(Debug)]
pub(super) struct MetricsFile<'a> {
    path: &'a Path,
    file: AtomicFile,
}

impl<'a> MetricsFile<'a> {
    /// Begins the file, if one is asked for.
    pub(super) fn begin(arguments: &'a Arguments) -> Result<Option<Self>> {
        let Some(path) = &arguments.metrics_file else { return Ok(None) };
        let mut places = Places::default().read(Role::Checkpoint, &arguments.checkpoint);
        if let Some(base) = &arguments.base {
            places = places.read(Role::Base, base);
        }
        if let Some(baseline) = &arguments.baseline {
            places = places.read(Role::Baseline, baseline);
        }
        places.altered(Role::Output, path).check()?;
        Ok(Some(Self { path, file: AtomicFile::create_over(path, START.as_bytes())? }))
    }

    /// Writes the metrics, and gives the file its name.
    pub(super) fn finish(
        mut self,
        published: &Published,
        requests: RequestCounts,
        seconds: f64,
    ) -> Result<()> {
        let text = text(published, requests, seconds);
        let name = || {
            format!(
                "version {} is published, but not its metrics: {}",
                published.version,
                self.path.display()
            )
        };
        self.file.write_all(text.as_bytes()).with_context(name)?;
        self.file.commit().with_context(name)
    }
}

fn text(published: &Published, requests: RequestCounts, seconds: f64) -> String {
    let mut out = Metrics::of("publisher", published.stream);
    let some = |count: u64| Some(count as f64);
    out.gauge("version", "The newest version.", some(published.version.get()));
    out.gauge("last_run_timestamp_seconds", "When the command last succeeded.", Some(now()));
    let help = "Whether the checkpoint was the newest version already, and nothing was published.";
    out.gauge("unchanged", help, some((published.unchanged || published.resumed).into()));
    let help = "What the command took until the version was published, and its anchor if there is one.";
    out.gauge("duration_seconds", help, Some(seconds));
    out.gauge("requests", "Requests to the store.", some(requests.requests));
    let help = "Attempts at requests that failed in a way that may pass.";
    out.gauge("failed_attempts", help, some(requests.failed_attempts));
    let help = "Bytes of objects of its own that were uploaded, without an anchor besides.";
    out.gauge("uploaded_bytes", help, some(published.bytes));
    let anchor = published.anchor.as_ref().map_or(0, |anchor| anchor.bytes);
    out.gauge("anchor_bytes", "Bytes of the anchor that was added besides.", some(anchor));
    let failed = published.anchor_error.is_some();
    out.gauge("anchor_failed", "Whether an anchor was due and could not be added.", some(failed.into()));
    out.gauge("checkpoint_bytes", "Bytes of all tensors.", some(published.contents.state_bytes));
    let help = "Elements that changed; none for a whole checkpoint.";
    out.gauge("changed_elements", help, published.changed_elements.map(|count| count as f64));
    let help = "Elements of all tensors; none for a whole checkpoint.";
    out.gauge("elements", help, published.total_elements.map(|count| count as f64));
    out.into_text()
}
