//! See `axis_fuzz::snapshot`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::snapshot::run(input));
