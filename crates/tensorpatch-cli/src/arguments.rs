//! Arguments that several commands share, and the values that they parse.

use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tensorpatch::delta::Durability;
use tensorpatch::format::{LeafHash, Profile};

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Report as one JSON document on standard output, errors included
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print nothing but errors (and JSON, if asked for)
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Tell what is done on the way; -vv tells every request
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet", global = true, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Threads that encode, decode and hash [default: one for each core]
    #[arg(long, value_name = "N", value_parser = parse_count::<NonZeroUsize>, global = true, help_heading = "Global options")]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// Reads a whole number.
pub(crate) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number".into())
}

/// Reads a number of which there must be one at least.
pub(crate) fn parse_count<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "expected a whole number of at least 1".into())
}

/// `--leaf-hash`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeafHashChoice {
    /// XXH3-128: as fast as memory; guards against accidents
    #[default]
    Xxh3,
    /// BLAKE3: guards against an adversary who can alter checkpoints, and is several times slower
    Blake3,
}

impl From<LeafHashChoice> for LeafHash {
    fn from(choice: LeafHashChoice) -> Self {
        match choice {
            LeafHashChoice::Xxh3 => Self::Xxh3,
            LeafHashChoice::Blake3 => Self::Blake3,
        }
    }
}

/// `--profile`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileChoice {
    /// The smallest patch; a reader needs the bytes of the base
    #[default]
    Compact,
    /// Positions and absolute values; a reader can scatter them without reading the base
    Direct,
}

impl From<ProfileChoice> for Profile {
    fn from(choice: ProfileChoice) -> Self {
        match choice {
            ProfileChoice::Compact => Self::Compact,
            ProfileChoice::Direct => Self::Direct,
        }
    }
}

/// `--durability`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityChoice {
    /// Everything is on disk when the command ends
    #[default]
    Synced,
    /// The system writes to the disk when it sees fit
    None,
}

impl From<DurabilityChoice> for Durability {
    fn from(choice: DurabilityChoice) -> Self {
        match choice {
            DurabilityChoice::Synced => Self::Synced,
            DurabilityChoice::None => Self::None,
        }
    }
}
