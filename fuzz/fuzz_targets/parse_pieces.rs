//! See `fuzz::parse_pieces` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::parse_pieces(bytes));
