//! From and to the delta formats of other projects.

use std::path::PathBuf;

use pyo3::prelude::*;
use serde_json::json;
use tensorpatch::formats::{self, ChecksumKind, ConvertOptions, DeltaEncoding, Dialect, Flavour, To};

use crate::errors::Failure;
use crate::interrupt::{Listener, interruptible};
use crate::options::options;
use crate::watch::Watch;

/// What to write, and what the source does not say.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Conversion {
    to: String,
    base: Option<PathBuf>,
    base_digest: Option<String>,
    version: Option<String>,
    base_version: Option<String>,
    encoding: Option<String>,
    checksum: Option<String>,
    threads: Option<usize>,
}

impl Conversion {
    fn to(&self) -> Result<To, Failure> {
        let mut to = match self.to.as_str() {
            "checkpoint" => To::Checkpoint,
            "patch" => To::Patch,
            "slime" => To::index_delta(Dialect::Numbered),
            "modelexpress" => To::index_delta(Dialect::ModelExpress),
            "trl-a" => To::Trl(Flavour::A),
            "trl-b" => To::Trl(Flavour::B),
            "trl-c-raw" => To::Trl(Flavour::CRaw),
            "trl-c-gaps" => To::Trl(Flavour::CGaps),
            other => return Err(Failure::refused(format!("to={other:?} is no format that can be written"))),
        };
        match &mut to {
            To::IndexDelta { encoding, checksum, .. } => {
                match self.encoding.as_deref() {
                    None => {}
                    Some("xor") => *encoding = DeltaEncoding::Xor,
                    Some("overwrite") => *encoding = DeltaEncoding::Overwrite,
                    Some(other) => return Err(Failure::refused(format!("encoding={other:?} is unknown"))),
                }
                match self.checksum.as_deref() {
                    None => {}
                    Some("xxh3-128") => *checksum = ChecksumKind::Xxh3,
                    Some("blake3") => *checksum = ChecksumKind::Blake3,
                    Some("adler32") => *checksum = ChecksumKind::Adler32,
                    Some(other) => return Err(Failure::refused(format!("checksum={other:?} is unknown"))),
                }
            }
            _ if self.encoding.is_some() || self.checksum.is_some() => {
                return Err(Failure::refused("encoding and checksum are for index-delta directories"));
            }
            _ => {}
        }
        Ok(to)
    }
}

/// Converts one version from one format to another. JSON.
#[pyfunction]
pub(crate) fn convert(
    py: Python<'_>,
    source: PathBuf,
    dest: PathBuf,
    conversion: Conversion,
) -> PyResult<String> {
    let mut choices = ConvertOptions::new(conversion.to()?).with_delta(options(conversion.threads)?);
    choices.version.clone_from(&conversion.version);
    choices.base_version.clone_from(&conversion.base_version);
    if let Some(text) = &conversion.base_digest {
        let digest = text.parse().map_err(|error| Failure::refused(format!("base_digest: {error}")));
        choices.base_digest = Some(digest?);
    }
    let watch = Watch::default();
    let report = interruptible(py, &Listener { watch: &watch, progress: None }, || {
        Ok(formats::convert(&source, conversion.base.as_deref(), &dest, &choices)?)
    })?;
    Ok(json!({
        "source_format": report.source.name(),
        "source_version": report.source_version,
        "source_base_version": report.source_base_version,
        "verified": report.verified.name(),
        "files": report.files,
        "bytes": report.bytes,
        "base": report.base.map(|digest| digest.to_string()),
        "target": report.target.to_string(),
        "changed_tensors": report.changed_tensors,
        "notes": report.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
    .to_string())
}
