//! What the files of a checkpoint look like apart from the tensor bytes (section 2.2).

use crate::bytes::Reader;
use crate::digest::blake3_of;
use crate::schema::{put_string, put_u32, read_string};
use crate::{Error, LayoutDigest, LimitKind, Limits};

/// The hard limit of safetensors: 8 bytes of length and 100,000,000 of header.
const MAX_HEADER_BYTES: u64 = 100_000_008;
/// A one-byte name and an empty header: 4+1 + 8.
const MIN_FILE_BYTES: u64 = 13;

/// One file of a checkpoint: its name, and all of its bytes that come before the tensors'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayout {
    /// The plain file name, such as `model-00001-of-00002.safetensors`.
    pub name: String,
    /// The 8-byte length, the JSON header and its padding, verbatim.
    pub header: Vec<u8>,
}

/// The files of a checkpoint in ascending order of their names, and the bytes of its index.
///
/// The header bytes are kept verbatim because safetensors writers do not agree on them (and some shuffle
/// `__metadata__`): only so is a rebuilt checkpoint the original byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    files: Vec<FileLayout>,
    index: Option<Vec<u8>>,
}

/// Why a list of files is not a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No file at all.
    #[error("a checkpoint needs at least one file")]
    Empty,
    /// Two files have the same name.
    #[error("file {0:?} occurs twice")]
    Duplicate(String),
    /// A name that could leave the directory, or is no safetensors file's.
    #[error("{0:?} is not a plain .safetensors file name")]
    Name(String),
    /// A header over the limit of safetensors.
    #[error("the header of {name:?} has {len} bytes: at most 100000008 are allowed")]
    HeaderLength {
        /// The file.
        name: String,
        /// The bytes of its header.
        len: usize,
    },
}

impl Layout {
    /// The name of the file of a checkpoint that is a single file.
    pub const SINGLE_FILE: &'static str = "model.safetensors";
    /// The name of the index file of a sharded checkpoint.
    pub const INDEX_FILE: &'static str = "model.safetensors.index.json";

    /// A layout of these files, in any order, and the bytes of the index if there is one.
    ///
    /// # Errors
    /// If there is no file, two have the same name, or a name or header breaks section 2.2.
    pub fn new(mut files: Vec<FileLayout>, index: Option<Vec<u8>>) -> Result<Self, LayoutError> {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        if files.is_empty() {
            return Err(LayoutError::Empty);
        }
        for file in &files {
            check_file(file)?;
        }
        for pair in files.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                return Err(LayoutError::Duplicate(a.name.clone()));
            }
        }
        Ok(Self { files, index })
    }

    /// The files, in order.
    pub fn files(&self) -> &[FileLayout] {
        &self.files
    }

    /// The bytes of the index file.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }

    /// The canonical bytes (section 2.2).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u32(&mut out, self.files.len());
        for file in &self.files {
            put_string(&mut out, &file.name);
            out.extend_from_slice(&(file.header.len() as u64).to_le_bytes());
            out.extend_from_slice(&file.header);
        }
        match &self.index {
            None => out.push(0),
            Some(index) => {
                out.push(1);
                out.extend_from_slice(&(index.len() as u64).to_le_bytes());
                out.extend_from_slice(index);
            }
        }
        out
    }

    /// Reads canonical bytes that start at `offset` of the file.
    ///
    /// # Errors
    /// If the bytes are not the canonical bytes of a layout, or ask for more than `limits` allow.
    pub fn from_bytes(bytes: &[u8], offset: u64, limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, offset);
        let count = reader.u32("file_count")?;
        if count == 0 {
            return Err(Error::invalid(LayoutError::Empty.to_string(), "file_count", offset));
        }
        limits.check(LimitKind::Files, u64::from(count), "file_count", offset)?;
        reader.check_count(u64::from(count), MIN_FILE_BYTES, "file_count", offset)?;
        let mut files: Vec<FileLayout> = Vec::new();
        for _ in 0..count {
            let at = reader.offset();
            let name = read_string(&mut reader, 255, "file name")?.to_owned();
            let header = read_blob(&mut reader, limits, MAX_HEADER_BYTES, "header_len")?;
            let file = FileLayout { name, header };
            check_file(&file).map_err(|e| Error::invalid(e.to_string(), "file name", at))?;
            if files.last().is_some_and(|last| last.name >= file.name) {
                let message = format!("file {:?} is out of order or occurs twice", file.name);
                return Err(Error::invalid(message, "file name", at));
            }
            files.push(file);
        }
        let at = reader.offset();
        let index = match reader.u8("has_index")? {
            0 => None,
            1 => Some(read_blob(&mut reader, limits, u64::MAX, "index_len")?),
            other => return Err(Error::invalid(format!("{other} is neither 0 nor 1"), "has_index", at)),
        };
        reader.finish("layout")?;
        Ok(Self { files, index })
    }

    /// The digest of the layout (section 4).
    pub fn digest(&self) -> LayoutDigest {
        LayoutDigest::from_bytes(blake3_of("tensorpatch.v1.layout\0", &[&self.to_bytes()]))
    }
}

fn read_blob(
    reader: &mut Reader<'_>,
    limits: &Limits,
    max: u64,
    field: &'static str,
) -> Result<Vec<u8>, Error> {
    let at = reader.offset();
    let len = reader.u64(field)?;
    // The default limit is the hard one, and what breaks that is invalid for every reader.
    if len > max {
        return Err(Error::invalid(format!("{len} bytes: at most {max} are allowed"), field, at));
    }
    limits.check(LimitKind::HeaderBytes, len, field, at)?;
    Ok(reader.take(len, field)?.to_vec())
}

fn check_file(file: &FileLayout) -> Result<(), LayoutError> {
    if !is_plain_name(&file.name) {
        return Err(LayoutError::Name(file.name.clone()));
    }
    if file.header.len() as u64 > MAX_HEADER_BYTES {
        return Err(LayoutError::HeaderLength { name: file.name.clone(), len: file.header.len() });
    }
    Ok(())
}

/// A name that stays in its directory on every platform and can be mistaken for nothing else.
fn is_plain_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.ends_with(".safetensors")
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;

    fn file(name: &str) -> FileLayout {
        FileLayout { name: name.into(), header: b"\x02\0\0\0\0\0\0\0{}".to_vec() }
    }

    #[test]
    fn canonical_bytes_round_trip() {
        for index in [None, Some(b"{}".to_vec())] {
            let layout = Layout::new(vec![file("b.safetensors"), file("a.safetensors")], index).unwrap();
            assert_eq!(Layout::from_bytes(&layout.to_bytes(), 0, &Limits::default()).unwrap(), layout);
        }
    }

    #[test]
    fn every_strict_prefix_is_invalid() {
        let bytes = Layout::new(vec![file("a.safetensors")], Some(b"{}".to_vec())).unwrap().to_bytes();
        for len in 0..bytes.len() {
            let error = Layout::from_bytes(&bytes[..len], 0, &Limits::default()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{len}: {error}");
        }
    }

    #[test]
    fn a_header_over_the_hard_limit_is_invalid_even_without_limits_of_the_reader() {
        let mut bytes = Layout::new(vec![file("a.safetensors")], None).unwrap().to_bytes();
        bytes[21..29].copy_from_slice(&100_000_009_u64.to_le_bytes());
        for limits in [Limits::unlimited(), Limits::default()] {
            let error = Layout::from_bytes(&bytes, 50, &limits).unwrap_err();
            assert_eq!((error.class(), error.field, error.offset), (ErrorClass::Invalid, "header_len", 71));
        }
        bytes[21..29].copy_from_slice(&1001_u64.to_le_bytes());
        let limits = Limits { header_bytes: 1000, ..Limits::default() };
        let error = Layout::from_bytes(&bytes, 50, &limits).unwrap_err();
        assert_eq!((error.class(), error.offset), (ErrorClass::Limit, 71));
    }

    #[test]
    fn no_files_two_of_a_name_and_a_header_over_the_hard_limit_make_no_layout() {
        assert_eq!(Layout::new(Vec::new(), None), Err(LayoutError::Empty));
        let name = "a.safetensors";
        let twice = vec![file(name), file("b.safetensors"), file(name)];
        assert_eq!(Layout::new(twice, None), Err(LayoutError::Duplicate(name.into())));
        let of_header = |len| Layout::new(vec![FileLayout { header: vec![0; len], ..file(name) }], None);
        assert!(of_header(100_000_008).is_ok());
        let len = 100_000_009;
        assert_eq!(of_header(len), Err(LayoutError::HeaderLength { name: name.into(), len }));
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in [
            "../a.safetensors",
            "/a.safetensors",
            "a\\b.safetensors",
            ".a.safetensors",
            "a.json",
            "",
            "a\n.safetensors",
        ] {
            assert!(matches!(Layout::new(vec![file(name)], None), Err(LayoutError::Name(_))), "{name:?}");
        }
    }
}
