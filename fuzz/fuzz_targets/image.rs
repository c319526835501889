//! Target `image`: see fuzz/harness/src/image.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::image::feed(data);
});
