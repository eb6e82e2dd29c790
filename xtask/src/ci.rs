//! The steps of continuous integration, one by one or all together.

use anyhow::Result;
use clap::ValueEnum;

use crate::{shell, tidy};

/// A step of continuous integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// rustfmt changes nothing
    Fmt,
    /// clippy has nothing to say, in any target of any crate
    Clippy,
    /// rustdoc has nothing to say, private items included
    Docs,
    /// the house rules hold
    Tidy,
    /// every test passes
    Test,
}

/// Runs the steps given, or all if none are, and stops at the first that fails.
#[expect(clippy::print_stderr, reason = "a heading for each step is what this prints")]
pub(crate) fn run(steps: &[Step]) -> Result<()> {
    let steps = if steps.is_empty() { Step::value_variants() } else { steps };
    for step in steps {
        eprintln!(
            "== {}",
            step.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        );
        match step {
            Step::Fmt => shell::run(&mut shell::cargo(&["fmt", "--all", "--check"])?)?,
            Step::Clippy => shell::run(&mut shell::cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])?)?,
            Step::Docs => shell::run(
                shell::cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"])?
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )?,
            Step::Tidy => tidy::run()?,
            Step::Test => shell::run(&mut shell::cargo(&["test", "--workspace", "--locked"])?)?,
        }
    }
    Ok(())
}
