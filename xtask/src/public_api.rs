//! The listings of the public API: what a program can use of the facade and of the crates that it re-exports.
//!
//! A change of a listing is a change of the API: a reviewer sees it, and the next version number must tell
//! it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;

/// The crate whose API is guarded.
const FACADE: &str = "tensorpatch";

/// Where the listings are, a file for each crate.
const DIRECTORY: &str = "docs/api";

/// Rustdoc's JSON is unstable.
const RUSTDOC: &str = "xtask/unstable-rustdoc";

/// Writes the listings, or only compares them with the API and reports how they differ.
#[expect(clippy::print_stderr, reason = "the differences are what this prints")]
pub(crate) fn run(only_check: bool) -> Result<()> {
    let directory = shell::root()?.join(DIRECTORY);
    let crates = facade()?;
    let documents = document()?;
    if !only_check {
        std::fs::create_dir_all(&directory)?;
    }
    let mut stale = false;
    for name in &crates {
        let listing = listing(&documents.join(name.replace('-', "_")).with_extension("json"))?;
        let path = directory.join(name).with_extension("txt");
        if only_check {
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            stale |= kept != listing;
            differences(&kept, &listing).iter().for_each(|line| eprintln!("{line}"));
        } else {
            std::fs::write(&path, listing).with_context(|| path.display().to_string())?;
        }
    }
    if stale {
        bail!(
            "{DIRECTORY} does not list the public API; if it was meant to change, run cargo xtask public-api"
        );
    }
    Ok(())
}

/// The facade, and the crates of the workspace that it needs.
fn facade() -> Result<BTreeSet<String>> {
    let metadata = shell::metadata("--all-features")?;
    let mut found = BTreeSet::new();
    let mut open = vec![FACADE];
    while let Some(name) = open.pop() {
        let mut packages = shell::published(&metadata);
        let package = packages.find(|package| package["name"] == name);
        let package = package.with_context(|| format!("{name} is not published"))?;
        found.insert(name.to_owned());
        let dependencies = package["dependencies"].as_array().context("cargo metadata: no dependencies")?;
        let ours = dependencies.iter().filter(|one| one["source"].is_null() && one["kind"].is_null());
        open.extend(ours.filter_map(|one| one["name"].as_str()).filter(|name| !found.contains(*name)));
    }
    Ok(found)
}

/// Makes rustdoc's JSON of the workspace, and returns its directory.
fn document() -> Result<PathBuf> {
    let root = shell::root()?;
    // As the step that checks the documentation, so that what that has built is used again.
    let mut command = shell::cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--lib", "--locked"])?;
    command.env("RUSTDOC", root.join(RUSTDOC));
    command.env("RUSTDOCFLAGS", "-Zunstable-options --output-format json");
    shell::run(&mut command)?;
    let metadata = shell::metadata("--all-features")?;
    let target = metadata["target_directory"].as_str().context("cargo metadata: no target directory")?;
    Ok(Path::new(target).join("doc"))
}

/// The public items of a crate, a line each, without what types have by derives, auto traits and blanket
/// implementations.
fn listing(json: &Path) -> Result<String> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .with_context(|| {
            format!("{}: the listing needs the toolchain of continuous integration", json.display())
        })?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

/// The lines that only one of two listings has, marked as in a diff.
fn differences(kept: &str, listing: &str) -> Vec<String> {
    let (kept, listing): (BTreeSet<_>, BTreeSet<_>) = (kept.lines().collect(), listing.lines().collect());
    let gone = kept.difference(&listing).map(|line| format!("- {line}"));
    gone.chain(listing.difference(&kept).map(|line| format!("+ {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_and_what_is_new_is_told() {
        let found = differences("pub fn a()\npub fn b()\n", "pub fn a()\npub fn b(u8)\n");
        assert_eq!(found, ["- pub fn b()", "+ pub fn b(u8)"]);
    }

    #[test]
    fn the_facade_stands_for_the_crates_that_it_needs() {
        let crates = facade().unwrap();
        assert!(
            [FACADE, "tensorpatch-store", "tensorpatch-stream"].iter().all(|name| crates.contains(*name))
        );
        assert!(!crates.contains("tensorpatch-cli"), "{crates:?}");
    }
}
