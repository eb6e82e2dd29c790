//! See `fuzz::nemo_rl_delta` in the test kit.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tensorpatch_testkit::fuzz::nemo_rl_delta(bytes));
