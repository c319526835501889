//! Target `layout`: see fuzz/harness/src/layout.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::layout::feed(data);
});
