//! An opened checkpoint: validated, mapped, ready to be compared.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tensorpatch_format::{FileLayout, Layout, LimitKind, Limits, Schema, TensorIndex, TensorSpec};

use crate::companions::{self, Companions};
use crate::error::short;
use crate::foreign::{self, ForeignFile};
use crate::index::Index;
use crate::map::{FileIdentity, MappedFile};
use crate::permissions::restrict;
use crate::regular::open_at_once;
use crate::tree::Tree;
use crate::{CheckpointError, Placement, SafetensorsHeader, open_regular};

/// A checkpoint on disk, opened and mapped into memory.
///
/// It is one safetensors file, or a Hugging Face directory: `model.safetensors.index.json` and the shards it
/// names, a single `model.safetensors`, or the only safetensors file there is (`adapter_model.safetensors`).
/// The path may lead over symbolic links. Below it a link to weights is followed within the checkpoint, to
/// the blobs of the model in the Hugging Face cache whose snapshot it is, and to wherever the user of this
/// process, root or the owner of the file that it leads to has made it lead: others would choose what is
/// read.
/// Opening reads the headers and checks all of them; the tensors' bytes are read when they are looked at, and
/// take no memory of their own.
///
/// The files must not be written to while they are open here: the bytes would change under the slices
/// that [`Checkpoint::tensor`] returns, and a file that shrinks ends the process (SIGBUS). Replacing a file
/// by renaming another over it, as [`CheckpointWriter`](crate::CheckpointWriter) does, is safe.
///
/// ```
/// use tensorpatch_checkpoint::{Checkpoint, CheckpointWriter, Form, Placement, generate_layout};
/// use tensorpatch_format::{Dtype, Limits, Schema, TensorIndex, TensorSpec};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("tiny.safetensors");
/// let dtype = Dtype::new("U8").ok_or("no dtype")?;
/// let schema = Schema::new(vec![TensorSpec::new("t", dtype, vec![3])?])?;
/// let layout = generate_layout(&schema)?;
/// let placement = Placement::new(&schema, &layout, &Limits::default())?;
/// let writer = CheckpointWriter::create(&path, Form::File, &schema, &layout, &placement)?;
/// writer.write(TensorIndex(0), 0, &[1, 2, 3])?;
/// writer.commit()?;
///
/// let checkpoint = Checkpoint::open(&path, &Limits::default())?;
/// assert_eq!(checkpoint.schema(), &schema);
/// assert_eq!(checkpoint.tensor(TensorIndex(0)), Some(&[1, 2, 3][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// The directory, if it is none of a single file.
    tree: Option<Tree>,
    files: Vec<(PathBuf, MappedFile)>,
    schema: Schema,
    layout: Layout,
    placement: Placement,
}

impl Checkpoint {
    /// Opens and checks the checkpoint at `path`.
    ///
    /// # Errors
    /// If nothing is there, a header or the index is broken, the shards and the index disagree, a file is
    /// shorter or longer than its header says, or the checkpoint is over `limits`.
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, CheckpointError> {
        let metadata = fs::metadata(path).map_err(CheckpointError::io("open", path))?;
        let tree = if metadata.is_dir() { Some(Tree::open(path)?) } else { None };
        let mut opened = Opened { limits, metadata_bytes: 0, files: Vec::new(), headers: Vec::new() };
        let mut index = None;
        if let Some(tree) = &tree {
            let (found, names) = find_files(path, tree, limits)?;
            index = found;
            opened.add_metadata(path, index.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64))?;
            for (name, tensor) in names {
                let shard = path.join(&name);
                if let Some(tensor) = tensor
                    && fs::metadata(&shard).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                {
                    return Err(CheckpointError::MissingShard { path: shard, tensor });
                }
                opened.add(tree.map(&name)?, shard, name)?;
            }
        } else {
            let mapped = MappedFile::open(path)?;
            opened.add(mapped, path.to_owned(), Layout::SINGLE_FILE.to_owned())?;
        }
        let headers: Vec<_> = opened.headers.iter().map(|(name, h)| (name.as_str(), h)).collect();
        let schema = schema_of(path, &headers, limits)?;
        if let Some((_, index)) = &index {
            index
                .check(headers.iter().copied())
                .map_err(|source| CheckpointError::Index { path: path.join(Layout::INDEX_FILE), source })?;
        }
        let placement = Placement::of_headers(path, &schema, &headers)?;
        let file_layouts = opened.file_layouts();
        let layout = Layout::new(file_layouts, index.map(|(bytes, _)| bytes))
            .map_err(|source| CheckpointError::Layout { path: path.to_owned(), source })?;
        let files = opened.files;
        Ok(Self { path: path.to_owned(), tree, files, schema, layout, placement })
    }

    /// The path that was opened, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a directory, and not a single file.
    pub fn is_directory(&self) -> bool {
        self.tree.is_some()
    }

    /// The names, dtypes and shapes of the tensors.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The names of the files, their headers byte for byte, and the index. A single file is called
    /// `model.safetensors` here, whatever its name on disk.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where each tensor lies in the files.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The bytes of a tensor, or `None` if the schema has no such tensor.
    pub fn tensor(&self, tensor: TensorIndex) -> Option<&[u8]> {
        let (file, range) = self.placement.locate(tensor)?;
        let (_, mapped) = self.files.get(file)?;
        mapped.bytes().get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The bytes of all tensors, in the order of the schema.
    pub fn tensors(&self) -> Vec<&[u8]> {
        // Every one is there: `open` has compared the length of each file with its header.
        (0..self.schema.tensors().len())
            .filter_map(|index| self.tensor(TensorIndex(u32::try_from(index).ok()?)))
            .collect()
    }

    /// The files beside the weights that belong to the model, such as `config.json`, `tokenizer.json` and
    /// `1_Pooling/config.json`, and those that stay behind: hidden files, weights of other formats,
    /// unfinished downloads, and directories with safetensors files of their own. `asked` names files that
    /// come along although their name says weights of another format, leftover or log. Nothing for a single
    /// file.
    ///
    /// # Errors
    /// [`CheckpointError::Companion`] if a file could not be carried: a link that leads nowhere or out of the
    /// checkpoint, a pipe, a name that is not UTF-8, a file asked for that is not there. Also if a directory
    /// cannot be listed: what cannot be read must not pass for absent.
    pub fn companions(&self, asked: &[String]) -> Result<Companions, CheckpointError> {
        let Some(tree) = &self.tree else { return Ok(Companions::default()) };
        let index = self.layout.index().map(|_| Layout::INDEX_FILE);
        let weights: Vec<&str> =
            self.layout.files().iter().map(|file| file.name.as_str()).chain(index).collect();
        companions::find(&self.path, tree, &weights, asked)
    }

    /// Opens a file with tensors, given by its place in the layout, once more: to read it otherwise than
    /// through its map.
    ///
    /// # Errors
    /// If another one is there by now, or the operating system refuses.
    pub fn reopen(&self, file: usize) -> Result<File, CheckpointError> {
        self.reopen_if(file, |found, mapped| found == mapped)
    }

    fn reopen_if(
        &self,
        file: usize,
        is_same: impl FnOnce(FileIdentity, FileIdentity) -> bool,
    ) -> Result<File, CheckpointError> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "there is no such file in the layout");
        let (path, mapped) =
            self.files.get(file).ok_or_else(|| CheckpointError::io("open", &self.path)(unknown()))?;
        let opened = match (&self.tree, self.layout.files().get(file)) {
            (Some(tree), Some(layout)) => tree.open_file(&layout.name)?,
            _ => open_regular(path).map_err(CheckpointError::io("open", path))?,
        };
        let found = opened.metadata().map_err(CheckpointError::io("look at", path))?;
        if is_same(FileIdentity::of(&found), mapped.identity) {
            return Ok(opened);
        }
        let replaced = io::Error::other(
            "it was replaced or resized since it was opened; try again when nothing writes to it",
        );
        Err(CheckpointError::io("use", path)(replaced))
    }

    /// Takes from `copy`, a file made of this checkpoint's, what those who read it could not do with each of
    /// these.
    ///
    /// # Errors
    /// As [`Checkpoint::reopen`]; also if the mode of `copy` cannot be set.
    pub fn restrict(&self, copy: &File) -> Result<(), CheckpointError> {
        for (file, (path, _)) in self.files.iter().enumerate() {
            // One that was cut short is found out by whoever reads it.
            let is_same = |found: FileIdentity, mapped: FileIdentity| {
                (found.device, found.inode) == (mapped.device, mapped.inode)
            };
            let restricted = restrict(copy, &self.reopen_if(file, is_same)?);
            restricted.map_err(CheckpointError::io("take over the permissions of", path))?;
        }
        Ok(())
    }

    /// Does the same to a directory made of this one; nothing if this is a single file.
    ///
    /// # Errors
    /// If one cannot be looked at, or the mode of `copy` cannot be set.
    pub fn restrict_directory(&self, copy: &File) -> Result<(), CheckpointError> {
        if !self.is_directory() {
            return Ok(());
        }
        let restricted = open_at_once(&self.path).and_then(|source| restrict(copy, &source));
        restricted.map_err(CheckpointError::io("take over the permissions of", &self.path))
    }

    /// The paths of the files with tensors, in the order of the layout.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The path and identity of each file, in the order of the layout.
    pub(crate) fn file_identities(&self) -> impl Iterator<Item = (&Path, FileIdentity)> {
        self.files.iter().map(|(path, mapped)| (path.as_path(), mapped.identity))
    }
}

/// Files as they are opened one by one.
struct Opened<'l> {
    limits: &'l Limits,
    metadata_bytes: u64,
    files: Vec<(PathBuf, MappedFile)>,
    headers: Vec<(String, SafetensorsHeader)>,
}

impl Opened<'_> {
    fn add(&mut self, mapped: MappedFile, path: PathBuf, name: String) -> Result<(), CheckpointError> {
        let header = SafetensorsHeader::parse(mapped.bytes(), self.limits)
            .and_then(|header| header.check_file_len(mapped.bytes().len() as u64).map(|()| header))
            .map_err(|source| match ForeignFile::of(mapped.bytes()) {
                Some(found) => {
                    CheckpointError::Foreign { path: path.clone(), found, bytes: mapped.identity.len }
                }
                None => CheckpointError::Header { path: path.clone(), source },
            })?;
        self.add_metadata(&path, header.header_len())?;
        self.files.push((path, mapped));
        self.headers.push((name, header));
        Ok(())
    }

    /// Headers are kept in memory, however many shards there are: their sum is bounded.
    fn add_metadata(&mut self, path: &Path, bytes: u64) -> Result<(), CheckpointError> {
        self.metadata_bytes = self.metadata_bytes.saturating_add(bytes);
        check_limit(path, LimitKind::MetadataBytes, self.metadata_bytes, self.limits.metadata_bytes)
    }

    fn file_layouts(&self) -> Vec<FileLayout> {
        let header_bytes = |mapped: &MappedFile, header: &SafetensorsHeader| {
            let len = usize::try_from(header.header_len()).unwrap_or(usize::MAX);
            mapped.bytes().get(..len).unwrap_or_default().to_vec()
        };
        self.files
            .iter()
            .zip(&self.headers)
            .map(|((_, mapped), (name, header))| FileLayout {
                name: name.clone(),
                header: header_bytes(mapped, header),
            })
            .collect()
    }
}

fn check_limit(path: &Path, kind: LimitKind, value: u64, limit: u64) -> Result<(), CheckpointError> {
    if value > limit {
        return Err(CheckpointError::Limit { path: path.to_owned(), kind, value, limit });
    }
    Ok(())
}

/// The index bytes and what they say; the weight files of a directory, each with a tensor it should hold.
type Found = (Option<(Vec<u8>, Index)>, Vec<(String, Option<String>)>);

fn find_files(directory: &Path, tree: &Tree, limits: &Limits) -> Result<Found, CheckpointError> {
    let index_path = directory.join(Layout::INDEX_FILE);
    let single_path = directory.join(Layout::SINGLE_FILE);
    // A link that leads nowhere is there, and opening it will say so; it must not pass for absent.
    let exists = |path: &Path| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CheckpointError::io("look at", path)(error)),
    };
    if !exists(&index_path)? {
        let name = if exists(&single_path)? {
            Layout::SINGLE_FILE.to_owned()
        } else {
            foreign::only_file(directory)?
        };
        return Ok((None, vec![(name, None)]));
    }
    let mapped = tree.map(Layout::INDEX_FILE)?;
    check_limit(&index_path, LimitKind::HeaderBytes, mapped.identity.len, limits.header_bytes)?;
    let bytes = mapped.bytes().to_vec();
    let index = Index::parse(&bytes, limits)
        .map_err(|source| CheckpointError::Index { path: index_path.clone(), source })?;
    let shards: Vec<_> =
        index.shards().into_iter().map(|(shard, tensor)| (shard.to_owned(), Some(short(tensor)))).collect();
    if shards.iter().all(|(shard, _)| shard != Layout::SINGLE_FILE) && exists(&single_path)? {
        return Err(CheckpointError::NotACheckpoint {
            path: directory.to_owned(),
            found: "it has a model.safetensors beside the shards of its index; remove the one that is stale"
                .into(),
        });
    }
    Ok((Some((bytes, index)), shards))
}

fn schema_of(
    path: &Path,
    headers: &[(&str, &SafetensorsHeader)],
    limits: &Limits,
) -> Result<Schema, CheckpointError> {
    let mut tensors: Vec<(&TensorSpec, &str)> = headers
        .iter()
        .flat_map(|(name, header)| header.tensors().iter().map(move |(spec, _)| (spec, *name)))
        .collect();
    check_limit(path, LimitKind::Tensors, tensors.len() as u64, limits.tensors)?;
    tensors.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    for pair in tensors.windows(2) {
        if let [(a, first), (b, second)] = pair
            && a.name == b.name
        {
            let (tensor, first, second) = (short(&a.name), (*first).to_owned(), (*second).to_owned());
            return Err(CheckpointError::TensorInTwoFiles { path: path.to_owned(), tensor, first, second });
        }
    }
    let schema = Schema::new(tensors.into_iter().map(|(spec, _)| spec.clone()).collect())
        .map_err(|source| CheckpointError::Schema { path: path.to_owned(), source })?;
    check_limit(path, LimitKind::StateBytes, schema.state_bytes(), limits.state_bytes)?;
    Ok(schema)
}
