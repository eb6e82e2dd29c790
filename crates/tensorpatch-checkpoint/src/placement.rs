//! A layout checked against a schema: which file and which bytes of it each tensor has.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tensorpatch_format::{Layout, LimitKind, Limits, Schema, TensorIndex, TensorSpec};

use crate::error::short;
use crate::header::{HeaderViolation, check_file_len};
use crate::index::Index;
use crate::{CheckpointError, HeaderError, HeaderPlace, SafetensorsHeader};

/// Where each tensor of a schema lies in the files of a layout.
///
/// Whoever holds one may rely on it: every tensor of the schema is in exactly one file, with the schema's
/// dtype, shape and size, the tensors cover the data of each file exactly, and the index agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// By tensor index: the file, and the range of its bytes.
    tensors: Vec<(usize, Range<u64>)>,
    files: Vec<FileExtent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileExtent {
    header_len: u64,
    file_len: u64,
}

impl Placement {
    /// Checks that `layout` holds exactly the tensors of `schema`, and that a checkpoint written by it can be
    /// opened.
    ///
    /// # Errors
    /// If a header or the index breaks a rule or asks for more than `limits` allow, if layout and schema
    /// disagree, or if there are several files and no index. Files are named as in the layout.
    pub fn new(schema: &Schema, layout: &Layout, limits: &Limits) -> Result<Self, CheckpointError> {
        let mut headers = Vec::with_capacity(layout.files().len());
        for file in layout.files() {
            let header = parse_whole(&file.header, limits)
                .map_err(|source| CheckpointError::Header { path: PathBuf::from(&file.name), source })?;
            headers.push((file.name.as_str(), header));
        }
        match layout.index() {
            Some(index) => Index::parse(index, limits)
                .and_then(|index| index.check(headers.iter().map(|(name, header)| (*name, header))))
                .map_err(|source| CheckpointError::Index { path: Layout::INDEX_FILE.into(), source })?,
            None => {
                if let Some((first, _)) = headers.first()
                    && headers.len() != 1
                {
                    let first = (*first).to_owned();
                    return Err(CheckpointError::NoIndex { files: headers.len(), first });
                }
            }
        }
        let value = schema.state_bytes();
        if value > limits.state_bytes {
            let (kind, limit) = (LimitKind::StateBytes, limits.state_bytes);
            return Err(CheckpointError::Limit { path: Layout::SINGLE_FILE.into(), kind, value, limit });
        }
        let headers: Vec<_> = headers.iter().map(|(name, header)| (*name, header)).collect();
        Self::of_headers(Path::new(Layout::SINGLE_FILE), schema, &headers)
    }

    /// The placement in files with these names and headers.
    pub(crate) fn of_headers(
        path: &Path,
        schema: &Schema,
        headers: &[(&str, &SafetensorsHeader)],
    ) -> Result<Self, CheckpointError> {
        let mut slots: Vec<Option<(usize, Range<u64>)>> = vec![None; schema.tensors().len()];
        let mut files = Vec::with_capacity(headers.len());
        for (file, (file_name, header)) in headers.iter().enumerate() {
            for (found, range) in header.tensors() {
                let (tensor, file_name) = (|| short(&found.name), || (*file_name).to_owned());
                let index = schema.find(&found.name);
                let (Some(expected), Some(slot)) = (
                    index.and_then(|index| schema.get(index)),
                    index.and_then(|index| slots.get_mut(usize::try_from(index.0).ok()?)),
                ) else {
                    return Err(CheckpointError::UnexpectedTensor { tensor: tensor(), file: file_name() });
                };
                if expected != found {
                    return Err(CheckpointError::TensorDiffers {
                        tensor: tensor(),
                        file: file_name(),
                        expected: describe(expected),
                        found: describe(found),
                    });
                }
                if let Some((first, _)) = slot.replace((file, range.clone())) {
                    let first = headers.get(first).map(|(name, _)| (*name).to_owned()).unwrap_or_default();
                    let (path, second) = (path.to_owned(), file_name());
                    return Err(CheckpointError::TensorInTwoFiles { path, tensor: tensor(), first, second });
                }
            }
            files.push(FileExtent { header_len: header.header_len(), file_len: header.file_len() });
        }
        let mut tensors = Vec::with_capacity(slots.len());
        for (slot, spec) in slots.into_iter().zip(schema.tensors()) {
            let tensor = || short(&spec.name);
            tensors.push(slot.ok_or_else(|| CheckpointError::MissingTensor { tensor: tensor() })?);
        }
        Ok(Self { tensors, files })
    }

    /// The file that holds a tensor, by its place in the layout, and the range of bytes of that file.
    ///
    /// `None` if the schema has no such tensor.
    pub fn locate(&self, tensor: TensorIndex) -> Option<(usize, Range<u64>)> {
        self.tensors.get(usize::try_from(tensor.0).ok()?).cloned()
    }

    /// Bytes of a file, its header included; 0 if the layout has no such file.
    pub fn file_len(&self, file: usize) -> u64 {
        self.files.get(file).map_or(0, |extent| extent.file_len)
    }

    /// Bytes of the header of a file; 0 if the layout has no such file.
    pub fn header_len(&self, file: usize) -> u64 {
        self.files.get(file).map_or(0, |extent| extent.header_len)
    }

    pub(crate) fn check_file_len(&self, file: usize, found: u64) -> Result<(), HeaderError> {
        check_file_len(self.file_len(file), found)
    }

    /// Says that there may be the files of `layout`, placed like this, at `path`, and whether that is a
    /// directory. A single file may have any name.
    pub(crate) fn check_form(&self, path: &Path, layout: &Layout) -> Result<bool, CheckpointError> {
        let is_directory = fs::metadata(path).map_err(CheckpointError::io("look at", path))?.is_dir();
        let (files, index) = (layout.files().len(), layout.index().is_some());
        if !is_directory && (files != 1 || index) {
            return Err(CheckpointError::NeedsDirectory { path: path.to_owned(), files, index });
        }
        self.check_layout(layout)?;
        Ok(is_directory)
    }

    /// Says that this may be the placement in files of `layout`: there are as many files, with headers as
    /// long.
    pub(crate) fn check_layout(&self, layout: &Layout) -> Result<(), CheckpointError> {
        let mismatch = |what, expected, found| Err(CheckpointError::OtherPlacement { what, expected, found });
        let (expected, found) = (layout.files().len(), self.files.len());
        if expected != found {
            return mismatch("files", expected as u64, found as u64);
        }
        for (file, extent) in layout.files().iter().zip(&self.files) {
            let expected = file.header.len() as u64;
            if expected != extent.header_len {
                return mismatch("bytes of a header", expected, extent.header_len);
            }
        }
        Ok(())
    }

    /// Says that this may be the placement of tensors of `schema`: there are as many, of the same sizes.
    pub(crate) fn check_schema(&self, schema: &Schema) -> Result<(), CheckpointError> {
        let mismatch = |what, expected, found| Err(CheckpointError::OtherPlacement { what, expected, found });
        let (expected, found) = (schema.tensors().len(), self.tensors.len());
        if expected != found {
            return mismatch("tensors", expected as u64, found as u64);
        }
        for (spec, (_, range)) in schema.tensors().iter().zip(&self.tensors) {
            let found = range.end.saturating_sub(range.start);
            if spec.byte_len != found {
                return mismatch("bytes of a tensor", spec.byte_len, found);
            }
        }
        Ok(())
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The file and the offset in it for `len` bytes at `offset` of a tensor.
    pub(crate) fn locate_write(
        &self,
        tensor: TensorIndex,
        offset: u64,
        len: u64,
    ) -> Result<(usize, u64), CheckpointError> {
        let place = self.locate(tensor);
        let tensor_len = place.as_ref().map(|(_, range)| range.end.saturating_sub(range.start));
        let fits = offset.checked_add(len).zip(tensor_len).is_some_and(|(end, most)| end <= most);
        match place {
            // No overflow: the sum is below the end of the range.
            Some((file, range)) if fits => Ok((file, range.start.saturating_add(offset))),
            _ => Err(CheckpointError::OutOfRange { tensor, offset, len, tensor_len }),
        }
    }
}

/// The header of a layout, which ends where the data would begin.
fn parse_whole(bytes: &[u8], limits: &Limits) -> Result<SafetensorsHeader, HeaderError> {
    let header = SafetensorsHeader::parse(bytes, limits)?;
    let (expected, found) = (header.header_len(), bytes.len() as u64);
    if expected != found {
        let violation = HeaderViolation::TrailingBytes { expected, found };
        return Err(HeaderError { violation, place: HeaderPlace::Offset(expected) });
    }
    Ok(header)
}

fn describe(tensor: &TensorSpec) -> String {
    format!("{} {:?}, {} bytes", tensor.dtype, tensor.shape, tensor.byte_len)
}
