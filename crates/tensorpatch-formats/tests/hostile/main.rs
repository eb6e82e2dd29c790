//! Bytes that are none of the formats, or break one rule of one: each is refused, by the check that is for
//! it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests may panic")]

mod files;
mod grail;
mod index_delta;
mod nemo_rl;
mod skyrl;
mod trl;
mod writing;

use std::fmt::Display;

use serde_json::{Value, json};
use tensorpatch_format::{Dtype, Limits, TensorSpec};
use tensorpatch_testkit::{FileStyle, Tensor, file_bytes};

/// Says that something was refused in these words.
#[track_caller]
fn refused<T, E: Display>(result: Result<T, E>, words: &str) {
    match result {
        Ok(_) => panic!("not refused; expected: {words}"),
        Err(error) => assert!(error.to_string().contains(words), "{error}; expected: {words}"),
    }
}

fn spec(name: &str, dtype: &str, shape: &[u64]) -> TensorSpec {
    TensorSpec::new(name, Dtype::new(dtype).unwrap(), shape.to_vec()).unwrap()
}

/// A safetensors file of these tensors.
fn file(tensors: &[Tensor], metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    file_bytes(&tensors.iter().collect::<Vec<_>>(), &FileStyle { metadata, ..FileStyle::default() })
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// A row of bytes called `name`.
fn row(name: &str, bytes: &[u8]) -> Tensor {
    Tensor::new(name, "U8", &[bytes.len() as u64], bytes.to_vec())
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Limits of which one is small.
fn limits(lower: impl Fn(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    lower(&mut limits);
    limits
}

/// The value at a path of keys such as `tensors/0/name`, to be replaced.
fn at<'v>(value: &'v mut Value, path: &str) -> &'v mut Value {
    value.pointer_mut(&format!("/{path}")).unwrap()
}

/// A copy with one value replaced, or removed if there is none to take its place.
fn edited(value: &Value, path: &str, new: Value) -> Value {
    let mut value = value.clone();
    if new.is_null() {
        let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { &mut value } else { at(&mut value, parent) };
        parent.as_object_mut().unwrap().remove(key).unwrap();
    } else {
        *at(&mut value, path) = new;
    }
    value
}

/// What removes a value, given to [`edited`].
fn removed() -> Value {
    json!(null)
}
