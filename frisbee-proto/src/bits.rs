//! A fixed-length bit set that is scanned from any position.

/// Bits numbered from 0, all clear at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

/// Where bit `index` stands: word and mask.
fn place(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

impl Bits {
    /// `len` clear bits.
    pub(crate) fn new(len: u32) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
            count: 0,
        }
    }

    /// `len` set bits.
    pub(crate) fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64) as usize];
        if let (Some(last), 1..) = (words.last_mut(), len % 64) {
            *last = (1 << (len % 64)) - 1;
        }
        Self {
            words,
            len,
            count: len,
        }
    }

    /// Number of set bits.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Whether no bit is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every bit is set.
    pub(crate) fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// A bit; false beyond the end.
    pub(crate) fn get(&self, index: u32) -> bool {
        let (word, mask) = place(index);
        self.words.get(word).is_some_and(|bits| bits & mask != 0)
    }

    /// Sets a bit; true if it was clear. Nothing beyond the end.
    pub(crate) fn set(&mut self, index: u32) -> bool {
        let (word, mask) = place(index);
        let new = index < self.len && self.words[word] & mask == 0;
        if new {
            self.words[word] |= mask;
            self.count += 1;
        }
        new
    }

    /// Clears a bit; true if it was set.
    pub(crate) fn clear(&mut self, index: u32) -> bool {
        let old = self.get(index);
        if old {
            let (word, mask) = place(index);
            self.words[word] &= !mask;
            self.count -= 1;
        }
        old
    }

    /// The first set bit at or after `from`.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        self.scan(from, |word| word)
    }

    /// The first clear bit at or after `from`.
    pub(crate) fn next_clear(&self, from: u32) -> Option<u32> {
        self.scan(from, |word| !word)
    }

    fn scan(&self, from: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        if from >= self.len {
            return None;
        }
        let (mut word, mask) = place(from);
        let mut bits = view(self.words[word]) & !(mask - 1);
        while bits == 0 {
            word += 1;
            bits = view(*self.words.get(word)?);
        }
        let index = u32::try_from(word).ok()? * 64 + bits.trailing_zeros();
        (index < self.len).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_vector_of_booleans(len in 0u32..300, ops in prop::collection::vec((any::<bool>(), 0u32..320), 0..200)) {
            for full in [false, true] {
                let mut bits = if full { Bits::full(len) } else { Bits::new(len) };
                let mut model = vec![full; len as usize];
                for &(set, index) in &ops {
                    let changed = model.get(index as usize).is_some_and(|&old| old != set);
                    prop_assert_eq!(if set { bits.set(index) } else { bits.clear(index) }, changed);
                    if changed { model[index as usize] = set; }
                }
                let set: Vec<u32> = (0..len).filter(|&i| model[i as usize]).collect();
                prop_assert_eq!((0..len).filter(|&i| bits.get(i)).collect::<Vec<_>>(), &*set);
                prop_assert_eq!(bits.count() as usize, set.len());
                prop_assert_eq!(bits.is_full(), set.len() == model.len());
                for from in 0..len + 2 {
                    prop_assert_eq!(bits.next(from), (from..len).find(|&i| model[i as usize]));
                    prop_assert_eq!(bits.next_clear(from), (from..len).find(|&i| !model[i as usize]));
                }
            }
        }
    }
}
