//! Where the fields of a chunk header are in each version, and the reading and writing of numbers there.

use chunkfmt::relocation::Relocation;

use crate::HEADER_SIZE;

/// Magic of version 1; each later version has the next number.
pub(crate) const MAGIC: u32 = 0x6969_6969;

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Without sector span and relocations.
    V1,
    /// With both.
    V2,
    /// As 2, with LILO relocations.
    V3,
    /// With checksum, signature, encryption and image id.
    V4,
    /// With 64-bit sector numbers and image id; without checksum and encryption.
    V5,
}

impl Version {
    /// The version as a number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }

    pub(crate) fn magic(self) -> u32 {
        MAGIC + u32::from(self.number()) - 1
    }
}

/// Sizes and places of what differs between the versions, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) header: usize,
    pub(crate) region: usize,
    pub(crate) relocation: usize,
    /// Of the pair of first and last sector, if there is one. Its fields are as wide as those of a region.
    pub(crate) span: Option<usize>,
    pub(crate) image_id: Option<usize>,
}

const V1: Layout = Layout {
    header: 24,
    region: 8,
    relocation: 0,
    span: None,
    image_id: None,
};
const V3: Layout = Layout {
    header: 36,
    region: 8,
    relocation: 16,
    span: Some(24),
    image_id: None,
};
const V4: Layout = Layout {
    header: 344,
    region: 8,
    relocation: 16,
    span: Some(24),
    image_id: Some(328),
};
const V5: Layout = Layout {
    header: 72,
    region: 16,
    relocation: 24,
    span: Some(40),
    image_id: Some(56),
};
/// As written by a 32-bit x86 program, which does not align 64-bit fields.
const V5_PACKED: Layout = Layout {
    header: 68,
    region: 16,
    relocation: 24,
    span: Some(36),
    image_id: Some(52),
};

impl Layout {
    /// The layouts that a header of this version can have, the likely one first.
    pub(crate) fn of(version: Version) -> &'static [Self] {
        match version {
            Version::V1 => &[V1],
            Version::V2 | Version::V3 => &[V3],
            Version::V4 => &[V4],
            Version::V5 => &[V5, V5_PACKED],
        }
    }

    /// Bytes of a header with so many entries.
    pub(crate) fn size(&self, regions: usize, relocations: usize) -> usize {
        self.header + self.region * regions + self.relocation * relocations
    }

    pub(crate) fn region(&self, area: &[u8; HEADER_SIZE], index: usize) -> (u64, u64) {
        self.pair(area, self.header + self.region * index)
    }

    pub(crate) fn relocation(
        &self,
        area: &[u8; HEADER_SIZE],
        regions: usize,
        index: usize,
    ) -> Relocation {
        let at = self.size(regions, index);
        if self.region == 16 {
            Relocation::parse(&array(area, at))
        } else {
            Relocation {
                kind: u32_at(area, at),
                sector: u32_at(area, at + 4).into(),
                offset: u32_at(area, at + 8),
                size: u32_at(area, at + 12).into(),
            }
        }
    }

    /// Two sector numbers, each as wide as this version has them.
    pub(crate) fn pair(&self, area: &[u8; HEADER_SIZE], at: usize) -> (u64, u64) {
        if self.region == 16 {
            (
                u64::from_le_bytes(array(area, at)),
                u64::from_le_bytes(array(area, at + 8)),
            )
        } else {
            (u32_at(area, at).into(), u32_at(area, at + 4).into())
        }
    }
}

pub(crate) fn u32_at(area: &[u8; HEADER_SIZE], at: usize) -> u32 {
    u32::from_le_bytes(array(area, at))
}

/// `N` bytes at a place that is inside of the header area, by what the caller has checked.
pub(crate) fn array<const N: usize>(area: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    area.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}
