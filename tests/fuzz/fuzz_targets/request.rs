//! See `axis_fuzz::request`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::request::run(input));
