//! See `axis_fuzz::record`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::record::run(input));
