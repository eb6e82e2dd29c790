//! Writing a new checkpoint beside its destination, and putting it there in one step.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tensorpatch_format::{Layout, Schema, TensorIndex};

use crate::companions::is_safetensors;
use crate::durable::sync_open_dir;
use crate::permissions::{inherit, restrict};
use crate::regular::open_at_once;
use crate::room::{NoReservation, available, check_available, reserve};
use crate::staging::Staging;
use crate::sync::{SYNCED_AT_ONCE, Written, sync_all, syncing_behind};
use crate::{Checkpoint, CheckpointError, Companion, ConfinedPath, Placement};

/// Bytes of a companion that are in memory at once.
const COPIED_AT_ONCE: usize = 1 << 17;

/// What a checkpoint is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// One safetensors file of any name.
    File,
    /// A Hugging Face directory.
    Directory,
}

/// Writes a checkpoint beside its destination and renames it into place when it is whole.
///
/// Until [`CheckpointWriter::commit`] returns nothing can be seen at the destination but what was there
/// before. Dropping the writer without a commit removes everything it made; what a killed process leaves is
/// called `.NAME.tensorpatch-PID-RANDOM`, and the next writer for the same destination removes it.
///
/// Room for all bytes is reserved first, so that a full disk is found before any work is done. A file that
/// takes the place of another inherits its permissions; others get the modes that the umask gives to any new
/// file, and [`CheckpointWriter::no_more_open_than`] takes from these what a source does not allow.
#[derive(Debug)]
pub struct CheckpointWriter {
    dest: PathBuf,
    /// The same in its directory, open from the beginning: a directory that cannot be opened cannot be
    /// synced, which must not come out after the rename.
    place: ConfinedPath,
    placement: Placement,
    expected: u64,
    written: AtomicU64,
    /// In the order of the layout. In [`Form::File`] the one file is a second handle of the staging's.
    files: Vec<Written>,
    form: Form,
    staging: Staging,
    /// Whether what is written is to be on disk before it has its name.
    syncs: bool,
}

impl CheckpointWriter {
    /// Prepares to write a checkpoint with this schema and layout to `dest`.
    ///
    /// [`Form::File`] replaces a file at `dest`; if that is a symbolic link, the link is replaced and not
    /// what it leads to. [`Form::Directory`] wants nothing, or an empty directory, at `dest`. The directory
    /// that `dest` is in must exist.
    ///
    /// # Errors
    /// If something else is at `dest`, the layout does not go into a single file where one is asked for,
    /// `placement` is that of another schema or layout, there is not enough room
    /// ([`CheckpointError::NoRoom`]), or the operating system refuses.
    pub fn create(
        dest: &Path,
        form: Form,
        schema: &Schema,
        layout: &Layout,
        placement: &Placement,
    ) -> Result<Self, CheckpointError> {
        let (files, index) = (layout.files().len(), layout.index().is_some());
        if form == Form::File && (files != 1 || index) {
            return Err(CheckpointError::NeedsDirectory { path: dest.to_owned(), files, index });
        }
        placement.check_layout(layout)?;
        placement.check_schema(schema)?;
        let dest = check_destination(dest, form)?;
        if dest.file_name().is_none() {
            return Err(destination(&dest, "it has no name", "give the path of the checkpoint to create"));
        }
        let place = place_of(&dest)?;
        let staging = Staging::create(&place, form)?;
        let files = open_files(&staging, form, layout)?;
        let writer = Self {
            place,
            placement: placement.clone(),
            expected: schema.state_bytes(),
            written: AtomicU64::new(0),
            files,
            form,
            staging,
            dest,
            syncs: true,
        };
        writer.reserve()?;
        writer.write_layout(layout)?;
        Ok(writer)
    }

    /// Leaves it to the system when what is written gets to the disk: a power cut may take it away, or leave
    /// it torn, also after the commit.
    #[must_use]
    pub fn unsynced(mut self) -> Self {
        self.syncs = false;
        self
    }

    /// Takes from the files what those who read them could not do with those of `source`, of which they are a
    /// copy.
    ///
    /// # Errors
    /// If a file cannot be looked at, or its mode cannot be set.
    pub fn no_more_open_than(&self, source: &Checkpoint) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(|written| source.restrict(&written.file))?;
        if self.form == Form::File {
            return Ok(());
        }
        if let Ok(index) = self.staging.place().join(Layout::INDEX_FILE).open() {
            source.restrict(&index)?;
        }
        source.restrict_directory(self.staging.handle())
    }

    fn reserve(&self) -> Result<(), CheckpointError> {
        let available = available(self.staging.handle());
        let lens = (0..self.files.len()).map(|file| self.placement.file_len(file));
        let needed = lens.clone().fold(0, u64::saturating_add);
        let refuse = |refusal| match refusal {
            NoReservation::Full => CheckpointError::NoRoom { path: self.dest.clone(), needed, available },
            NoReservation::Failed(error) => CheckpointError::io("reserve room for", &self.dest)(error),
        };
        check_available(needed, available).map_err(refuse)?;
        for (written, len) in self.files.iter().zip(lens) {
            reserve(&written.file, len).map_err(refuse)?;
        }
        Ok(())
    }

    fn write_layout(&self, layout: &Layout) -> Result<(), CheckpointError> {
        for (file, from) in self.files.iter().zip(layout.files()) {
            file.write(&from.header, 0)?;
        }
        if let Some(index) = layout.index() {
            self.write_beside(Layout::INDEX_FILE, |file| Ok(file.write_all(index)))?;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset` of a tensor. Any number of threads may write at once, in any order; each
    /// byte of each tensor must be written exactly once before the commit.
    ///
    /// # Errors
    /// [`CheckpointError::OutOfRange`] if the tensor does not have all of these bytes, or if the operating
    /// system refuses.
    pub fn write(&self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        let (file, position) = self.placement.locate_write(tensor, offset, bytes.len() as u64)?;
        if let Some(file) = self.files.get(file) {
            file.write(bytes, position)?;
            self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does `work`, which writes through this writer, and puts what it has written on the disk while it goes
    /// on, so that [`CheckpointWriter::commit`] finds little left to sync; if nothing is to be synced, does
    /// it alone.
    ///
    /// # Errors
    /// Of `work`, or if the operating system refuses to put something on the disk.
    pub fn syncing_behind<T, E: From<CheckpointError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if self.syncs { syncing_behind(&self.files, |_| SYNCED_AT_ONCE, work) } else { work() }
    }

    /// Copies a file that belongs to the model, such as `config.json`, into the new directory under its own
    /// name.
    ///
    /// # Errors
    /// If the checkpoint is a single file, the name leaves the directory or is that of weights, an index or a
    /// hidden file, the file is there already, or it cannot be copied.
    pub fn copy_companion(&self, companion: &Companion) -> Result<(), CheckpointError> {
        let Companion { name, path: source, .. } = companion;
        let is_visible = name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        if self.form != Form::Directory || !is_visible || is_safetensors(name.as_ref()) {
            return Err(destination(
                source,
                "it cannot go beside the weights",
                "companions are plain files such as config.json, of a checkpoint directory",
            ));
        }
        if let Some((below, _)) = name.rsplit_once('/') {
            let directory = self.staging.place().join(below);
            directory.create_dir().map_err(CheckpointError::io("create", &directory.path()))?;
        }
        let mut from = companion.open().map_err(CheckpointError::io("open", source))?;
        self.write_beside(name, |file| {
            restrict(file, &from).map_err(CheckpointError::io("take over the permissions of", source))?;
            copy(&mut from, source, file)
        })
    }

    /// A new file in the staged directory, on disk when this returns. `write` fails for what it reads, and
    /// returns how the writing went.
    fn write_beside(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<io::Result<()>, CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let mut file = new_file(&self.staging.place().join(name))?;
        write(&mut file)?
            .and_then(|()| if self.syncs { file.sync_all() } else { Ok(()) })
            .map_err(CheckpointError::io("write", &self.dest.join(name)))
    }

    /// Makes the checkpoint durable and visible: syncs every file, renames, syncs the directories.
    ///
    /// # Errors
    /// [`CheckpointError::Incomplete`] if the bytes written are not as many as the tensors have.
    /// [`CheckpointError::NotDurable`] once the destination is replaced; in all other cases it is as it was.
    pub fn commit(self) -> Result<(), CheckpointError> {
        let written = self.written.load(Ordering::Acquire);
        if written != self.expected {
            let (path, expected) = (self.dest, self.expected);
            return Err(CheckpointError::Incomplete { path, written, expected });
        }
        if self.syncs {
            sync_all(&self.files, File::sync_all)?;
        }
        let unmarked = self.staging.unmark();
        unmarked.map_err(CheckpointError::io("finish", &self.staging.place().path()))?;
        if self.syncs && self.form == Form::Directory {
            let path = self.staging.place().path();
            sync_open_dir(self.staging.handle()).map_err(CheckpointError::io("sync", &path))?;
        }
        let (dest, place, syncs) = (self.dest, self.place, self.syncs);
        if self.form == Form::File {
            inherit_of_replaced(&dest, self.staging.handle())?;
        }
        self.staging.rename(&place).map_err(|error| match error.kind() {
            // Somebody was faster since `create` looked.
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => not_empty(&dest),
            _ => CheckpointError::io("rename the new checkpoint to", &dest)(error),
        })?;
        if !syncs {
            return Ok(());
        }
        place.sync_parent().map_err(CheckpointError::not_durable(&dest))
    }
}

/// Gives a file that is about to take the place of the one at `dest` its permissions, if there is one that
/// can be opened. One that cannot is nobody's to read, and so is the new one.
pub(crate) fn inherit_of_replaced(dest: &Path, new: &File) -> Result<(), CheckpointError> {
    let inherited = match open_at_once(dest) {
        Ok(old) => inherit(&old, new),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            rustix::fs::fchmod(new, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).map_err(Into::into)
        }
    };
    inherited.map_err(CheckpointError::io("take over the permissions of", dest))
}

/// Copies what `from` holds, which is at `source`. Fails if that cannot be read, and returns how the writing
/// went.
fn copy(from: &mut File, source: &Path, to: &mut File) -> Result<io::Result<()>, CheckpointError> {
    let mut block = vec![0; COPIED_AT_ONCE];
    loop {
        let len = match from.read(&mut block) {
            Ok(0) => return Ok(Ok(())),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CheckpointError::io("read", source)(error)),
        };
        if let Err(error) = to.write_all(block.get(..len).unwrap_or_default()) {
            return Ok(Err(error));
        }
    }
}

/// The path to rename to, if what is there may be replaced.
pub(crate) fn check_destination(dest: &Path, form: Form) -> Result<PathBuf, CheckpointError> {
    let metadata = match fs::metadata(dest) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link to nothing: a file takes its place, but a directory cannot.
            if form == Form::Directory && dest.is_symlink() {
                return Err(destination(dest, "it is a symbolic link to nothing", "remove it"));
            }
            return Ok(dest.to_owned());
        }
        Err(error) => return Err(CheckpointError::io("look at", dest)(error)),
    };
    // `/dev/stdout` and the like: a rename would replace the link itself, for everybody.
    if dest.is_symlink() && is_open_file(dest) {
        return Err(destination(dest, "it stands for an open file", "give the path of a file to write"));
    }
    match form {
        Form::File if metadata.is_dir() => {
            Err(destination(dest, "it is a directory", "give the path of a file to write"))
        }
        Form::File if !metadata.is_file() => {
            Err(destination(dest, "it is no regular file", "give another path"))
        }
        Form::File => Ok(dest.to_owned()),
        Form::Directory if !metadata.is_dir() => {
            Err(destination(dest, "it is a file", "give the path of a directory to create"))
        }
        Form::Directory => {
            let mut entries = fs::read_dir(dest).map_err(CheckpointError::io("list", dest))?;
            if entries.next().is_some() {
                return Err(not_empty(dest));
            }
            // A rename cannot replace a link to a directory, only the directory.
            fs::canonicalize(dest).map_err(CheckpointError::io("look at", dest))
        }
    }
}

fn is_open_file(link: &Path) -> bool {
    let parent = link.parent().and_then(|parent| fs::canonicalize(parent).ok()).unwrap_or_default();
    let is_special = |path: &Path| path.starts_with("/proc") || path.starts_with("/dev");
    is_special(&parent) || fs::read_link(link).is_ok_and(|target| is_special(&target))
}

/// `dest` in the directory that it is to be in.
pub(crate) fn place_of(dest: &Path) -> Result<ConfinedPath, CheckpointError> {
    ConfinedPath::of(dest).map_err(|error| {
        let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if error.kind() != io::ErrorKind::NotFound {
            return CheckpointError::io("open", parent)(error);
        }
        let source = io::Error::new(error.kind(), format!("there is no directory {}", parent.display()));
        CheckpointError::io("create", dest)(source)
    })
}

pub(crate) fn destination(path: &Path, found: &'static str, advice: &'static str) -> CheckpointError {
    CheckpointError::Destination { path: path.to_owned(), found, advice }
}

fn not_empty(path: &Path) -> CheckpointError {
    destination(path, "the directory is not empty", "give a new directory, or empty this one first")
}

fn new_file(place: &ConfinedPath) -> Result<File, CheckpointError> {
    place.create_new().map_err(CheckpointError::io("create", &place.path()))
}

fn open_files(staging: &Staging, form: Form, layout: &Layout) -> Result<Vec<Written>, CheckpointError> {
    if form == Form::File {
        let path = staging.place().path();
        let file = staging.handle().try_clone().map_err(CheckpointError::io("open", &path))?;
        return Ok(vec![Written::new(path, file)]);
    }
    layout
        .files()
        .iter()
        .map(|file| {
            let place = staging.place().join(&file.name);
            new_file(&place).map(|file| Written::new(place.path(), file))
        })
        .collect()
}
