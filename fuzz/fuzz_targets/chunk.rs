//! Target `chunk`: see fuzz/harness/src/chunk.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::chunk::feed(data);
});
