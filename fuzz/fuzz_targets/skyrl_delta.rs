//! See `fuzz::skyrl_delta` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::skyrl_delta(bytes));
