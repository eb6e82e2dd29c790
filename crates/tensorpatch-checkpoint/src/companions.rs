//! The files beside the weights: which ones belong to the model, and which ones stay behind.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::code::{holds_code, runs_code};
use crate::tree::Tree;
use crate::{CheckpointError, ConfinedPath, FileKind};

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
/// What every stream has that has a version.
const STREAM: [&str; 2] = ["stream.json", "commits"];
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
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Companion {
    /// The path below the directory of the checkpoint, with `/` between its parts.
    pub name: String,
    /// Where it lies. It may be a link into the cache of the Hugging Face Hub: to read it there is
    /// [`Companion::open`].
    pub path: PathBuf,
    /// The file itself, without links.
    file: ConfinedPath,
}

impl Companion {
    /// A file that the user has named, wherever links lead on the way to it.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = ConfinedPath::of(&fs::canonicalize(&path)?)?;
        Ok(Self { name: name.into(), path, file })
    }

    /// Opens what was found, to read it. A link that somebody has put in its place since is not followed.
    ///
    /// # Errors
    /// If it is no regular file any more, or the operating system refuses.
    pub fn open(&self) -> io::Result<File> {
        self.file.open()
    }
}

/// By name and path.
impl PartialEq for Companion {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.path) == (&other.name, &other.path)
    }
}

impl Eq for Companion {}

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
    /// A directory with the records of a stream.
    Stream,
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
            Self::Stream => "a stream",
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
    tree: &Tree,
    weights: &[&str],
    asked: &[String],
) -> Result<Companions, CheckpointError> {
    let blobs = weights.iter().filter_map(|name| tree.linked_blobs(name)).collect();
    let mut scan = Scan { tree, blobs, weights, asked, entries: 0, found: Companions::default() };
    scan.directory(tree.root(), "", 0)?;
    let Companions { carried, left_out } = &mut scan.found;
    carried.sort_by(|a, b| a.name.cmp(&b.name));
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
    tree: &'a Tree,
    /// Where links may lead, too: the blobs that weights are links to.
    blobs: Vec<PathBuf>,
    weights: &'a [&'a str],
    asked: &'a [String],
    entries: usize,
    found: Companions,
}

impl Scan<'_> {
    fn directory(
        &mut self,
        directory: &ConfinedPath,
        below: &str,
        depth: usize,
    ) -> Result<(), CheckpointError> {
        let entries = self.list(directory)?;
        if depth > 0 {
            if entries.is_empty() {
                self.leave(below.to_owned(), Omission::Empty);
                return Ok(());
            }
            if entries.iter().any(|entry| is_safetensors(entry)) {
                self.leave(below.to_owned(), Omission::Component);
                return Ok(());
            }
            if STREAM.iter().all(|name| entries.iter().any(|entry| entry == name)) {
                self.leave(below.to_owned(), Omission::Stream);
                return Ok(());
            }
        }
        for entry in entries {
            let place = directory.join(&entry);
            let Some(name) = entry.to_str() else {
                return Err(refused(&place.path(), CompanionObstacle::Name));
            };
            if depth == 0 && (self.weights.contains(&name) || name.starts_with(".tensorpatch")) {
                continue;
            }
            self.entry(&place, format!("{below}{name}"), depth)?;
        }
        Ok(())
    }

    fn list(&mut self, directory: &ConfinedPath) -> Result<Vec<OsString>, CheckpointError> {
        let entries = directory.entries().map_err(CheckpointError::io("list", &directory.path()))?;
        self.entries = self.entries.saturating_add(entries.len());
        if self.entries > MAX_ENTRIES {
            return Err(refused(&self.tree.root().path(), CompanionObstacle::Count));
        }
        Ok(entries)
    }

    fn entry(&mut self, place: &ConfinedPath, name: String, depth: usize) -> Result<(), CheckpointError> {
        let path = place.path();
        let found = place.find().and_then(|found| found.ok_or(io::ErrorKind::NotFound.into()));
        let kind = found.map_err(CheckpointError::io("look at", &path))?.kind;
        let is_dir = kind == FileKind::Directory;
        let is_asked = self.asked.contains(&name);
        // What stays behind anyhow need not be sound.
        if let Some(why) = omission(place.file_name())
            && !(is_asked && why != Omission::Hidden && !is_safetensors(place.file_name()))
        {
            self.leave(if is_dir { name + "/" } else { name }, why);
            return Ok(());
        }
        let file = match kind {
            FileKind::Directory if depth >= MAX_DEPTH => {
                return Err(refused(&path, CompanionObstacle::Depth));
            }
            FileKind::Directory => return self.directory(place, &(name + "/"), depth.saturating_add(1)),
            FileKind::Link => self.follow(&name, &path)?,
            FileKind::File => Some(place.clone()),
            _ => return Err(refused(&path, CompanionObstacle::Special)),
        };
        let Some(file) = file else {
            self.leave(name + "/", Omission::LinkedDirectory);
            return Ok(());
        };
        let companion = Companion { name, path, file };
        // What cannot be read is refused by whoever reads it.
        let is_code = || companion.open().and_then(|file| holds_code(&companion.name, &file));
        if !is_asked && is_code().unwrap_or(false) {
            self.leave(companion.name, Omission::Code);
        } else {
            self.found.carried.push(companion);
        }
        Ok(())
    }

    /// The file that a link leads to, `None` if it is a directory, if that is part of the checkpoint.
    fn follow(&self, name: &str, link: &Path) -> Result<Option<ConfinedPath>, CheckpointError> {
        let target = match fs::canonicalize(link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = fs::read_link(link).map_err(CheckpointError::io("read the link", link))?;
                return Err(refused(link, CompanionObstacle::DanglingLink(target)));
            }
            Err(error) => return Err(CheckpointError::io("follow", link)(error)),
        };
        let part = self.tree.part(name, &target, &self.blobs);
        let Some(file) = part.map_err(CheckpointError::io("follow", link))? else {
            return Err(refused(link, CompanionObstacle::LinkOutside(target)));
        };
        let metadata = fs::metadata(&target).map_err(CheckpointError::io("look at", link))?;
        if metadata.is_dir() {
            return Ok(None);
        }
        if metadata.is_file() { Ok(Some(file)) } else { Err(refused(link, CompanionObstacle::Special)) }
    }

    fn leave(&mut self, name: String, why: Omission) {
        self.found.left_out.push(LeftOut { name, why });
    }
}

/// Whether a file of this name belongs to a model without being weights.
pub fn is_companion_name(name: &OsStr) -> bool {
    omission(name).is_none()
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
    } else if runs_code(&text) {
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
