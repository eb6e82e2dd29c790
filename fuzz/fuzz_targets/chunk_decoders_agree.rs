//! See `fuzz::chunk_decoders_agree` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::chunk_decoders_agree(bytes));
