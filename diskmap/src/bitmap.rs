//! Runs of zero bits in a block bitmap, 64 bits at a time.

/// Calls `emit(first, count)` for each run of zeros among the first `bits` bits, in order. Bit 0
/// is the lowest of byte 0; a bit past the end of `bitmap` counts as one.
pub(crate) fn zero_runs(bitmap: &[u8], bits: u32, mut emit: impl FnMut(u32, u32)) {
    let mut position = 0;
    while let Some(first) = next(bitmap, position, bits, false) {
        let end = next(bitmap, first, bits, true).unwrap_or(bits);
        emit(first, end - first);
        position = end;
    }
}

/// Sets `count` bits from `first`.
pub(crate) fn set(bitmap: &mut [u8], first: u64, count: u64) {
    for bit in first..first + count {
        let byte = usize::try_from(bit / 8)
            .ok()
            .and_then(|index| bitmap.get_mut(index));
        if let Some(byte) = byte {
            *byte |= 1 << (bit % 8);
        }
    }
}

/// The first bit from `position` on that has the value `wanted`.
fn next(bitmap: &[u8], position: u32, bits: u32, wanted: bool) -> Option<u32> {
    let mut base = position & !63;
    let mut skip = position - base;
    while base < bits {
        let word = word(bitmap, base);
        let hits = (if wanted { word } else { !word }) & (u64::MAX << skip);
        if hits != 0 {
            let found = base + hits.trailing_zeros();
            return (found < bits).then_some(found);
        }
        base += 64;
        skip = 0;
    }
    None
}

fn word(bitmap: &[u8], bit: u32) -> u64 {
    let start = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    let mut bytes = [0xff; 8];
    if let Some(rest) = bitmap.get(start..) {
        let len = rest.len().min(8);
        bytes[..len].copy_from_slice(&rest[..len]);
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    fn runs(bitmap: &[u8], bits: u32) -> Vec<(u32, u32)> {
        let mut list = Vec::new();
        zero_runs(bitmap, bits, |first, count| list.push((first, count)));
        list
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn runs_are_the_zero_bits(
            bitmap in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 0..40),
            bits in 0..330_u32,
        ) {
            let free = |bit: u32| {
                bitmap.get(bit as usize / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 0)
            };
            let expected: Vec<u32> = (0..bits).filter(|&bit| free(bit)).collect();
            let list = runs(&bitmap, bits);
            let found: Vec<u32> =
                list.iter().flat_map(|&(first, count)| first..first + count).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(list.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
        }

        #[test]
        fn set_bits_are_not_free(first in 0..200_u64, count in 0..200_u64) {
            let mut bitmap = [0; 32];
            set(&mut bitmap, first, count);
            let used = 256_u64.min(first + count).saturating_sub(first);
            let free: u32 = runs(&bitmap, 256).iter().map(|run| run.1).sum();
            prop_assert_eq!(u64::from(free), 256 - used);
        }
    }
}
