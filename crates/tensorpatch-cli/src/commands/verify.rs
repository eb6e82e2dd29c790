//! `tensorpatch verify`: whether a replica is the version that it says it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tensorpatch::store::{Verified, verify};

use crate::exit::{Unsound, conclude};
use crate::output::{Report, counted, fields, seconds};
use crate::session::Session;
use crate::streams;

/// Compare every byte of a local checkpoint with the version that it holds
///
/// Needs no stream, and alters nothing: tensorpatch pull repairs what is wrong. Ends with exit code 8 if
/// something is.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The directory of a pull
    dir: PathBuf,
}

#[derive(Serialize)]
struct VerifyReport {
    dir: PathBuf,
    sound: bool,
    #[serde(flatten)]
    verified: Verified,
    seconds: f64,
}

impl Report for VerifyReport {
    fn lines(&self) -> Vec<String> {
        let verified = &self.verified;
        let mut pairs = vec![
            ("version", verified.version.version.to_string()),
            ("stream", verified.stream.to_string()),
            ("directory", self.dir.display().to_string()),
            ("state", verified.version.state.to_string()),
            ("beside", counted(verified.companions.len() as u64, "file")),
        ];
        pairs.extend(
            verified
                .faults
                .iter()
                .map(|fault| ("wrong", format!("{}: {}", fault.path.display(), fault.what))),
        );
        pairs.push(("time", seconds(Duration::from_secs_f64(self.seconds))));
        let mut lines = fields(&pairs);
        lines.push(
            if self.sound { "every byte is as it was published" } else { "not as it was published" }.into(),
        );
        lines
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let options = session.options();
    let verified = streams::wait(session, async { Ok(verify(&arguments.dir, &options).await?) })?;
    let sound = verified.faults.is_empty();
    let (dir, seconds) = (arguments.dir.clone(), start.elapsed().as_secs_f64());
    let wrong = (!sound).then(|| Unsound::Replica(dir.display().to_string()));
    conclude(session.output, &VerifyReport { dir, sound, verified, seconds }, wrong)
}
