//! Other kinds of files, and directories of other shapes, where a checkpoint should be.

use crate::support::{file_of, one_tensor, open, put};
use tensorpatch_checkpoint::{CheckpointError, ForeignFile};

#[test]
fn files_of_other_kinds_are_told_by_their_first_bytes() {
    let directory = tempfile::tempdir().unwrap();
    for (bytes, expected) in [
        (&b""[..], ForeignFile::Empty),
        (&[0; 5000], ForeignFile::Zeros),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ForeignFile::LfsPointer),
        (b"<!DOCTYPE html><html></html>", ForeignFile::Html),
        (b"\n<html>", ForeignFile::Html),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", ForeignFile::Xml),
        (b"{\"error\":\"Unauthorized\"}", ForeignFile::Json),
        (b"PK\x03\x04\0\0\x08\x08\0\0", ForeignFile::Zip),
        (b"\x80\x02}q\0X\x01\0\0", ForeignFile::Pickle),
        (b"GGUF\x03\0\0\0\0\0\0\0", ForeignFile::Gguf),
        (b"\x89HDF\r\n\x1a\n", ForeignFile::Hdf5),
        (b"\x93NUMPY\x01\0v\0", ForeignFile::Numpy),
        (b"\x1f\x8b\x08\x08abcd", ForeignFile::Compressed),
        (b"\x89TPATCH\n\x01\0", ForeignFile::Patch),
    ] {
        let path = put(directory.path(), "model.safetensors", bytes);
        for opened in [path.as_path(), directory.path()] {
            match open(opened) {
                Err(CheckpointError::Foreign { path: found_at, found, bytes: len }) => {
                    assert_eq!((found_at, found, len), (path.clone(), expected, bytes.len() as u64));
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_safetensors_file_that_is_cut_or_broken_is_not_taken_for_another_kind() {
    let directory = tempfile::tempdir().unwrap();
    let whole = one_tensor("t", 4);
    let path = put(directory.path(), "t.safetensors", &whole[..whole.len() - 1]);
    assert!(matches!(open(&path), Err(CheckpointError::Header { .. })));
    put(directory.path(), "t.safetensors", &whole[..20]);
    assert!(matches!(open(&path), Err(CheckpointError::Header { .. })));
    // Lengths whose lowest bytes are those of a pickle, of gzip, and of a web page.
    for len in [0x0280, 0x088b1f, u64::from(b'<')] {
        let json = " ".repeat(usize::try_from(len).unwrap());
        put(directory.path(), "t.safetensors", &file_of(&json, 0));
        assert!(matches!(open(&path), Err(CheckpointError::Header { .. })), "{len}");
    }
}

#[test]
fn the_only_safetensors_file_of_a_directory_is_its_checkpoint_and_keeps_its_name() {
    for name in ["adapter_model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"] {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), name, &one_tensor("t", 4));
        put(directory.path(), "adapter_config.json", b"{}");
        let checkpoint = open(directory.path()).unwrap();
        assert_eq!(checkpoint.layout().files()[0].name, name);
        assert_eq!(checkpoint.companions(&[]).unwrap().carried[0].name, "adapter_config.json");
    }
}

#[test]
fn a_directory_that_is_no_checkpoint_is_refused_with_what_is_there_and_what_to_do() {
    for (files, words) in [
        (&[][..], &["no safetensors file", "give the directory"][..]),
        (&["pytorch_model.bin", "x.gguf"], &["pytorch_model.bin, x.gguf", "convert"]),
        (&["unet/a.safetensors", "vae/b.safetensors"], &["unet/, vae/", "give one of them"]),
        (&["a.safetensors", "b.safetensors"], &["a.safetensors, b.safetensors", "by its path"]),
        (&["model-00001-of-00002.safetensors"], &["one shard of several", "fetch all files"]),
        (
            &["a.safetensors", "diffusion_pytorch_model.safetensors.index.json"],
            &["diffusion_pytorch_model.safetensors.index.json", "rename"],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        for name in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, one_tensor("t", 4)).unwrap();
        }
        match open(directory.path()) {
            Err(CheckpointError::NotACheckpoint { found, .. }) => {
                words.iter().for_each(|word| assert!(found.contains(word), "{word:?} in {found}"));
            }
            other => panic!("{files:?}: {other:?}"),
        }
    }
}
