//! What releases have written, which every later version must read; and the constants that may not change
//! once they are frozen.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tensorpatch_format::{
    CHUNK_BYTES, Dtype, Encoding, FileLayout, Kind, Layout, LayoutDigest, LeafHash, PatchHeader, Profile,
    Schema, SchemaDigest, SectionKind, StateDigest, TensorDigest, Trailer,
};

use crate::write::contents;

/// The directory, from the root of the repository.
pub const DIRECTORY: &str = "tests/compat";

const SUMS: &str = "BLAKE3SUMS";
const CONSTANTS: &str = "constants.txt";
/// The versions whose directories are there, a line each: a directory that goes as a whole takes its digests
/// along.
const RELEASES: &str = "releases.txt";
const DRAFT: &str = "status: draft";
const FROZEN: &str = "status: frozen";

/// Keeps what this version writes as `tests/compat/VERSION/`, for ever: the vectors, and what `more` puts
/// there.
///
/// # Errors
/// If there is or was such a directory already: it is never written again; or if `more` fails.
pub fn record(root: &Path, version: &str, more: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    ensure!(
        version.chars().all(plain) && version.starts_with(|c: char| c.is_ascii_digit()),
        "{version:?} is no version"
    );
    let directory = root.join(DIRECTORY).join(version);
    ensure!(
        !directory.exists(),
        "{} exists, and what a release has written stays as it is",
        directory.display()
    );
    let mut versions = listed(root);
    ensure!(
        !versions.iter().any(|listed| listed == version),
        "{version} is in {DIRECTORY}/{RELEASES} already"
    );
    for (path, bytes) in contents() {
        let file = directory.join(&path);
        fs::create_dir_all(file.parent().context("a file in the directory")?)?;
        fs::write(&file, &bytes)?;
    }
    more(&directory)?;
    let mut sums = String::new();
    for path in files_below(&directory)? {
        let name = path.strip_prefix(&directory)?.to_str().context("a name that is text")?;
        writeln!(sums, "{}  {name}", blake3::hash(&fs::read(&path)?).to_hex())?;
    }
    fs::write(directory.join(SUMS), sums)?;
    versions.push(version.to_owned());
    fs::write(root.join(DIRECTORY).join(RELEASES), versions.join("\n") + "\n")?;
    Ok(())
}

/// The versions of the list of releases.
fn listed(root: &Path) -> Vec<String> {
    let list = fs::read_to_string(root.join(DIRECTORY).join(RELEASES)).unwrap_or_default();
    list.lines().map(str::to_owned).collect()
}

/// Which releases are listed and not there, or there and not listed.
fn unlisted(root: &Path) -> Result<Vec<String>> {
    let versions = listed(root);
    let gone =
        versions.iter().filter(|version| !root.join(DIRECTORY).join(version).is_dir()).map(|version| {
            format!("{DIRECTORY}/{version} is gone, and what a release has written stays as it is")
        });
    let mut violations: Vec<String> = gone.collect();
    for directory in releases(root)? {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if !versions.iter().any(|version| *version == name) {
            violations.push(format!("{DIRECTORY}/{name} is not in {DIRECTORY}/{RELEASES}"));
        }
    }
    Ok(violations)
}

/// The directories of the releases.
///
/// # Errors
/// If the file system refuses.
pub fn releases(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(DIRECTORY))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether what the releases have written is as they left it, and the constants are those that are written
/// down.
///
/// # Errors
/// If the file system refuses.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let mut violations = unlisted(root)?;
    let today = contents().remove("manifest.json").context("the vectors have a manifest")?;
    let today: Value = serde_json::from_slice(&today)?;
    for directory in releases(root)? {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        violations.extend(altered(&directory)?.into_iter().map(|what| format!("{DIRECTORY}/{name}: {what}")));
        let manifest = fs::read(directory.join("manifest.json")).unwrap_or_default();
        match serde_json::from_slice(&manifest) {
            Ok(manifest) => violations.extend(reused(&manifest, &today)),
            Err(error) => violations.push(format!("{DIRECTORY}/{name}/manifest.json: {error}")),
        }
    }
    let path = root.join(DIRECTORY).join(CONSTANTS);
    let found = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let (status, written) = found.split_once('\n').unwrap_or_default();
    if written != constants() {
        violations.push(match status {
            FROZEN => format!("{DIRECTORY}/{CONSTANTS}: the constants of a frozen format were changed: that is another version"),
            _ => format!("{DIRECTORY}/{CONSTANTS} is stale: run `cargo xtask compat constants`"),
        });
    }
    Ok(violations)
}

/// Which ids of a release mean something else in a later manifest. An id that is gone is never used for
/// anything else either: the manifest of the release stays, and so does this check.
pub fn reused(release: &Value, later: &Value) -> Vec<String> {
    /// What says the same for ever; comments and flags may be mended.
    const MEANING: [&str; 12] = [
        "blake3",
        "base",
        "result",
        "target",
        "error",
        "offset",
        "kind",
        "trusted",
        "handovers",
        "counts",
        "digests",
        "file",
    ];
    let entries = |manifest: &Value, list: &str| manifest[list].as_array().cloned().unwrap_or_default();
    let mut violations = Vec::new();
    for list in ["vectors", "records", "keys", "states"] {
        let later = entries(later, list);
        for entry in entries(release, list) {
            let Some(other) = later.iter().find(|other| other["id"] == entry["id"]) else { continue };
            for member in MEANING.into_iter().filter(|member| entry[member] != other[member]) {
                let id = entry["id"].as_str().unwrap_or_default();
                violations
                    .push(format!("the id {id:?} ({list}) is in a release, where its {member} is another"));
            }
        }
    }
    violations
}

/// What of a release's files is not as its list of digests says.
fn altered(directory: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    let sums = fs::read_to_string(directory.join(SUMS)).unwrap_or_default();
    let mut listed = 0;
    for line in sums.lines() {
        let Some((digest, path)) = line.split_once("  ") else {
            violations.push(format!("{SUMS} has the line {line:?}"));
            continue;
        };
        listed += 1;
        let bytes = fs::read(directory.join(path)).unwrap_or_default();
        if blake3::hash(&bytes).to_hex().as_str() != digest {
            violations.push(format!("{path} was altered or removed"));
        }
    }
    let present = files_below(directory)?.len();
    if listed == 0 || present != listed + 1 {
        violations.push(format!("{present} files, but {SUMS} lists {listed}"));
    }
    Ok(violations)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Writes the constants down, as long as the format is a draft.
///
/// # Errors
/// If it is frozen.
pub fn write_constants(root: &Path) -> Result<()> {
    let path = root.join(DIRECTORY).join(CONSTANTS);
    if fs::read_to_string(&path).unwrap_or_default().starts_with(FROZEN) {
        bail!("the format is frozen: its constants stay as they are");
    }
    fs::write(&path, format!("{DRAFT}\n{}", constants())).with_context(|| path.display().to_string())
}

/// The constants of the format, a line each.
fn constants() -> String {
    let mut lines = vec![
        format!("chunk bytes: {CHUNK_BYTES}"),
        format!("header bytes: {}", PatchHeader::LEN),
        format!("trailer bytes: {}", Trailer::LEN),
    ];
    for kind in [Kind::Delta, Kind::Full, Kind::Empty] {
        for profile in [Profile::Compact, Profile::Direct] {
            for hash in [LeafHash::Xxh3, LeafHash::Blake3] {
                let header: String = PatchHeader::new(kind, profile, hash)
                    .to_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                lines.push(format!("header of {kind} {profile} {hash}: {header}"));
            }
        }
    }
    for code in 0..=u8::MAX {
        if let Some(kind) =
            SectionKind::from_code(code).filter(|kind| !matches!(kind, SectionKind::Ancillary(_)))
        {
            lines.push(format!("section {}: {code}", kind.name()));
        }
    }
    // Where the prefixes of section 4, and the canonical bytes that they stand before, are in one number
    // each.
    let schema = Schema::new(vec![]).map(|schema| schema.digest()).unwrap_or(SchemaDigest::NONE);
    let file = FileLayout { name: Layout::SINGLE_FILE.to_owned(), header: vec![] };
    let layout = Layout::new(vec![file], None).map(|layout| layout.digest()).unwrap_or(LayoutDigest::NONE);
    lines.push(format!("digest of the schema of nothing: {schema}"));
    lines.push(format!("digest of the layout of one file without a header: {layout}"));
    for hash in [LeafHash::Xxh3, LeafHash::Blake3] {
        let leaf = tensorpatch_codec::leaf_digest(hash, b"tensorpatch");
        let tensor = TensorDigest::of_leaves(hash, 11, &[leaf]);
        let leaf = crate::state::hex(leaf.as_bytes());
        let state = StateDigest::of_tensors(schema, &[tensor]);
        lines.push(format!(
            "digests of a leaf of eleven bytes, its tensor and a state, by {hash}: {leaf} {tensor} {state}"
        ));
    }
    lines.extend(Encoding::ALL.iter().map(|encoding| format!("encoding {encoding}: {}", encoding.code())));
    for (name, _) in crate::states::DTYPES {
        if let Some(dtype) = Dtype::new(name) {
            let (bits, width) = (dtype.bits(), dtype.element_format().width());
            lines.push(format!(
                "dtype {name}: {bits:?} bits, seen as {:?} of {width} bytes",
                dtype.element_format()
            ));
        }
    }
    lines.extend(crate::sparse_probe::lines());
    lines.push(format!("error classes: {}", crate::manifest::codes().join(" ")));
    lines.push(String::new());
    lines.join("\n")
}
