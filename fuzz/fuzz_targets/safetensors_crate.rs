//! See `fuzz::safetensors_crate` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::safetensors_crate(bytes));
