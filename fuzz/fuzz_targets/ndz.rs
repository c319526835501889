//! Target `ndz`: see fuzz/harness/src/ndz.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::ndz::feed(data);
});
