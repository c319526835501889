//! Target `exfat`: see fuzz/harness/src/disk.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { fuzz_harness::disk::bases("exfat"); }, |data: &[u8]| {
    fuzz_harness::disk::exfat(data);
});
