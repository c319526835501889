//! What is inside a chunk's body: the span of the disk it is about, its regions, its data (docs/FORMAT.md, section 8).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::relocation::Relocation;
use crate::{Error, Part};

/// A run of sectors that one chunk answers for. What its regions leave out is free.
///
/// The spans of an image's chunks follow each other without gap or overlap from sector 0 to the disk's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Span {
    /// The sector after the last one.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.sectors)
    }
}

/// A run of sectors whose data is in the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First sector.
    pub first: u64,
    /// Number of sectors, at least 1.
    pub sectors: u32,
}

impl Region {
    /// The sector after the last one.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.sectors))
    }
}

/// What a chunk says about the disk, without the data: the *layout* of the format document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The sectors that the chunk answers for.
    pub span: Span,
    /// The sectors whose data it holds, sorted and disjoint; the rest of the span is free.
    pub regions: Vec<Region>,
    /// What has to be adapted to the place of a partition; empty but for images made from Emulab's.
    pub relocations: Vec<Relocation>,
}

impl Layout {
    /// A layout without relocations.
    pub fn new(span: Span, regions: Vec<Region>) -> Self {
        Self {
            span,
            regions,
            relocations: Vec::new(),
        }
    }

    /// Sectors in all regions.
    pub fn data_sectors(&self) -> u64 {
        self.regions
            .iter()
            .map(|region| u64::from(region.sectors))
            .sum()
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLayout {
    span_first: U64,
    span_sectors: U64,
    regions: U32,
    relocations: U32,
    zero: [u8; 8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRegion {
    gap: U32,
    sectors: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRelocation {
    kind: U32,
    offset: U32,
    sector: U64,
    size: U64,
}

/// Bytes of a layout without regions.
pub(crate) const LAYOUT_HEADER: usize = size_of::<RawLayout>();

/// Appends a layout to `out`.
///
/// # Errors
/// [`Error::Limit`] if the regions are not sorted, disjoint, inside the span, or more than 2^32 sectors apart, or a
/// relocation is not inside a region.
pub(crate) fn write(layout: &Layout, sector_size: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let span = layout.span;
    let limit = || Error::Limit {
        field: "regions",
        detail: format!("do not fit the span at sector {}", span.first),
    };
    let count = |length: usize| u32::try_from(length).map_err(|_| limit());
    let raw = RawLayout {
        span_first: span.first.into(),
        span_sectors: span.sectors.into(),
        regions: count(layout.regions.len())?.into(),
        relocations: count(layout.relocations.len())?.into(),
        zero: [0; 8],
    };
    out.extend_from_slice(raw.as_bytes());
    let mut position = span.first;
    for region in &layout.regions {
        let gap = region
            .first
            .checked_sub(position)
            .and_then(|gap| u32::try_from(gap).ok())
            .ok_or_else(limit)?;
        if region.sectors == 0 || region.end() > span.end() {
            return Err(limit());
        }
        let raw = RawRegion {
            gap: gap.into(),
            sectors: region.sectors.into(),
        };
        out.extend_from_slice(raw.as_bytes());
        position = region.end();
    }
    for relocation in &layout.relocations {
        if !is_inside(relocation, &layout.regions, sector_size) {
            return Err(limit());
        }
        let raw = RawRelocation {
            kind: relocation.kind.into(),
            offset: relocation.offset.into(),
            sector: relocation.sector.into(),
            size: relocation.size.into(),
        };
        out.extend_from_slice(raw.as_bytes());
    }
    Ok(())
}

/// Whether all bytes that a relocation names are in one region.
fn is_inside(relocation: &Relocation, regions: &[Region], sector_size: u32) -> bool {
    let sector_size = u64::from(sector_size);
    let sectors = u64::from(relocation.offset)
        .checked_add(relocation.size)
        .map(|bytes| bytes.div_ceil(sector_size));
    let end = sectors.and_then(|sectors| relocation.sector.checked_add(sectors));
    let after = regions.partition_point(|region| region.first <= relocation.sector);
    let region = after.checked_sub(1).and_then(|last| regions.get(last));
    u64::from(relocation.offset) < sector_size
        && region.is_some_and(|region| {
            relocation.sector < region.end() && end.is_some_and(|end| end <= region.end())
        })
}

/// Reads a layout into `layout`; returns its bytes and what follows them.
///
/// A region is stored by its distance from the one before, so that no table can hold regions that overlap or are out
/// of order. What is left to check is that they end inside the span, and the span inside the disk.
///
/// # Errors
/// [`Error::Field`]
pub(crate) fn parse<'a>(
    bytes: &'a [u8],
    disk_sectors: u64,
    sector_size: u32,
    part: Part,
    layout: &mut Layout,
) -> Result<(&'a [u8], &'a [u8]), Error> {
    let field = |field| Error::Field { part, field };
    let (raw, rest) = RawLayout::ref_from_prefix(bytes).map_err(|_| field("body length"))?;
    crate::prefix::expect_zero(&raw.zero, part)?;
    let span = Span {
        first: raw.span_first.get(),
        sectors: raw.span_sectors.get(),
    };
    let span_end = span
        .first
        .checked_add(span.sectors)
        .filter(|&end| end <= disk_sectors && span.sectors > 0)
        .ok_or_else(|| field("span"))?;
    // Both counts are bounded by the bytes that are there before anything is allocated for them.
    let count = |count: U32| usize::try_from(count.get()).unwrap_or(usize::MAX);
    let (table, rest) = <[RawRegion]>::ref_from_prefix_with_elems(rest, count(raw.regions))
        .map_err(|_| field("region count"))?;
    let (relocations, rest) =
        <[RawRelocation]>::ref_from_prefix_with_elems(rest, count(raw.relocations))
            .map_err(|_| field("relocation count"))?;
    layout.span = span;
    layout.regions.clear();
    layout.relocations.clear();
    let mut position = span.first;
    for raw in table {
        let sectors = raw.sectors.get();
        let region = position
            .checked_add(u64::from(raw.gap.get()))
            .map(|first| Region { first, sectors })
            .filter(|region| sectors > 0 && region.end() <= span_end)
            .ok_or_else(|| field("region"))?;
        position = region.end();
        layout.regions.push(region);
    }
    for raw in relocations {
        let relocation = Relocation {
            kind: raw.kind.get(),
            offset: raw.offset.get(),
            sector: raw.sector.get(),
            size: raw.size.get(),
        };
        if !is_inside(&relocation, &layout.regions, sector_size) {
            return Err(field("relocation"));
        }
        layout.relocations.push(relocation);
    }
    let length = bytes.len() - rest.len();
    Ok(bytes.split_at(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: Part = Part::Chunk(7);

    proptest! {
        #[test]
        fn any_layout_comes_back(
            first in 0_u64..1 << 40,
            steps in proptest::collection::vec((0_u32..100_000, 1_u32..4096), 0..200),
            tail in 1_u64..1000,
            places in proptest::collection::vec((any::<u32>(), any::<prop::sample::Index>(), 0_u32..512, 0_u64..512), 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut position = first;
            let regions: Vec<Region> = steps.iter().map(|&(gap, sectors)| {
                let region = Region { first: position + u64::from(gap), sectors };
                position = region.end();
                region
            }).collect();
            let mut layout = Layout::new(Span { first, sectors: position - first + tail }, regions);
            if !layout.regions.is_empty() {
                layout.relocations = places.iter().map(|&(kind, index, offset, size)| {
                    let size = size.min(512 - u64::from(offset));
                    Relocation { kind, offset, sector: index.get(&layout.regions).first, size }
                }).collect();
            }
            let mut bytes = Vec::new();
            write(&layout, 512, &mut bytes).unwrap();
            let length = bytes.len();
            bytes.extend_from_slice(&data);
            let mut read = Layout::default();
            let end = layout.span.end();
            prop_assert_eq!(parse(&bytes, end, 512, PART, &mut read).unwrap(), (&bytes[..length], &data[..]));
            prop_assert_eq!(&read, &layout);
            prop_assert!(parse(&bytes, end - 1, 512, PART, &mut read).is_err(), "span past the end of the disk");
        }

        #[test]
        fn any_bytes_give_regions_inside_the_disk_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut layout = Layout::default();
            if parse(&bytes, 1 << 40, 512, PART, &mut layout).is_ok() {
                let mut position = layout.span.first;
                for region in &layout.regions {
                    prop_assert!(region.first >= position && region.sectors > 0);
                    position = region.end();
                }
                prop_assert!(position <= layout.span.end() && layout.span.end() <= 1 << 40);
            }
        }
    }

    #[test]
    fn regions_that_do_not_fit_are_not_written() {
        let span = Span {
            first: 100,
            sectors: 50,
        };
        let region = |first, sectors| Region { first, sectors };
        let refused: [&[Region]; 4] = [
            &[region(99, 2)],
            &[region(149, 2)],
            &[region(110, 0)],
            &[region(110, 10), region(119, 1)],
        ];
        for regions in refused {
            let layout = Layout::new(span, regions.to_vec());
            assert!(write(&layout, 512, &mut Vec::new()).is_err(), "{regions:?}");
        }
    }

    #[test]
    fn relocations_stay_inside_their_region() {
        let span = Span {
            first: 100,
            sectors: 50,
        };
        let region = |first, sectors| Region { first, sectors };
        let mut layout = Layout::new(span, vec![region(105, 5), region(120, 2)]);
        let mut fits = |sector, offset, size| {
            layout.relocations = vec![Relocation {
                kind: 3,
                offset,
                sector,
                size,
            }];
            write(&layout, 512, &mut Vec::new()).is_ok()
        };
        assert!(fits(105, 0, 512) && fits(121, 511, 1) && fits(120, 10, 1014));
        assert!(!fits(104, 0, 5), "before the region");
        assert!(!fits(110, 0, 5), "behind the region");
        assert!(!fits(121, 511, 2), "over the region's end");
        assert!(!fits(105, 512, 1), "offset outside the sector");
        assert!(!fits(105, 1, u64::MAX), "wraps");
        assert!(!fits(u64::MAX, 0, 5), "no such sector");
    }

    #[test]
    fn hostile_tables_are_refused() {
        let raw = |first: u64, sectors: u64, counts: (u32, u32), table: &[(u32, u32)]| {
            let mut bytes = [first.to_le_bytes(), sectors.to_le_bytes()].concat();
            bytes.extend_from_slice(&counts.0.to_le_bytes());
            bytes.extend_from_slice(&counts.1.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            for (gap, sectors) in table {
                bytes.extend_from_slice(&gap.to_le_bytes());
                bytes.extend_from_slice(&sectors.to_le_bytes());
            }
            bytes
        };
        let mut layout = Layout::default();
        let mut check = |bytes: Vec<u8>| parse(&bytes, 1000, 512, PART, &mut layout).map(|_| ());
        assert!(check(raw(0, 1000, (1, 0), &[(0, 1000)])).is_ok());
        assert!(
            check(raw(0, 1000, (1, 0), &[(0, 1001)])).is_err(),
            "past the span"
        );
        assert!(
            check(raw(0, 1000, (1, 0), &[(5, 0)])).is_err(),
            "empty region"
        );
        assert!(check(raw(0, 0, (0, 0), &[])).is_err(), "empty span");
        assert!(check(raw(1, 1000, (0, 0), &[])).is_err(), "past the disk");
        assert!(check(raw(u64::MAX, 2, (0, 0), &[])).is_err(), "wraps");
        assert!(
            check(raw(0, 1000, (u32::MAX, 0), &[(0, 1)])).is_err(),
            "more regions than bytes"
        );
        assert!(
            check(raw(0, 1000, (1, u32::MAX), &[(0, 1)])).is_err(),
            "more relocations than bytes"
        );
        assert!(
            check(raw(0, 1000, (2, 0), &[(999, 1), (u32::MAX, u32::MAX)])).is_err(),
            "second region past the span"
        );
    }
}
