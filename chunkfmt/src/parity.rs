//! Parity blocks of a chunk: what a server can send in place of any blocks that were lost (docs/FORMAT.md,
//! section 12). They are not stored; the manifest holds their root.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::tree::Cv;
use crate::{BLOCK_SIZE, Error};

/// Most parity blocks of a chunk.
pub const PARITY_BLOCKS_MAX: u32 = 4096;

/// How many parity blocks this crate gives a chunk of `blocks` blocks: an eighth of them, at least 8.
///
/// So 10^6 receivers that each lose 1 % of the blocks are repaired in one pass, with a wide margin.
pub fn usual_count(blocks: u32) -> u32 {
    (blocks / 8).clamp(8, PARITY_BLOCKS_MAX)
}

/// Computes parity blocks; its memory is reused from chunk to chunk.
#[derive(Default)]
pub struct ParityEncoder(Option<ReedSolomonEncoder>);

impl ParityEncoder {
    /// The first `count` parity blocks of `chunk`, which is a whole number of blocks, handed to `each` in order.
    ///
    /// # Errors
    /// [`Error::Limit`] if the code has no such parity.
    pub fn blocks(
        &mut self,
        chunk: &[u8],
        count: u32,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let (data, count) = (chunk.len() / BLOCK_SIZE, count as usize);
        let encoder = match &mut self.0 {
            Some(encoder) => {
                encoder.reset(data, count, BLOCK_SIZE).map_err(limit)?;
                encoder
            }
            none => none.insert(ReedSolomonEncoder::new(data, count, BLOCK_SIZE).map_err(limit)?),
        };
        for block in chunk.chunks_exact(BLOCK_SIZE) {
            encoder.add_original_shard(block).map_err(limit)?;
        }
        encoder
            .encode()
            .map_err(limit)?
            .recovery_iter()
            .for_each(&mut each);
        Ok(())
    }

    /// The BLAKE3 root over the first `count` parity blocks of `chunk`; zeros for none.
    ///
    /// # Errors
    /// As [`ParityEncoder::blocks`].
    pub fn root(&mut self, chunk: &[u8], count: u32) -> Result<Cv, Error> {
        if count == 0 {
            return Ok([0; 32]);
        }
        let mut all = Vec::with_capacity(count as usize * BLOCK_SIZE);
        self.blocks(chunk, count, |block| all.extend_from_slice(block))?;
        Ok(*blake3::hash(&all).as_bytes())
    }
}

/// Computes the blocks of a chunk that are missing. `data` is the number of its blocks, `count` that of the parity blocks
/// that its manifest names; `present` and `parity` are those that are there, with their numbers, together at least `data`.
/// Each missing block is handed to `each` with its number.
///
/// Nothing here can tell whether what is given is true: what comes of it has to be checked.
///
/// # Errors
/// [`Error::Limit`] if they are too few, or the code has no such parity.
pub fn restore<'a>(
    data: u32,
    count: u32,
    present: impl Iterator<Item = (u32, &'a [u8])>,
    parity: impl Iterator<Item = (u32, &'a [u8])>,
    mut each: impl FnMut(u32, &[u8]),
) -> Result<(), Error> {
    let (data, count) = (data as usize, count as usize);
    let mut decoder = ReedSolomonDecoder::new(data, count, BLOCK_SIZE).map_err(limit)?;
    for (index, block) in present {
        decoder
            .add_original_shard(index as usize, block)
            .map_err(limit)?;
    }
    for (index, block) in parity {
        decoder
            .add_recovery_shard(index as usize, block)
            .map_err(limit)?;
    }
    for (index, block) in decoder.decode().map_err(limit)?.restored_original_iter() {
        each(u32::try_from(index).unwrap_or(u32::MAX), block);
    }
    Ok(())
}

fn limit(error: reed_solomon_simd::Error) -> Error {
    Error::Limit {
        field: "parity blocks",
        detail: error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_blocks_give_the_chunk_if_they_are_as_many(data in 1_u32..300, seed in any::<u64>(), lost in 0_u32..60) {
            let mut random = proptest::test_runner::TestRng::from_seed(
                proptest::test_runner::RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
            let mut chunk = vec![0; data as usize * BLOCK_SIZE];
            random.fill_bytes(&mut chunk);
            let count = usual_count(data);
            let mut parity = Vec::new();
            ParityEncoder::default().blocks(&chunk, count, |block| parity.push(block.to_vec())).unwrap();
            let lost = lost.min(count).min(data);
            let mut numbers: Vec<u32> = (0..data).collect();
            for at in (1..numbers.len()).rev() {
                numbers.swap(at, random.next_u32() as usize % (at + 1));
            }
            let missing = &numbers[..lost as usize];
            let blocks = (0..data).zip(chunk.chunks(BLOCK_SIZE)).filter(|(index, _)| !missing.contains(index));
            let used = (0..count).rev().zip(parity.iter().rev().map(|block| &block[..])).take(lost as usize);
            let mut restored = BTreeMap::new();
            restore(data, count, blocks, used, |index, block| _ = restored.insert(index, block.to_vec())).unwrap();
            prop_assert_eq!(restored.len(), lost as usize);
            for (index, block) in restored {
                prop_assert_eq!(&block, &chunk[index as usize * BLOCK_SIZE..][..BLOCK_SIZE]);
            }
        }
    }

    #[test]
    fn too_few_are_refused() {
        let block = [0; BLOCK_SIZE];
        let present = [(0, &block[..])];
        let result = restore(2, 8, present.into_iter(), std::iter::empty(), |_, _| ());
        assert!(matches!(result, Err(Error::Limit { .. })));
    }
}
