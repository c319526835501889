//! Telling a block device that a range is not used any more (`BLKDISCARD`, Linux `block/ioctl.c`).
//!
//! Of all that a disk can be asked for, this alone has neither a system call nor a library with a safe function.
#![allow(unsafe_code, reason = "an ioctl, see above")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// `_IO(0x12, 119)` of linux/fs.h.
const BLKDISCARD: libc::c_ulong = 0x1277;

nix::ioctl_write_ptr_bad!(blkdiscard, BLKDISCARD, [u64; 2]);

/// Discards bytes of a block device, whole sectors. What is read there afterwards is not defined.
///
/// # Errors
/// If the device cannot, or refuses.
pub(crate) fn discard(device: &File, start: u64, length: u64) -> nix::Result<()> {
    let range = [start, length];
    // SAFETY: the descriptor is open for as long as the borrow, and the kernel reads two numbers of 64 bits from the
    // pointer, which is that of an array of them; it writes nothing.
    unsafe { blkdiscard(device.as_raw_fd(), &raw const range) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "tests")]
    fn what_is_no_device_refuses() {
        assert_eq!(
            discard(&tempfile::tempfile().unwrap(), 0, 512),
            Err(nix::Error::ENOTTY)
        );
    }
}
