//! What stands at the beginning of a disk while it is being installed: text for whoever looks at it, and for the next
//! run, which then compares the disk with the image and goes on where this one was stopped.
//!
//! The marker only tells that comparing is worth while. What is right on the disk is decided by the image's hashes.

use std::str;

use uuid::Uuid;

/// Bytes of the marker: the smallest sector, which is written whole or not at all.
pub(crate) const LENGTH: usize = 512;

const BEFORE: &str = "frisbee: this disk is incomplete: the installation of image ";
const AFTER: &str = " was interrupted. Run it again: what is on the disk already stays.\n";

/// The marker of an installation of this image.
pub(crate) fn write(uuid: Uuid) -> [u8; LENGTH] {
    let mut block = [0; LENGTH];
    let text = format!("{BEFORE}{uuid}{AFTER}");
    // Half of it is used. Without a boot signature at its end, no firmware takes it for code.
    for (place, byte) in block.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    block
}

/// The image of which a disk that begins like this is being installed.
pub(crate) fn parse(block: &[u8]) -> Option<Uuid> {
    let text = block.strip_prefix(BEFORE.as_bytes())?;
    let uuid = text.get(..uuid::fmt::Hyphenated::LENGTH)?;
    let uuid = Uuid::try_parse(str::from_utf8(uuid).ok()?).ok()?;
    (*block == write(uuid)).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_a_whole_marker_is_one(number: u128, at in 0..LENGTH, flip in 1_u8..) {
            let uuid = Uuid::from_u128(number);
            let mut block = write(uuid);
            prop_assert_eq!(parse(&block), Some(uuid));
            prop_assert_eq!(&block[LENGTH - 2..], &[0, 0], "no boot signature");
            block[at] ^= flip;
            prop_assert_ne!(parse(&block), Some(uuid));
        }

        #[test]
        fn anything_else_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..LENGTH)) {
            prop_assert_eq!(parse(&bytes), None);
        }
    }
}
