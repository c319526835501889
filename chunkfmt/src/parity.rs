//! Parity blocks of a chunk: what a server can send in place of any blocks that were lost (docs/FORMAT.md,
//! section 12). They are not stored; the manifest holds their root.

use reed_solomon_simd::ReedSolomonEncoder;

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
        let limit = |error: reed_solomon_simd::Error| Error::Limit {
            field: "parity blocks",
            detail: error.to_string(),
        };
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
