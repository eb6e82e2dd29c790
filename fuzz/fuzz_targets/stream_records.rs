//! See `fuzz::stream_records` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::stream_records(bytes));
