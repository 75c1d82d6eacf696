//! See `axis_fuzz::upload`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::upload::run(input));
