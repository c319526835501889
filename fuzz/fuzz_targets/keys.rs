//! Target `keys`: see fuzz/harness/src/keys.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::keys::feed(data);
});
