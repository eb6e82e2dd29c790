//! See `fuzz::decoders_agree` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::decoders_agree(bytes));
