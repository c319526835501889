//! Target `manifest`: see fuzz/harness/src/manifest.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::manifest::feed(data);
});
