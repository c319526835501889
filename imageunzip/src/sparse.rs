//! What of data has to be written to a file that is all zeros: the file then takes no more room than the data need.

use std::ops::Range;

/// Bytes that are looked at together: what filesystems allocate.
const BLOCK: usize = 4096;

/// What a block is compared with.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The parts of `data` that are not zeros, block by block, neighbours together.
pub(crate) fn runs(data: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_zero = |block: &[u8]| ZEROS.starts_with(block);
        let rest = data.get(at..)?;
        let skipped = rest
            .chunks(BLOCK)
            .take_while(|block| is_zero(block))
            .count();
        let start = at + skipped * BLOCK;
        let rest = data.get(start..).filter(|rest| !rest.is_empty())?;
        let blocks = rest
            .chunks(BLOCK)
            .take_while(|block| !is_zero(block))
            .count();
        at = (start + blocks * BLOCK).min(data.len());
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The runs hold everything that is not zero, and no whole block of zeros.
        #[test]
        fn runs_hold_all_data(
            islands in prop::collection::vec((0_usize..60_000, 1_usize..9000), 0..6),
            length in 0_usize..70_000,
        ) {
            let mut data = vec![0; length];
            for (at, bytes) in islands {
                let end = (at + bytes).min(length);
                if at < end {
                    data[at..end].fill(7);
                }
            }
            let mut copy = vec![0; length];
            let mut before = None;
            for run in runs(&data) {
                prop_assert!(before.is_none_or(|end| end < run.start) && run.start < run.end);
                for block in data[run.clone()].chunks(BLOCK) {
                    prop_assert!(block.iter().any(|&byte| byte != 0));
                }
                copy[run.clone()].copy_from_slice(&data[run.clone()]);
                before = Some(run.end);
            }
            prop_assert!(copy == data);
        }
    }
}
