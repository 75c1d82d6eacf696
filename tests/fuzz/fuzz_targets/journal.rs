//! See `axis_fuzz::journal`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::journal::run(input));
