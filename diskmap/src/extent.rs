//! Runs of sectors (or blocks): sorted lists and their algebra.

/// A run of `count` sectors from sector `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
}

impl Extent {
    /// The sector after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// Whether `other` lies wholly inside.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }

    pub(crate) fn between(first: u64, end: u64) -> Option<Self> {
        let count = end.checked_sub(first).filter(|&count| count > 0)?;
        Some(Self { first, count })
    }
}

/// Sorts, merges what touches or overlaps, and drops what is empty.
pub(crate) fn normalize(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.retain(|extent| extent.count > 0);
    extents.sort_unstable();
    extents.dedup_by(|next, last| {
        let merge = next.first <= last.end();
        if merge {
            last.count = last.end().max(next.end()).saturating_sub(last.first);
        }
        merge
    });
    extents
}

/// `from` without `cut`. Both, and the result, are normalized.
pub(crate) fn subtract(from: &[Extent], cut: &[Extent]) -> Vec<Extent> {
    let mut rest = Vec::new();
    let mut cuts = cut.iter().peekable();
    for extent in from {
        let mut first = extent.first;
        while cuts.next_if(|cut| cut.end() <= first).is_some() {}
        // A cut that reaches past this extent stays for the next one.
        while let Some(cut) = cuts.peek().filter(|cut| cut.first < extent.end()) {
            rest.extend(Extent::between(first, cut.first));
            first = cut.end();
            if cut.end() > extent.end() {
                break;
            }
            cuts.next();
        }
        rest.extend(Extent::between(first, extent.end()));
    }
    rest
}

/// What is in both. Both, and the result, are normalized.
pub(crate) fn intersect(one: &[Extent], other: &[Extent]) -> Vec<Extent> {
    subtract(one, &subtract(one, other))
}

/// Sectors of the normalized `extents` that lie inside `range`.
pub(crate) fn count_inside(extents: &[Extent], range: &Extent) -> u64 {
    let start = extents.partition_point(|extent| extent.end() <= range.first);
    extents
        .iter()
        .skip(start)
        .map_while(|extent| {
            Extent::between(extent.first.max(range.first), extent.end().min(range.end()))
        })
        .map(|extent| extent.count)
        .sum()
}

/// Free runs in ascending order, bounded in number.
///
/// A list of free runs can always be shortened: what is not in it is saved. So when it is full,
/// the shortest runs go, and the memory for a hostile or badly fragmented disk stays bounded.
#[derive(Debug)]
pub(crate) struct FreeRuns {
    runs: Vec<Extent>,
    shortest: u64,
    limit: usize,
}

impl Default for FreeRuns {
    fn default() -> Self {
        Self::with_limit(Self::LIMIT)
    }
}

impl FreeRuns {
    /// At 16 bytes each, 64 MiB.
    pub(crate) const LIMIT: usize = 4 << 20;

    fn with_limit(limit: usize) -> Self {
        Self {
            runs: Vec::new(),
            shortest: 1,
            limit,
        }
    }

    /// Adds a run that begins at or after the end of the last one.
    pub(crate) fn push(&mut self, run: Extent) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first => {
                last.count = last.count.saturating_add(run.count);
            }
            _ if run.count < self.shortest => {}
            _ => self.runs.push(run),
        }
        while self.runs.len() > self.limit {
            self.shortest = self.shortest.saturating_mul(2);
            let shortest = self.shortest;
            self.runs.retain(|run| run.count >= shortest);
        }
    }

    /// Adds what lies in `space` outside of `used`, which is normalized. Begins at or after the
    /// end of the last run.
    pub(crate) fn push_gaps(&mut self, space: Extent, used: &[Extent]) {
        let mut first = space.first;
        for extent in used {
            if let Some(gap) = Extent::between(first, extent.first.min(space.end())) {
                self.push(gap);
            }
            first = first.max(extent.end());
        }
        if let Some(gap) = Extent::between(first, space.end()) {
            self.push(gap);
        }
    }

    /// The runs and more, in whatever order these come.
    pub(crate) fn with(self, more: impl IntoIterator<Item = Extent>) -> Self {
        let Self {
            runs,
            shortest,
            limit,
        } = self;
        let mut all = Self {
            runs: Vec::new(),
            shortest,
            limit,
        };
        for run in normalize(runs.into_iter().chain(more).collect()) {
            all.push(run);
        }
        all
    }

    /// The runs without what is in `cut`, which is normalized.
    pub(crate) fn without(self, cut: &[Extent]) -> Self {
        Self {
            runs: subtract(&self.runs, cut),
            ..self
        }
    }

    pub(crate) fn runs(&self) -> &[Extent] {
        &self.runs
    }

    /// Whether runs were dropped, and are saved.
    pub(crate) fn is_thinned(&self) -> bool {
        self.shortest > 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    const SPACE: u64 = 96;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        prop::collection::vec((0..SPACE - 20, 0..20_u64), 0..12).prop_map(|pairs| {
            pairs
                .into_iter()
                .map(|(first, count)| Extent { first, count })
                .collect()
        })
    }

    fn bits(extents: &[Extent]) -> Vec<bool> {
        (0..SPACE)
            .map(|at| extents.iter().any(|e| e.first <= at && at < e.end()))
            .collect()
    }

    fn is_normal(extents: &[Extent]) -> bool {
        extents.iter().all(|e| e.count > 0)
            && extents.windows(2).all(|pair| pair[0].end() < pair[1].first)
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn normalize_keeps_the_sectors(list in extents()) {
            let normal = normalize(list.clone());
            prop_assert!(is_normal(&normal));
            prop_assert_eq!(bits(&normal), bits(&list));
        }

        #[test]
        fn subtract_agrees_with_bitmaps(from in extents(), cut in extents()) {
            let (from, cut) = (normalize(from), normalize(cut));
            let rest = subtract(&from, &cut);
            let model: Vec<bool> =
                bits(&from).iter().zip(bits(&cut)).map(|(&a, b)| a && !b).collect();
            prop_assert!(is_normal(&rest));
            prop_assert_eq!(bits(&rest), model);
        }

        #[test]
        fn count_inside_agrees_with_bitmaps(list in extents(), first in 0..SPACE, count in 0..SPACE) {
            let range = Extent { first, count };
            let list = normalize(list);
            let model = bits(&list).iter().zip(bits(&[range])).filter(|&(&a, b)| a && b).count();
            prop_assert_eq!(count_inside(&list, &range), u64::try_from(model).unwrap());
        }

        #[test]
        fn a_full_list_only_forgets(list in extents()) {
            let list = normalize(list);
            let mut runs = FreeRuns::with_limit(3);
            list.iter().for_each(|&run| runs.push(run));
            prop_assert!(runs.runs().len() <= 3);
            prop_assert!(runs.runs().iter().all(|run| list.contains(run)));
            prop_assert!(runs.is_thinned() || runs.runs() == list);
        }
    }

    #[test]
    fn touching_runs_become_one() {
        let mut runs = FreeRuns::default();
        runs.push(Extent { first: 3, count: 2 });
        runs.push(Extent { first: 5, count: 4 });
        assert_eq!(runs.runs(), [Extent { first: 3, count: 6 }]);
    }
}
