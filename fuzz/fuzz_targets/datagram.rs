//! Target `datagram`: see fuzz/harness/src/datagram.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_harness::datagram::feed(data);
});
