//! What releases have written, which every later version must read; and the constants that may not change once they are
//! frozen.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tensorpatch_format::{CHUNK_BYTES, Dtype, Encoding, Header, Kind, LeafHash, Profile, Trailer};

use crate::write::contents;

/// The directory, from the root of the repository.
pub const DIRECTORY: &str = "tests/compat";

const SUMS: &str = "BLAKE3SUMS";
const CONSTANTS: &str = "constants.txt";
const DRAFT: &str = "status: draft";
const FROZEN: &str = "status: frozen";

/// Keeps what this version writes as `tests/compat/VERSION/`, for ever.
///
/// # Errors
/// If there is such a directory already: it is never written again.
pub fn record(root: &Path, version: &str) -> Result<()> {
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
    let mut sums = String::new();
    for (path, bytes) in contents() {
        let file = directory.join(&path);
        fs::create_dir_all(file.parent().context("a file in the directory")?)?;
        fs::write(&file, &bytes)?;
        writeln!(sums, "{}  {path}", blake3::hash(&bytes).to_hex())?;
    }
    fs::write(directory.join(SUMS), sums)?;
    Ok(())
}

/// The directories of the releases.
///
/// # Errors
/// If the file system refuses.
pub fn releases(root: &Path) -> Result<Vec<std::path::PathBuf>> {
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

/// Whether what the releases have written is as they left it, and the constants are those that are written down.
///
/// # Errors
/// If the file system refuses.
pub fn violations(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for directory in releases(root)? {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        violations.extend(altered(&directory)?.into_iter().map(|what| format!("{DIRECTORY}/{name}: {what}")));
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
    let present = count_files(directory)?;
    if listed == 0 || present != listed + 1 {
        violations.push(format!("{present} files, but {SUMS} lists {listed}"));
    }
    Ok(violations)
}

fn count_files(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
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
        format!("header bytes: {}", Header::LEN),
        format!("trailer bytes: {}", Trailer::LEN),
    ];
    for kind in [Kind::Delta, Kind::Full, Kind::Empty] {
        for profile in [Profile::Compact, Profile::Direct] {
            for hash in [LeafHash::Xxh3, LeafHash::Blake3] {
                let header: String = Header::new(kind, profile, hash)
                    .to_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                lines.push(format!("header of {kind} {profile} {hash}: {header}"));
            }
        }
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
    lines.push(format!("error classes: {}", crate::manifest::codes().join(" ")));
    lines.push(String::new());
    lines.join("\n")
}
