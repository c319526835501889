//! Target `f2fs`: see fuzz/harness/src/disk.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { fuzz_harness::disk::bases("f2fs"); }, |data: &[u8]| {
    fuzz_harness::disk::f2fs(data);
});
