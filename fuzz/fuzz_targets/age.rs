//! Target `age`: see fuzz/harness/src/age.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::age::feed(data);
});
