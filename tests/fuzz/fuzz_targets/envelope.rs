//! See `axis_fuzz::envelope`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| axis_fuzz::envelope::run(input));
