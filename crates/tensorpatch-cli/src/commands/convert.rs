//! `tensorpatch convert`: from and to the delta formats of other projects.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tensorpatch::format::TaggedStateDigest;
use tensorpatch::formats::{self, ChecksumKind, ConvertOptions, DeltaEncoding, Dialect, Flavour, To};

use crate::exit::Refusal;
use crate::output::{Report, bytes, counted, fields, seconds};
use crate::session::Session;

/// Convert between patches, checkpoints and the delta formats of other projects
///
/// Reads and writes the deltas of slime, miles, SGLang, ModelExpress and TRL; reads those of SkyRL, NeMo RL
/// and grail. What SOURCE is is found out from its contents.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A patch, a checkpoint, or a delta: a file or a directory
    source: PathBuf,
    /// The result: a file, or for an index-delta directory or a checkpoint a new directory
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    to: Choice,
    /// The checkpoint that SOURCE is a change from, and that the result is to be a change from
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
    /// The digest that the base must have, as tensorpatch digest prints it: most of these formats do not say
    /// which base is theirs
    #[arg(long, value_name = "DIGEST", requires = "base")]
    base_digest: Option<TaggedStateDigest>,
    /// The version of the result, if SOURCE has none or another
    #[arg(long, value_name = "VERSION")]
    target_version: Option<String>,
    /// The version of the base, if SOURCE does not say
    #[arg(long, value_name = "VERSION")]
    base_version: Option<String>,
    /// How --to slime writes changes: the XOR of whole tensors, or the bytes that changed and their positions
    /// [default: xor]
    #[arg(long, value_enum)]
    encoding: Option<EncodingChoice>,
    /// The checksums that --to slime writes [default: xxh3-128]
    #[arg(long, value_enum)]
    checksum: Option<ChecksumChoice>,
}

/// `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// A safetensors checkpoint: a file if OUT ends in .safetensors, else a directory
    Checkpoint,
    /// A patch of tensorpatch
    Patch,
    /// An index-delta directory for slime, miles, SGLang or vime
    Slime,
    /// An index-delta directory for ModelExpress
    Modelexpress,
    /// TRL, first flavour: positions in four bytes, a checksum of the state. An anchor if there is no base
    TrlA,
    /// TRL, second flavour: the same without a checksum
    TrlB,
    /// TRL, third flavour: positions in four bytes
    TrlCRaw,
    /// TRL, third flavour: gaps between positions
    TrlCGaps,
}

/// `--encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EncodingChoice {
    Xor,
    Overwrite,
}

/// `--checksum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChecksumChoice {
    #[value(name = "xxh3-128")]
    Xxh3,
    Blake3,
    Adler32,
}

impl Arguments {
    /// What to write, if no option is given that has nothing to do with it.
    fn to(&self) -> Result<To> {
        let mut to = match self.to {
            Choice::Checkpoint => To::Checkpoint,
            Choice::Patch => To::Patch,
            Choice::Slime => To::index_delta(Dialect::Numbered),
            Choice::Modelexpress => To::index_delta(Dialect::ModelExpress),
            Choice::TrlA => To::Trl(Flavour::A),
            Choice::TrlB => To::Trl(Flavour::B),
            Choice::TrlCRaw => To::Trl(Flavour::CRaw),
            Choice::TrlCGaps => To::Trl(Flavour::CGaps),
        };
        if let To::IndexDelta { encoding, checksum, .. } = &mut to {
            if let Some(choice) = self.encoding {
                *encoding = match choice {
                    EncodingChoice::Xor => DeltaEncoding::Xor,
                    EncodingChoice::Overwrite => DeltaEncoding::Overwrite,
                };
            }
            if let Some(choice) = self.checksum {
                *checksum = match choice {
                    ChecksumChoice::Xxh3 => ChecksumKind::Xxh3,
                    ChecksumChoice::Blake3 => ChecksumKind::Blake3,
                    ChecksumChoice::Adler32 => ChecksumKind::Adler32,
                };
            }
        } else if self.encoding.is_some() || self.checksum.is_some() {
            let what = "--encoding and --checksum are for index-delta directories";
            return Err(Refusal::usage(what, "leave them out, or take --to slime").into());
        }
        if matches!(to, To::Checkpoint | To::Patch)
            && (self.target_version.is_some() || self.base_version.is_some())
        {
            let what = "a checkpoint or a patch has no version";
            return Err(Refusal::usage(what, "leave out --target-version and --base-version").into());
        }
        Ok(to)
    }
}

#[derive(Serialize)]
struct ConvertReport {
    source: PathBuf,
    source_format: &'static str,
    source_version: Option<String>,
    source_base_version: Option<String>,
    /// How much of the target the source vouches for: `state`, `changed-tensors` or `nothing`.
    verified: &'static str,
    output: PathBuf,
    files: u64,
    bytes: u64,
    base: Option<String>,
    target: String,
    changed_tensors: u64,
    notes: Vec<String>,
    seconds: f64,
}

impl Report for ConvertReport {
    fn lines(&self) -> Vec<String> {
        let version = match (&self.source_version, &self.source_base_version) {
            (Some(version), Some(base)) => format!(", version {version} from {base}"),
            (Some(version), None) => format!(", version {version}"),
            (None, _) => String::new(),
        };
        let verified = match self.verified {
            "state" => "the whole state",
            "changed-tensors" => "the tensors that change",
            _ => "nothing: the source has no checksum",
        };
        let mut lines = vec![
            ("source", format!("{}{version}", self.source_format)),
            ("verified", verified.to_owned()),
            (
                "output",
                format!("{}: {}, {}", self.output.display(), counted(self.files, "file"), bytes(self.bytes)),
            ),
            ("changed", counted(self.changed_tensors, "tensor")),
        ];
        lines.extend(self.base.iter().map(|base| ("base", base.clone())));
        lines.extend([
            ("target", self.target.clone()),
            ("time", seconds(std::time::Duration::from_secs_f64(self.seconds))),
        ]);
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        fields(&lines)
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> Result<()> {
    let start = Instant::now();
    let mut options = ConvertOptions::new(arguments.to()?).with_delta(session.options());
    options.version.clone_from(&arguments.target_version);
    options.base_version.clone_from(&arguments.base_version);
    options.base_digest = arguments.base_digest;
    session.interrupts.writes(&arguments.output);
    let report = formats::convert(&arguments.source, arguments.base.as_deref(), &arguments.output, &options)?;
    session.output.report(&ConvertReport {
        source: arguments.source.clone(),
        source_format: report.source.name(),
        source_version: report.source_version,
        source_base_version: report.source_base_version,
        verified: report.verified.name(),
        output: arguments.output.clone(),
        files: report.files,
        bytes: report.bytes,
        base: report.base.map(|digest| digest.to_string()),
        target: report.target.to_string(),
        changed_tensors: report.changed_tensors,
        notes: report.notes.iter().map(ToString::to_string).collect(),
        seconds: start.elapsed().as_secs_f64(),
    })
}
