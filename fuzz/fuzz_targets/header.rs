//! Target `header`: see fuzz/harness/src/header.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::header::feed(data);
});
