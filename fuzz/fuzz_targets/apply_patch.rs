//! See `fuzz::apply_patch` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::apply_patch(bytes));
