//! Writing, checking and packing the directory of the vectors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::manifest::{README, file_name, manifest, record_file_name, schema};
use crate::purposes::purposes;
use crate::registry::records;
use crate::vectors;

/// The directory, from the root of the repository.
pub const DIRECTORY: &str = "tests/conformance/v1";

/// What the directory has grown to may not pass this many bytes.
pub const MOST_BYTES: usize = 2_000_000;

/// What an archive of the vectors holds besides them, so that nothing else is needed.
const SPECIFICATION: &[&str] = &[
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "spec/format.md",
    "spec/encodings/scatter.md",
    "spec/encodings/sparse.md",
    "spec/encodings/xor.md",
    "spec/errata.md",
    "spec/reference/README.md",
    "spec/reference/decode.py",
    "spec/reference/run.py",
    "spec/stream.md",
    "spec/stream.schema.json",
];

/// All files of the directory by their path in it.
pub fn contents() -> BTreeMap<String, Vec<u8>> {
    let (states, vectors) = vectors();
    let mut files = BTreeMap::new();
    for vector in &vectors {
        let twice = files.insert(file_name(vector), vector.file.clone());
        assert!(twice.is_none(), "two vectors have the id {}", vector.id);
    }
    for record in records() {
        let twice = files.insert(record_file_name(&record), record.bytes);
        assert!(twice.is_none(), "two records have the id {}", record.id);
    }
    files.insert("manifest.json".to_owned(), manifest(&states, &vectors).into_bytes());
    files.insert("manifest.schema.json".to_owned(), schema().into_bytes());
    files.insert("VECTORS.md".to_owned(), purposes(&vectors).into_bytes());
    files.insert("README.md".to_owned(), README.as_bytes().to_vec());
    files
}

/// Writes the directory under `root`, and removes what no longer belongs in it. Returns how many files it
/// wrote.
///
/// # Errors
/// If the file system refuses.
pub fn write(root: &Path) -> Result<usize> {
    let directory = root.join(DIRECTORY);
    let due = contents();
    for path in present(&directory)? {
        if !due.contains_key(&path) {
            fs::remove_file(directory.join(&path)).with_context(|| path.clone())?;
        }
    }
    for (path, bytes) in &due {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().context("a file in the directory")?)?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(due.len())
}

/// Whether the directory is what [`write()`] would make of it.
///
/// # Errors
/// Naming the files that are not, and the command that makes them.
pub fn check(root: &Path) -> Result<()> {
    let directory = root.join(DIRECTORY);
    let due = contents();
    let total: usize = due.values().map(Vec::len).sum();
    if total > MOST_BYTES {
        bail!("{DIRECTORY} has {total} bytes, over {MOST_BYTES}");
    }
    let mut stale: Vec<String> =
        present(&directory)?.into_iter().filter(|path| !due.contains_key(path)).collect();
    for (path, bytes) in &due {
        let found = fs::read(directory.join(path)).unwrap_or_default();
        // A checkout may have converted the line ends of texts.
        let is_text = !path.contains('/');
        let same = found == *bytes
            || (is_text && String::from_utf8_lossy(&found).replace("\r\n", "\n").as_bytes() == bytes);
        if !same {
            stale.push(path.clone());
        }
    }
    if !stale.is_empty() {
        bail!("{DIRECTORY} is stale in {}: run `cargo xtask vectors`", stale.join(", "));
    }
    Ok(())
}

/// The files in the directory, by their path in it.
fn present(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["", "valid", "invalid"] {
        let Ok(entries) = fs::read_dir(directory.join(folder)) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    Ok(found)
}

/// The name of the only directory in an archive.
pub const ARCHIVED: &str = "tensorpatch-conformance-v1";

/// The directory, with the specification in it, as a `.tar.gz`; the same bytes every time.
///
/// # Errors
/// If the specification cannot be read.
pub fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut files = contents();
    let text = |path: &str| fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    for path in SPECIFICATION {
        files.insert((*path).to_owned(), text(path)?.replace("\r\n", "\n").into_bytes());
    }
    let mut tar = Vec::new();
    for (path, bytes) in files {
        let path = format!("{ARCHIVED}/{path}");
        tar.extend(tar_header(&path, bytes.len())?);
        tar.extend(&bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    Ok(gzip(&tar))
}

/// A gzip member (RFC 1952) that says neither when nor where it was made.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    const BEST: u8 = 9;
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
    let deflated = miniz_oxide::deflate::compress_to_vec(bytes, BEST);
    let crc = crc32fast::hash(bytes).to_le_bytes();
    [&head[..], &deflated, &crc, &(bytes.len() as u32).to_le_bytes()].concat()
}

/// The header of a file in a POSIX archive.
fn tar_header(path: &str, len: usize) -> Result<[u8; 512]> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    if path.len() > 99 {
        bail!("{path} is too long for an archive");
    }
    put(0, path);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{len:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}
