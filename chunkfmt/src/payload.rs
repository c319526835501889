//! What is inside a chunk's body: the span of the disk it is about, its regions, its data (docs/FORMAT.md, section 8).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Error, Part};

/// A run of sectors that one chunk answers for. What its regions leave out is free.
///
/// The spans of an image's chunks follow each other without gap or overlap from sector 0 to the disk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPayload {
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

pub(crate) const PAYLOAD_HEADER: usize = size_of::<RawPayload>();
pub(crate) const REGION_ENTRY: usize = size_of::<RawRegion>();

/// Appends payload header and region table to `out`.
///
/// # Errors
/// [`Error::Limit`] if the regions are not sorted, disjoint, inside the span, or more than 2^32 sectors apart.
pub(crate) fn write(span: Span, regions: &[Region], out: &mut Vec<u8>) -> Result<(), Error> {
    let limit = || Error::Limit {
        field: "regions",
        detail: format!("do not fit the span at sector {}", span.first),
    };
    let raw = RawPayload {
        span_first: span.first.into(),
        span_sectors: span.sectors.into(),
        regions: u32::try_from(regions.len()).map_err(|_| limit())?.into(),
        relocations: 0.into(),
        zero: [0; 8],
    };
    out.extend_from_slice(raw.as_bytes());
    let mut position = span.first;
    for region in regions {
        let gap = region
            .first
            .checked_sub(position)
            .and_then(|gap| u32::try_from(gap).ok())
            .ok_or_else(limit)?;
        if region.sectors == 0 || region.end() > span.end() {
            return Err(limit());
        }
        out.extend_from_slice(
            RawRegion {
                gap: gap.into(),
                sectors: region.sectors.into(),
            }
            .as_bytes(),
        );
        position = region.end();
    }
    Ok(())
}

/// Reads payload header and region table; returns the span and the data behind them.
///
/// A region is stored by its distance from the one before, so that no table can hold regions that overlap or are out
/// of order. What is left to check is that they end inside the span, and the span inside the disk.
///
/// # Errors
/// [`Error::Field`]
pub(crate) fn parse<'a>(
    payload: &'a [u8],
    disk_sectors: u64,
    part: Part,
    regions: &mut Vec<Region>,
) -> Result<(Span, &'a [u8]), Error> {
    let field = |field| Error::Field { part, field };
    let (raw, rest) = RawPayload::ref_from_prefix(payload).map_err(|_| field("body length"))?;
    crate::layout::expect_zero(&raw.zero, part)?;
    crate::layout::expect_zero(raw.relocations.as_bytes(), part)?;
    let span = Span {
        first: raw.span_first.get(),
        sectors: raw.span_sectors.get(),
    };
    let span_end = span
        .first
        .checked_add(span.sectors)
        .filter(|&end| end <= disk_sectors);
    let span_end = span_end
        .filter(|_| span.sectors > 0)
        .ok_or_else(|| field("span"))?;
    let count = usize::try_from(raw.regions.get()).map_err(|_| field("region count"))?;
    // `count` is bounded by the bytes that are there before anything is allocated for it.
    let (table, data) = <[RawRegion]>::ref_from_prefix_with_elems(rest, count)
        .map_err(|_| field("region count"))?;
    regions.clear();
    let mut position = span.first;
    for raw in table {
        let sectors = raw.sectors.get();
        let region = position
            .checked_add(u64::from(raw.gap.get()))
            .map(|first| Region { first, sectors })
            .filter(|region| sectors > 0 && region.end() <= span_end)
            .ok_or_else(|| field("region"))?;
        position = region.end();
        regions.push(region);
    }
    Ok((span, data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: Part = Part::Chunk(7);

    proptest! {
        #[test]
        fn any_regions_come_back(
            first in 0_u64..1 << 40,
            steps in proptest::collection::vec((0_u32..100_000, 1_u32..4096), 0..200),
            tail in 1_u64..1000,
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut position = first;
            let regions: Vec<Region> = steps.iter().map(|&(gap, sectors)| {
                let region = Region { first: position + u64::from(gap), sectors };
                position = region.end();
                region
            }).collect();
            let span = Span { first, sectors: position - first + tail };
            let mut bytes = Vec::new();
            write(span, &regions, &mut bytes).unwrap();
            bytes.extend_from_slice(&data);
            let mut read = Vec::new();
            prop_assert_eq!(parse(&bytes, span.end(), PART, &mut read).unwrap(), (span, &data[..]));
            prop_assert_eq!(&read, &regions);
            prop_assert!(parse(&bytes, span.end() - 1, PART, &mut read).is_err(), "span past the end of the disk");
        }

        #[test]
        fn any_bytes_give_regions_inside_the_disk_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut regions = Vec::new();
            if let Ok((span, _)) = parse(&bytes, 1 << 40, PART, &mut regions) {
                let mut position = span.first;
                for region in &regions {
                    prop_assert!(region.first >= position && region.sectors > 0);
                    position = region.end();
                }
                prop_assert!(position <= span.end() && span.end() <= 1 << 40);
            }
        }
    }

    #[test]
    fn regions_that_do_not_fit_are_not_written() {
        let span = Span {
            first: 100,
            sectors: 50,
        };
        let refused: [&[Region]; 4] = [
            &[Region {
                first: 99,
                sectors: 2,
            }],
            &[Region {
                first: 149,
                sectors: 2,
            }],
            &[Region {
                first: 110,
                sectors: 0,
            }],
            &[
                Region {
                    first: 110,
                    sectors: 10,
                },
                Region {
                    first: 119,
                    sectors: 1,
                },
            ],
        ];
        for regions in refused {
            assert!(
                write(span, regions, &mut Vec::new()).is_err(),
                "{regions:?}"
            );
        }
    }

    #[test]
    fn hostile_tables_are_refused() {
        let raw = |first: u64, sectors: u64, count: u32, table: &[(u32, u32)]| {
            let mut bytes = [first.to_le_bytes(), sectors.to_le_bytes()].concat();
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&[0; 12]);
            for (gap, sectors) in table {
                bytes.extend_from_slice(&gap.to_le_bytes());
                bytes.extend_from_slice(&sectors.to_le_bytes());
            }
            bytes
        };
        let mut regions = Vec::new();
        let mut check = |bytes: Vec<u8>| parse(&bytes, 1000, PART, &mut regions).map(|_| ());
        assert!(check(raw(0, 1000, 1, &[(0, 1000)])).is_ok());
        assert!(
            check(raw(0, 1000, 1, &[(0, 1001)])).is_err(),
            "past the span"
        );
        assert!(check(raw(0, 1000, 1, &[(5, 0)])).is_err(), "empty region");
        assert!(check(raw(0, 0, 0, &[])).is_err(), "empty span");
        assert!(check(raw(1, 1000, 0, &[])).is_err(), "past the disk");
        assert!(check(raw(u64::MAX, 2, 0, &[])).is_err(), "wraps");
        assert!(
            check(raw(0, 1000, u32::MAX, &[(0, 1)])).is_err(),
            "more regions than bytes"
        );
        assert!(
            check(raw(0, 1000, 2, &[(999, 1), (u32::MAX, u32::MAX)])).is_err(),
            "second region past the span"
        );
    }
}
