//! What can run code in whoever loads it, by its name and by its first bytes.
//!
//! Both are needed: some loaders go by the name, and others look into whatever file they are given. What a
//! person can read before it runs is none of this, such as Python modules and templates.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pickles, archives with pickles or code in them, and machine code.
const CODE: [&str; 43] = [
    "bin",
    "pt",
    "pt2",
    "pth",
    "ptl",
    "ptc",
    "th",
    "torch",
    "t7",
    "ckpt",
    "pkl",
    "pickle",
    "p",
    "pk",
    "pckl",
    "cloudpickle",
    "dill",
    "joblib",
    "sav",
    "npy",
    "npz",
    "h5",
    "hdf5",
    "keras",
    "nemo",
    "mar",
    "distcp",
    "pdparams",
    // Modules and programs that nobody can read before they run.
    "pyc",
    "pyo",
    "pyd",
    "pyz",
    "whl",
    "egg",
    "so",
    "dylib",
    "dll",
    "node",
    "exe",
    "jar",
    "class",
    "wasm",
    "zip",
];
/// What is compressed is what it is named within.
const COMPRESSED: [&str; 11] = ["gz", "gzip", "tgz", "xz", "lzma", "bz2", "z", "zlib", "zst", "zstd", "lz4"];
/// Formats that are text, so that nothing in them is loaded as anything else.
const TEXT: [&str; 22] = [
    "json", "jsonl", "txt", "text", "md", "rst", "yaml", "yml", "toml", "ini", "cfg", "csv", "tsv", "html",
    "xml", "jinja", "jinja2", "j2", "py", "tiktoken", "vocab", "merges",
];

/// Formats of which a part before may be a language, such as `spm.pt.model`, and no format.
const OTHER: [&str; 11] = ["model", "spm", "bpe", "png", "jpg", "jpeg", "gif", "svg", "webp", "pdf", "wav"];

/// The first bytes of pickles, machine code, archives, and formats that hold pickles or code.
const BINARY: [&[u8]; 17] = [
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\0asm",
    b"BC\xc0\xde",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x89HDF\r\n\x1a\n",
    b"\x93NUMPY",
    b"MZ",
];
/// The first bytes of what is compressed: by gzip, xz, bzip2, zstd, LZ4, LZMA and zlib.
const PACKED: [&[u8]; 10] = [
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"BZh",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"\x5d\0\0",
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
];
/// Where modules that Python has compiled have these bytes, after two of their version.
const COMPILED: &[u8] = b"\r\n";
/// How much of a file is looked at.
const LOOKED_AT: usize = 4096;

/// Whether a file of this name is of a format that can run code in whoever loads it.
///
/// Every part of the name counts, as in `optimizer.pth.tar` and `libx.so.1`, unless the last one is a format
/// that is loaded as nothing else. What is compressed must say that it is text.
pub fn runs_code(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let mut parts: Vec<&str> = name.split('.').skip(1).collect();
    let is = |known: &[&str], part: Option<&&str>| part.is_some_and(|part| known.contains(part));
    if is(&TEXT, parts.last()) || is(&OTHER, parts.last()) {
        return false;
    }
    if is(&COMPRESSED, parts.last()) {
        parts.pop();
        return !is(&TEXT, parts.last());
    }
    parts.iter().any(|part| CODE.contains(part))
}

/// Whether a file holds what can run code in whoever loads it, by its name and its first bytes: a pickle of
/// protocol 2 or later, machine code, an archive; or something compressed whose name does not say that it is
/// text.
///
/// # Errors
/// If it cannot be read.
pub fn holds_code(name: &str, file: &File) -> io::Result<bool> {
    if runs_code(name) {
        return Ok(true);
    }
    let (mut head, mut filled) = ([0; LOOKED_AT], 0);
    while let Some(room) = head.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(is_code(name, head.get(..filled).unwrap_or_default()))
}

fn is_code(name: &str, head: &[u8]) -> bool {
    let begins = |all: &[&[u8]]| all.iter().any(|first| head.starts_with(first));
    let is_compiled = head.get(2..4) == Some(COMPILED);
    if is_text(head) || !(begins(&BINARY) || begins(&PACKED) || is_compiled) {
        return false;
    }
    // Its name has said that it is text within.
    let is_compressed = |name: &str| {
        let last = name.rsplit_once('.').map(|(_, last)| last.to_ascii_lowercase());
        last.is_some_and(|last| COMPRESSED.contains(&last.as_str()))
    };
    !(begins(&PACKED) && is_compressed(name))
}

/// Whether a file that begins like this is text, which may begin with letters that mean something else.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Cut in the middle of a character.
        Err(error) if error.error_len().is_none() => {
            let whole = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars().all(|char| !char.is_control() || matches!(char, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_name_counts_unless_the_last_is_text() {
        let code = [
            "a.bin",
            "d/optimizer.pth.tar",
            "scaler.pkl.gz",
            "v.JOBLIB.gz",
            "m.joblib.z",
            "model.pkl.xz",
            "classifier.sav",
            "model.th",
            "model.torch",
            "libkernels.so.1.2",
            "kernel.node",
            "data.gz",
            "x.abc.zst",
        ];
        let none = [
            "config.json",
            "merges.txt.gz",
            "pytorch_model.bin.index.json",
            "modeling_x.py",
            "tokenizer.model",
            "bin",
            "d.pt/vocab.txt",
            "spm.pt.model",
            "README",
        ];
        for name in code {
            assert!(runs_code(name), "{name}");
        }
        for name in none {
            assert!(!runs_code(name), "{name}");
        }
    }

    #[test]
    fn code_is_told_by_its_first_bytes_and_text_that_begins_like_it_is_not() {
        let code: [(&str, &[u8]); 11] = [
            ("a", b"\x80\x04\x95"),
            ("config.json", b"\x80\x02}"),
            ("training_args", b"PK\x03\x04\x14\0"),
            ("kernel.abi3", b"\x7fELF\x02\x01\x01\0"),
            ("kernel", b"MZ\x90\0"),
            ("kernel", b"\xcf\xfa\xed\xfe\x07\0"),
            ("module", b"a\r\r\n\0\0\0\0"),
            ("a", b"\x1f\x8b\x08\0"),
            ("a.dat", b"x\x9c\x8b\x0e"),
            ("a.txt", b"x^\x8b\x0e\0"),
            ("a.json", b"BZh91AY&SY\0"),
        ];
        let none: [(&str, &[u8]); 7] = [
            ("a", b""),
            ("spiece.model", b"\n\x0e\n\x05<unk>\x15\0\0"),
            ("merges.txt.gz", b"\x1f\x8b\x08\0"),
            ("a.txt", b"x^2 + y^2"),
            ("a.md", b"MZ is a sign\n"),
            ("a.md", "BZh \u{e9}".as_bytes()),
            ("a.txt", b"ab\r\ncd\r\n"),
        ];
        for (name, head) in code {
            assert!(is_code(name, head), "{name} {head:?}");
        }
        for (name, head) in none {
            assert!(!is_code(name, head), "{name} {head:?}");
        }
    }
}
