//! What lies where safetensors files should be: other kinds of files, and directories of other shapes.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::CheckpointError;
use crate::companions::{is_companion_name, is_safetensors};
use crate::error::short;

/// Names that an error lists.
const NAMED: usize = 4;

/// A kind of file that is found under the name of a safetensors file, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignFile {
    /// Nothing at all.
    Empty,
    /// Zeros, as a download leaves them that reserves its room first.
    Zeros,
    /// The text that Git keeps in the place of a file of Git LFS.
    LfsPointer,
    /// A web page, such as a login or an error.
    Html,
    /// XML, such as the error of an object store.
    Xml,
    /// A JSON document without the length before it, such as the error of a server, or an index.
    Json,
    /// A zip archive, which is what PyTorch writes.
    Zip,
    /// A Python pickle, as PyTorch wrote before that.
    Pickle,
    /// GGUF, the format of llama.cpp.
    Gguf,
    /// HDF5, the format of Keras.
    Hdf5,
    /// A `NumPy` array.
    Numpy,
    /// A file compressed with gzip, zstd or xz.
    Compressed,
    /// A patch of this project.
    Patch,
}

impl ForeignFile {
    /// What `bytes`, which are no safetensors file, are instead.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        // None of these could be the length of a header: it would be over the limit, or nearly so.
        const LONG: [(&[u8], ForeignFile); 8] = [
            (b"version https://git-lfs", ForeignFile::LfsPointer),
            (b"PK\x03\x04", ForeignFile::Zip),
            (b"PK\x05\x06", ForeignFile::Zip),
            (b"GGUF", ForeignFile::Gguf),
            (b"\x89HDF\r\n\x1a\n", ForeignFile::Hdf5),
            (b"\x93NUMPY", ForeignFile::Numpy),
            (b"\x28\xb5\x2f\xfd", ForeignFile::Compressed),
            (b"\x89TPATCH\n", ForeignFile::Patch),
        ];
        const SHORT: [(&[u8], ForeignFile); 10] = [
            (b"\x80\x02", ForeignFile::Pickle),
            (b"\x80\x03", ForeignFile::Pickle),
            (b"\x80\x04", ForeignFile::Pickle),
            (b"\x80\x05", ForeignFile::Pickle),
            (b"\x1f\x8b\x08", ForeignFile::Compressed),
            (b"<?xml", ForeignFile::Xml),
            (b"<Error", ForeignFile::Xml),
            (b"<", ForeignFile::Html),
            (b"{", ForeignFile::Json),
            (b"[", ForeignFile::Json),
        ];
        if bytes.is_empty() {
            return Some(Self::Empty);
        }
        const FEW: usize = 16;
        if bytes.len() >= FEW && bytes.iter().take(4096).all(|byte| *byte == 0) {
            return Some(Self::Zeros);
        }
        let find = |magics: &[(&[u8], Self)], bytes: &[u8]| {
            magics.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, found)| *found)
        };
        if let Some(found) = find(&LONG, bytes) {
            return Some(found);
        }
        // The length of a header, whose upper bytes are zero, could begin like any of the others.
        if bytes.get(5..8).is_some_and(|upper| upper == [0; 3]) {
            return None;
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        find(&SHORT, text.trim_ascii_start())
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Empty | Self::Zeros => "the download was cut or has not begun: fetch the file again",
            Self::LfsPointer => "fetch the weights themselves: git lfs pull, or hf download",
            Self::Html | Self::Xml | Self::Json => {
                "a server sent this instead of the weights: read it, and fetch the file again"
            }
            Self::Zip | Self::Pickle | Self::Gguf | Self::Hdf5 | Self::Numpy => {
                "convert it to safetensors first, or fetch the model in that format"
            }
            Self::Compressed => "decompress it first",
            Self::Patch => {
                "a patch goes where PATCH stands: tensorpatch apply BASE PATCH, tensorpatch inspect PATCH --base BASE"
            }
        }
    }
}

impl fmt::Display for ForeignFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Zeros => "it begins with zeros only",
            Self::LfsPointer => "it is a pointer of Git LFS",
            Self::Html => "it is a web page",
            Self::Xml => "it is XML",
            Self::Json => "it is a JSON text",
            Self::Zip => "it is a zip archive, as PyTorch writes them",
            Self::Pickle => "it is a Python pickle",
            Self::Gguf => "it is a GGUF file",
            Self::Hdf5 => "it is an HDF5 file",
            Self::Numpy => "it is a NumPy array",
            Self::Compressed => "it is a compressed file",
            Self::Patch => "it is a tensorpatch patch",
        })
    }
}

/// The name of the only safetensors file of a directory without an index and without `model.safetensors`.
///
/// # Errors
/// [`CheckpointError::NotACheckpoint`], with what is there and what to do, if there is none or several.
pub(crate) fn only_file(directory: &Path) -> Result<String, CheckpointError> {
    let failed = || CheckpointError::io("list", directory);
    let (mut files, mut indices, mut others, mut components) = (vec![], vec![], vec![], vec![]);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (path, name) = (entry.path(), entry.file_name());
        let text = short(&name.to_string_lossy());
        if path.is_dir() {
            let is_component = |inner: fs::DirEntry| is_safetensors(&inner.file_name());
            if !text.starts_with('.') && fs::read_dir(&path).map_err(failed())?.flatten().any(is_component) {
                components.push(format!("{text}/"));
            }
        } else if is_safetensors(&name) {
            if text.to_ascii_lowercase().ends_with(".json") { indices.push(text) } else { files.push(text) }
        } else if !text.starts_with('.') && !is_companion_name(&name) {
            others.push(text);
        }
    }
    let found = match (files.as_slice(), indices.as_slice()) {
        ([only], []) if !is_shard(only) => return Ok(only.clone()),
        (_, [_, ..]) => format!(
            "its index is called {}; only model.safetensors.index.json is read: rename a copy of it",
            list(indices)
        ),
        ([only], []) => {
            format!("it has one shard of several, {only}, and no index: fetch all files of the checkpoint")
        }
        ([_, _, ..], []) => format!(
            "it has several safetensors files and no model.safetensors.index.json: {}; give one of them by its \
             path, or fetch the index",
            list(files)
        ),
        ([], []) if !components.is_empty() => format!(
            "it has no weights of its own, but components with weights: {}; give one of them, and use a stream \
             for each",
            list(components)
        ),
        ([], []) if !others.is_empty() => format!(
            "it has no safetensors file, but {}; convert the weights to safetensors first",
            list(others)
        ),
        ([], []) => "it has no safetensors file; give the directory or the file of a checkpoint".into(),
    };
    Err(CheckpointError::NotACheckpoint { path: directory.to_owned(), found })
}

/// Whether a name ends as `model-00001-of-00002.safetensors` does.
fn is_shard(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        digits(count) && before.rsplit_once('-').is_some_and(|(_, number)| digits(number))
    })
}

/// The first names in order, and how many more there are.
fn list(mut names: Vec<String>) -> String {
    names.sort();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let listed = names.join(", ");
    if more == 0 { listed } else { format!("{listed} and {more} more") }
}
