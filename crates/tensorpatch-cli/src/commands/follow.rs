//! `tensorpatch follow`: a local checkpoint that stays at the newest version.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{FollowMetrics, Pulled, Replica, Version};
use tokio::process::Command;

use super::pull::How;
use crate::exit::Refusal;
use crate::output::{Output, bytes};
use crate::serve::{Watched, listen, parse_address, serve};
use crate::session::Session;
use crate::streams::{self, Source, parse_version};

/// Keep a local checkpoint at the newest version
///
/// Brings it to the newest version, and to each one that is published from then on, until it is
/// interrupted. With --json it prints one line of JSON for each version.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The directory of the checkpoint; created if need be
    dir: PathBuf,
    /// Run this with sh after each version, at the start too, with TENSORPATCH_VERSION, TENSORPATCH_STATE,
    /// TENSORPATCH_STREAM and TENSORPATCH_DIR in its environment. With --json what it prints goes to standard
    /// error. If it fails, following ends
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Serve metrics over HTTP at /metrics, in the text format of Prometheus, at /healthz whether the stream
    /// can be reached, and at /readyz whether a version is held (/readyz?version=N: that one or a later one;
    /// /readyz?max-behind=N: at most so many behind): a port of the loopback interface, or ADDRESS:PORT
    #[arg(long, value_name = "PORT", value_parser = parse_address)]
    metrics: Option<SocketAddr>,
    /// End once this version or a later one is held
    #[arg(long, value_name = "N", value_parser = parse_version)]
    until: Option<Version>,
    #[command(flatten)]
    how: How,
}

#[derive(Serialize)]
struct FollowLine<'a> {
    dir: &'a Path,
    #[serde(flatten)]
    pulled: &'a Pulled,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    arguments.source.wait(session, follow(arguments, session))
}

async fn follow(arguments: &Arguments, session: &Session) -> Result<()> {
    let stream = arguments.source.open_for(&arguments.dir).await?;
    session.screen.settle();
    let (url, dir) = (&arguments.source.url, arguments.dir.display());
    session.output.note(&format!("following {url} ({}) into {dir}", stream.id()))?;
    if let Some(until) = arguments.until {
        let tip = stream.tip().await?.map(|tip| tip.record.version);
        session.output.note(&awaited(until, tip))?;
    }
    let metrics = FollowMetrics::default();
    let observer = streams::counting_observer(session, metrics.clone());
    let options = arguments.how.options(session).with_observer(observer);
    let replica = Replica::of(stream.clone(), &arguments.dir, options);
    let serving = match arguments.metrics {
        None => None,
        Some(address) => {
            let listener = listen(address).await?;
            let address = listener.local_addr().context("the address of the metrics is not known")?;
            session.output.note(&format!("metrics at http://{address}/metrics"))?;
            Some(tokio::spawn(serve(listener, Watched { stream, metrics: metrics.clone() })))
        }
    };
    let following = async {
        let mut versions = replica.follow();
        while let Some(pulled) = versions.next().await? {
            metrics.pulled(&pulled);
            tell(arguments, session.output, &pulled)?;
            if let Some(command) = &arguments.exec {
                let begun = Instant::now();
                execute(command, arguments, session.output, &pulled).await?;
                metrics.executed(begun.elapsed());
            }
            if arguments.until.is_some_and(|until| pulled.to >= until) {
                break;
            }
        }
        Ok(())
    };
    let interrupted = session.interrupts.next();
    let ended: Result<()> = tokio::select! {
        ended = following => ended,
        // What was under way is completed by the next run.
        Ok(_) = interrupted => Ok(()),
    };
    if let Some(serving) = serving {
        serving.abort();
    }
    replica.release().await?;
    ended
}

/// What `--until` waits for.
fn awaited(until: Version, tip: Option<Version>) -> String {
    match tip {
        Some(tip) if tip > until => {
            format!("version {until} is passed: this ends once version {tip} is held")
        }
        Some(tip) if tip == until => {
            format!("version {until} is the newest: this ends once it is held")
        }
        Some(tip) => format!("waiting for version {until}: the newest is {tip}"),
        None => format!("waiting for version {until}: there is none yet"),
    }
}

/// Prints a version that is now held.
fn tell(arguments: &Arguments, output: Output, pulled: &Pulled) -> Result<()> {
    if output.is_json() {
        output.json_line(&FollowLine { dir: &arguments.dir, pulled })?;
    } else {
        // A directory that held nothing takes whatever stream is there.
        let stream =
            if pulled.from.is_none() { format!(" of the stream {}", pulled.stream) } else { String::new() };
        let from = pulled.from.filter(|from| *from != pulled.to);
        let from =
            from.map(|from| format!(" from {from} ({} behind)", pulled.to.get().saturating_sub(from.get())));
        let (from, downloaded) = (from.unwrap_or_default(), bytes(pulled.downloaded_bytes));
        output.note(&format!(
            "version {}{stream}{from}: {downloaded} downloaded, {}",
            pulled.to, pulled.contents.state
        ))?;
    }
    Ok(())
}

/// Runs the command for a version that is now held.
async fn execute(command: &str, arguments: &Arguments, output: Output, pulled: &Pulled) -> Result<()> {
    // Lines of JSON are not mixed with what the command prints.
    let printed = if output.is_json() { Stdio::from(std::io::stderr()) } else { Stdio::inherit() };
    let status = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(printed)
        .env("TENSORPATCH_VERSION", pulled.to.to_string())
        .env("TENSORPATCH_STATE", pulled.contents.state.to_string())
        .env("TENSORPATCH_STREAM", pulled.stream.to_string())
        .env("TENSORPATCH_DIR", &arguments.dir)
        .status()
        .await
        .context("cannot run sh")?;
    if !status.success() {
        let what = format!("version {} is held, but the command for it failed: {status}", pulled.to);
        let advice = "mend the command and follow again: it is run for the version that is held, too; with || true at \
                      its end following goes on whatever becomes of it";
        return Err(Refusal::failure(what, advice).into());
    }
    Ok(())
}
