//! See `fuzz::decode_chunk` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::decode_chunk(bytes));
