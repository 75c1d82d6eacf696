//! See `axis_fuzz::text`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::text::run(input));
