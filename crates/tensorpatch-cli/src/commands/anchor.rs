//! `tensorpatch anchor`: a whole checkpoint of the newest version.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{AnchorAdded, PublishOptions};

use crate::output::{Report, bytes, fields};
use crate::session::Session;
use crate::streams::{self, Sign, Source};

/// Add the whole checkpoint of the newest version
///
/// For newcomers, and for replicas to which no path of patches leads any more: it mends a stream whose
/// older objects are damaged or missing. It is taken from the baseline, so run it where the newest version
/// was published.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The directory with the newest version, made and kept by tensorpatch [default: in the user's cache]
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// The newest version as a checkpoint, unaltered: it is uploaded in the place of the baseline, for a
    /// stream to whose newest version no patches lead any more. It is hashed, and refused if it is not the
    /// newest version
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
    /// Add one though the version has one already: what lies in the store of it may be damaged
    #[arg(long)]
    again: bool,
    /// The name of whoever adds it, in the record [default: user and machine]
    #[arg(long, value_name = "NAME")]
    publisher: Option<String>,
    #[command(flatten)]
    sign: Sign,
}

#[derive(Serialize)]
struct AnchorReport {
    url: String,
    #[serde(flatten)]
    added: AnchorAdded,
}

impl Report for AnchorReport {
    fn lines(&self) -> Vec<String> {
        let version = self.added.version;
        if !self.added.added {
            return fields(&[(
                "anchor",
                format!("version {version} has one already: nothing was added (--again does)"),
            )]);
        }
        fields(&[("anchor", format!("of version {version}")), ("uploaded", bytes(self.added.bytes))])
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let added = arguments.source.wait(session, async {
        let mut options =
            PublishOptions::default().with_diff(session.options()).with_observer(streams::observer(session));
        if let Some(name) = &arguments.publisher {
            options = options.with_publisher(name);
        }
        if let Some(base) = &arguments.base {
            options = options.with_base(base);
        }
        let Source { url, access } = &arguments.source;
        let mut builder = access.publisher(url, &arguments.sign)?.existing().options(options);
        if let Some(baseline) = &arguments.baseline {
            builder = builder.baseline(baseline);
        }
        let publisher = builder.open().await?;
        Ok(match arguments.again {
            true => publisher.add_another_anchor().await?,
            false => publisher.add_anchor().await?,
        })
    })?;
    session.output.report(&AnchorReport { url: arguments.source.url.clone(), added })
}
