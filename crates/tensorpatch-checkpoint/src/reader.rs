//! Reading the tensors of a checkpoint through its files, without mapping them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tensorpatch_format::{FileLayout, Layout, TensorIndex};

use crate::tree::Tree;
use crate::{CheckpointError, Placement, open_regular};

/// Reads the tensors of a checkpoint at given positions, through its files: for one that others may alter or
/// cut short meanwhile, which under a memory map would end the process.
///
/// What is read may be anything then. Whoever uses it must know it by a digest.
#[derive(Debug)]
pub struct CheckpointReader {
    placement: Placement,
    /// In the order of the layout.
    files: Vec<(PathBuf, File)>,
}

impl CheckpointReader {
    /// Opens the checkpoint at `path`, which is to have the files of `layout`, where tensors lie as
    /// `placement` says. A single file may have any name.
    ///
    /// # Errors
    /// If a file is missing, is not as long as it is to be, or has another header;
    /// [`CheckpointError::OtherPlacement`] if `placement` is that of another layout,
    /// [`CheckpointError::NeedsDirectory`] if `path` is a file and the layout is that of a directory.
    pub fn open(path: &Path, layout: &Layout, placement: &Placement) -> Result<Self, CheckpointError> {
        let tree = if placement.check_form(path, layout)? { Some(Tree::open(path)?) } else { None };
        let open = |(number, file): (usize, &FileLayout)| {
            let (path, opened) = match &tree {
                Some(tree) => (path.join(&file.name), tree.open_file(&file.name)?),
                None => (path.to_owned(), open_regular(path).map_err(CheckpointError::io("open", path))?),
            };
            let found = opened.metadata().map_err(CheckpointError::io("look at", &path))?.len();
            placement
                .check_file_len(number, found)
                .map_err(|source| CheckpointError::Header { path: path.clone(), source })?;
            let mut header = vec![0; file.header.len()];
            opened.read_exact_at(&mut header, 0).map_err(CheckpointError::io("read", &path))?;
            if header != file.header {
                let other = io::Error::new(io::ErrorKind::InvalidData, "it has another header");
                return Err(CheckpointError::io("use", &path)(other));
            }
            Ok((path, opened))
        };
        let files = layout.files().iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Self { placement: placement.clone(), files })
    }

    /// Fills `bytes` from `offset` of a tensor. Any number of threads may read at once.
    ///
    /// # Errors
    /// [`CheckpointError::OutOfRange`] if the tensor does not have all of these bytes; if the file has been
    /// cut short, or the operating system refuses.
    pub fn read(&self, tensor: TensorIndex, offset: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let len = bytes.len() as u64;
        let (file, position) = self.placement.locate_write(tensor, offset, len)?;
        let Some((path, file)) = self.files.get(file) else {
            return Err(CheckpointError::OutOfRange { tensor, offset, len, tensor_len: None });
        };
        file.read_exact_at(bytes, position).map_err(CheckpointError::io("read", path))
    }
}
