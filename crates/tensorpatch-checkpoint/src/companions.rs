//! The files beside the weights: which ones belong to the model, and which ones stay behind.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::CheckpointError;

/// Directories within directories that are looked at.
const MAX_DEPTH: usize = 8;
/// Entries of all directories together. A model has tens of files; whoever has more names the wrong
/// directory.
const MAX_ENTRIES: usize = 16_384;

/// What ends in one of these holds weights in another format, or the state of a trainer. It would go stale
/// beside patched weights, and much of it runs code when it is loaded.
const WEIGHT_EXTENSIONS: [&str; 25] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "hdf5",
    "keras",
    "msgpack",
    "gguf",
    "ggml",
    "onnx",
    "onnx_data",
    "ort",
    "ot",
    "npz",
    "npy",
    "distcp",
    "tflite",
    "pb",
    "pkl",
    "pickle",
    "nemo",
    "pdparams",
    "mlmodel",
];
/// What can run code in whoever loads it: pickles, archives with pickles or code in them, and machine code.
const CODE_EXTENSIONS: [&str; 28] = [
    "bin",
    "pt",
    "pth",
    "ptl",
    "ckpt",
    "pkl",
    "pickle",
    "p",
    "pk",
    "pckl",
    "cloudpickle",
    "dill",
    "joblib",
    "npy",
    "npz",
    "h5",
    "hdf5",
    "keras",
    "nemo",
    "mar",
    "distcp",
    "pdparams",
    // Modules that nobody can read before they run.
    "pyc",
    "pyo",
    "pyd",
    "so",
    "dylib",
    "dll",
];
/// What ends in one of these is a download that is not complete, or a copy that somebody put aside.
const LEFTOVER_EXTENSIONS: [&str; 13] = [
    "incomplete",
    "part",
    "partial",
    "crdownload",
    "download",
    "aria2",
    "tmp",
    "temp",
    "bak",
    "old",
    "orig",
    "swp",
    "lock",
];
const TRAINING_LOG: &str = "events.out.tfevents";

/// The files beside the weights of a checkpoint directory, subdirectories included, as
/// [`Checkpoint::companions`](crate::Checkpoint::companions) finds them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Companions {
    /// Those that belong to the model, in ascending order of their names.
    pub carried: Vec<Companion>,
    /// What stays behind, in ascending order of the names.
    pub left_out: Vec<LeftOut>,
}

/// A file that belongs to a model without being weights, such as `config.json` or `1_Pooling/config.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Companion {
    /// The path below the directory of the checkpoint, with `/` between its parts.
    pub name: String,
    /// Where it lies. It may be a link into the cache of the Hugging Face Hub.
    pub path: PathBuf,
}

/// A file or directory that is not carried along, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// The path below the directory of the checkpoint; that of a directory ends in `/`.
    pub name: String,
    /// Why it stays behind.
    pub why: Omission,
}

/// Why a file or directory is not carried along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Omission {
    /// Its name begins with a dot.
    Hidden,
    /// Weights that are no part of the checkpoint, in this format or another.
    Weights,
    /// A download that is not complete, or a copy put aside.
    Leftover,
    /// What can run code when it is loaded, which replicas take only if that was asked for.
    Code,
    /// What a trainer writes for people.
    Log,
    /// A directory with safetensors files: a component or checkpoint of its own.
    Component,
    /// A link to a directory of the checkpoint.
    LinkedDirectory,
    /// A directory without a file.
    Empty,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hidden => "hidden",
            Self::Weights => "other weights",
            Self::Leftover => "an unfinished download or a copy put aside",
            Self::Code => "it can run code when it is loaded",
            Self::Log => "a log",
            Self::Component => "a checkpoint of its own",
            Self::LinkedDirectory => "a link to a directory",
            Self::Empty => "empty",
        })
    }
}

/// Why a file beside the weights cannot be carried along, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompanionObstacle {
    /// A link whose target is gone.
    #[error(
        "it is a symbolic link to {0:?}, which is not there; download the file again, or remove the link"
    )]
    DanglingLink(PathBuf),
    /// A link that leads out of the checkpoint.
    #[error(
        "it is a symbolic link to {0:?}, outside of the checkpoint; copy the file here, or remove the link"
    )]
    LinkOutside(PathBuf),
    /// A pipe, a socket or a device.
    #[error("it is neither a file nor a directory; remove it")]
    Special,
    /// A name that is not UTF-8.
    #[error("its name is not UTF-8; rename it")]
    Name,
    /// A file that was asked for and is none of those that may be carried.
    #[error("it was asked for, but {0}")]
    Asked(&'static str),
    /// The directories are nested too deeply.
    #[error("its directory is more than {MAX_DEPTH} levels down; move it up, or remove it")]
    Depth,
    /// There are too many files.
    #[error("it has more than {MAX_ENTRIES} entries; give the directory of one checkpoint")]
    Count,
}

/// Lists what lies beside the weights in `directory`. `weights` are the names of the weights and the index;
/// `asked` names files that come along although they would be left out.
pub(crate) fn find(
    directory: &Path,
    weights: &[&str],
    asked: &[String],
) -> Result<Companions, CheckpointError> {
    let root = fs::canonicalize(directory).map_err(CheckpointError::io("look at", directory))?;
    let stores = stores(&root, weights);
    let mut scan = Scan { root, stores, weights, asked, entries: 0, found: Companions::default() };
    scan.directory(directory, "", 0)?;
    let Companions { carried, left_out } = &mut scan.found;
    carried.sort();
    left_out.sort();
    for name in asked {
        if !carried.iter().any(|companion| companion.name == *name) {
            let what = match left_out.iter().find(|left| left.name == *name).map(|left| left.why) {
                Some(Omission::Weights) => "safetensors files travel as weights only",
                Some(_) => "hidden files are never carried",
                None => "there is no such file among those that could be carried",
            };
            return Err(refused(&directory.join(name), CompanionObstacle::Asked(what)));
        }
    }
    Ok(scan.found)
}

struct Scan<'a> {
    /// Without links.
    root: PathBuf,
    /// Where links may lead, too.
    stores: Vec<PathBuf>,
    weights: &'a [&'a str],
    asked: &'a [String],
    entries: usize,
    found: Companions,
}

impl Scan<'_> {
    fn directory(&mut self, directory: &Path, below: &str, depth: usize) -> Result<(), CheckpointError> {
        let entries = self.list(directory)?;
        if depth > 0 {
            if entries.is_empty() {
                self.leave(below.to_owned(), Omission::Empty);
                return Ok(());
            }
            if entries.iter().any(|entry| is_safetensors(&entry.file_name())) {
                self.leave(below.to_owned(), Omission::Component);
                return Ok(());
            }
        }
        for entry in entries {
            let path = entry.path();
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else { return Err(refused(&path, CompanionObstacle::Name)) };
            if depth == 0 && (self.weights.contains(&name) || name.starts_with(".tensorpatch")) {
                continue;
            }
            self.entry(&entry, &path, format!("{below}{name}"), depth)?;
        }
        Ok(())
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<DirEntry>, CheckpointError> {
        let failed = || CheckpointError::io("list", directory);
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed())? {
            self.entries = self.entries.saturating_add(1);
            if self.entries > MAX_ENTRIES {
                return Err(refused(&self.root, CompanionObstacle::Count));
            }
            entries.push(entry.map_err(failed())?);
        }
        Ok(entries)
    }

    fn entry(
        &mut self,
        entry: &DirEntry,
        path: &Path,
        name: String,
        depth: usize,
    ) -> Result<(), CheckpointError> {
        let kind = entry.file_type().map_err(CheckpointError::io("look at", path))?;
        let omission = omission(&entry.file_name());
        // What stays behind anyhow need not be sound.
        if let Some(why) = omission
            && !(self.asked.contains(&name) && why != Omission::Hidden && !is_safetensors(&entry.file_name()))
        {
            self.leave(if kind.is_dir() { name + "/" } else { name }, why);
            return Ok(());
        }
        let is_directory = if kind.is_symlink() { self.follow(path)?.is_dir() } else { kind.is_dir() };
        if is_directory && kind.is_symlink() {
            self.leave(name + "/", Omission::LinkedDirectory);
        } else if is_directory {
            if depth >= MAX_DEPTH {
                return Err(refused(path, CompanionObstacle::Depth));
            }
            self.directory(path, &(name + "/"), depth.saturating_add(1))?;
        } else if kind.is_file() || kind.is_symlink() {
            self.found.carried.push(Companion { name, path: path.to_owned() });
        } else {
            return Err(refused(path, CompanionObstacle::Special));
        }
        Ok(())
    }

    /// What a link leads to, if that is part of the checkpoint.
    fn follow(&self, link: &Path) -> Result<fs::Metadata, CheckpointError> {
        let target = match fs::canonicalize(link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = fs::read_link(link).map_err(CheckpointError::io("read the link", link))?;
                return Err(refused(link, CompanionObstacle::DanglingLink(target)));
            }
            Err(error) => return Err(CheckpointError::io("follow", link)(error)),
        };
        let is_blob = || blobs_of(&target).is_some_and(|blobs| self.stores.iter().any(|own| own == blobs));
        if !target.starts_with(&self.root) && !is_blob() {
            return Err(refused(link, CompanionObstacle::LinkOutside(target)));
        }
        let metadata = fs::metadata(&target).map_err(CheckpointError::io("look at", link))?;
        if metadata.is_file() || metadata.is_dir() {
            return Ok(metadata);
        }
        Err(refused(link, CompanionObstacle::Special))
    }

    fn leave(&mut self, name: String, why: Omission) {
        self.found.left_out.push(LeftOut { name, why });
    }
}

/// The directories of blobs in the Hub's cache that a checkpoint is made of: those of the model that it is a
/// snapshot of, or that its weights are links to. Those of another model are none of its business.
fn stores(root: &Path, weights: &[&str]) -> Vec<PathBuf> {
    let snapshots = root.ancestors().find(|path| path.file_name() == Some(OsStr::new("snapshots")));
    let own =
        snapshots.and_then(Path::parent).filter(|model| is_model(model)).map(|model| model.join("blobs"));
    let links = weights.iter().filter_map(|name| fs::canonicalize(root.join(name)).ok());
    let linked = links.filter_map(|target| blobs_of(&target).map(Path::to_owned));
    own.into_iter().chain(linked).collect()
}

/// The directory of a path without links, if that is one of blobs in the Hub's cache:
/// `…/models--OWNER--NAME/blobs/DIGEST`.
fn blobs_of(target: &Path) -> Option<&Path> {
    let is_blobs = |path: &&Path| path.file_name() == Some(OsStr::new("blobs"));
    target.parent().filter(is_blobs).filter(|blobs| blobs.parent().is_some_and(is_model))
}

fn is_model(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"))
}

/// Whether a file of this name belongs to a model without being weights.
pub fn is_companion_name(name: &OsStr) -> bool {
    omission(name).is_none()
}

/// Whether a file of this name is of a format that can run code in whoever loads it.
pub fn runs_code(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    CODE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Why a file or directory of this name stays behind, if it does.
fn omission(name: &OsStr) -> Option<Omission> {
    let text = name.to_string_lossy().to_ascii_lowercase();
    let extension = text.rsplit_once('.').map_or("", |(_, extension)| extension);
    if text.starts_with('.') {
        Some(Omission::Hidden)
    } else if LEFTOVER_EXTENSIONS.contains(&extension) || text.ends_with('~') || text.starts_with('#') {
        Some(Omission::Leftover)
    } else if WEIGHT_EXTENSIONS.contains(&extension)
        || extension.starts_with("onnx_data")
        || text.ends_with(".onnx.data")
        || text.ends_with(".index.json")
    {
        Some(Omission::Weights)
    } else if CODE_EXTENSIONS.contains(&extension) {
        Some(Omission::Code)
    } else if text.starts_with(TRAINING_LOG) {
        Some(Omission::Log)
    } else {
        None
    }
}

/// Whether a file of this name could be part of a safetensors checkpoint.
pub(crate) fn is_safetensors(name: &OsStr) -> bool {
    let text = name.to_string_lossy().to_ascii_lowercase();
    !text.starts_with('.') && (text.ends_with(".safetensors") || text.ends_with(".safetensors.index.json"))
}

fn refused(path: &Path, obstacle: CompanionObstacle) -> CheckpointError {
    CheckpointError::Companion { path: path.to_owned(), obstacle }
}
