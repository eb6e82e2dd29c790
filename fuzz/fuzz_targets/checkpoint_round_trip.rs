//! See `fuzz::checkpoint_round_trip` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::checkpoint_round_trip(bytes));
