//! The steps of continuous integration, one by one or all together.

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{public_api, shell, tidy};

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
    /// every published crate can be packaged: its manifest is complete, and what it needs is in it
    Package,
    /// the public API of the libraries is what their listings say
    Api,
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
            Step::Package => package()?,
            Step::Api => public_api::run(true)?,
            Step::Test => shell::run(&mut shell::cargo(&["test", "--workspace", "--locked"])?)?,
        }
    }
    Ok(())
}

/// Packages the crates that are published, as their files are in the work tree. Nothing is built.
fn package() -> Result<()> {
    let mut command = shell::cargo(&["package", "--quiet", "--locked", "--no-verify", "--allow-dirty"])?;
    for package in shell::published(&shell::metadata("--all-features")?) {
        command.args(["--package", package["name"].as_str().context("a package without a name")?]);
    }
    shell::run(&mut command)
}
