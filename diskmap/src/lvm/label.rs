//! The label of a physical volume: who it is, and where its data and metadata lie.
//!
//! Source: LVM2 2.03, `lib/label/label.h` (`struct label_header`) and
//! `lib/format_text/layout.h` (`struct pv_header`, `struct disk_locn`).

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc, Table};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NAME;
use crate::Cause;
use crate::error::{Corrupt, Fault};
use crate::extent::Extent;
use crate::source::Window;

pub(super) const SECTOR: u64 = 512;
const LABEL: &str = "LVM label";
/// Sectors that a label may stand in.
const SCANNED: u64 = 4;
/// What the checksum of a label covers, in its sector.
const COVERED: std::ops::Range<usize> = 20..512;

/// `calc_crc` of `lib/misc/crc.c`: no final inversion, an initial value of its own.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    // The crate wants it in the order of the unreflected polynomial.
    init: 0xf597_a6cf_u32.reverse_bits(),
    xorout: 0,
    ..CRC_32_ISO_HDLC
});

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLabel {
    id: [u8; 8],
    sector: U64,
    checksum: U32,
    offset: U32,
    kind: [u8; 8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawVolume {
    uuid: [u8; 32],
    device_size: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPlace {
    offset: U64,
    size: U64,
}

/// A physical volume by its label. Places are in bytes of the window.
pub(super) struct Label {
    /// 32 characters.
    pub(super) uuid: String,
    pub(super) device_size: u64,
    /// Where extents begin.
    pub(super) data_start: u64,
    /// Where metadata are kept; at least one place.
    pub(super) metadata: Vec<Extent>,
}

impl Label {
    /// With hyphens, as LVM and blkid print it.
    pub(super) fn uuid_text(&self) -> String {
        let mut text = String::with_capacity(38);
        for (index, letter) in self.uuid.chars().enumerate() {
            if [6, 10, 14, 18, 22, 26].contains(&index) {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }
}

/// Finds and reads the one label.
pub(super) fn read(window: &Window<'_>) -> Result<Label, Fault> {
    let mut found = None;
    for sector in 0..SCANNED {
        let at = sector.saturating_mul(SECTOR);
        if !window.contains(at, SECTOR) {
            break;
        }
        let bytes: [u8; 512] = window.read_struct(at)?;
        if !bytes.starts_with(b"LABELONE") {
            continue;
        }
        if found.is_some() {
            let kind = Corrupt::Structure {
                structure: LABEL,
                problem: "is there twice",
            };
            return Err(window.fault(at, kind));
        }
        let label = parse(&bytes, sector).and_then(|label| check(label, window.len()));
        found = Some(label.map_err(|cause| window.fault(at, cause))?);
    }
    found.ok_or_else(|| window.fault(0, field("id", 0)))
}

fn parse(bytes: &[u8; 512], sector: u64) -> Result<Label, Cause> {
    let (raw, _) = RawLabel::ref_from_prefix(bytes).map_err(|_| field("size", 0))?;
    if checksum(bytes.get(COVERED).unwrap_or_default()) != raw.checksum.get() {
        let kind = Corrupt::Checksum {
            structure: LABEL,
            number: sector,
        };
        return Err(kind.into());
    }
    if raw.sector.get() != sector {
        return Err(field("sector_xl", raw.sector.get()));
    }
    if raw.kind != *b"LVM2 001" {
        return Err(unsupported("has a label of another version"));
    }
    let offset = raw.offset.get();
    let short = || field("offset_xl", offset.into());
    let contents = usize::try_from(offset)
        .ok()
        .filter(|&offset| offset >= size_of::<RawLabel>())
        .and_then(|offset| bytes.get(offset..))
        .ok_or_else(short)?;
    let (volume, mut rest) = RawVolume::ref_from_prefix(contents).map_err(|_| short())?;
    let uuid = String::from_utf8(volume.uuid.to_vec())
        .ok()
        .filter(|uuid| uuid.chars().all(|c| c.is_ascii_graphic()))
        .ok_or_else(|| field("pv_uuid", 0))?;
    let data = places(&mut rest).ok_or_else(short)?;
    let metadata = places(&mut rest).ok_or_else(short)?;
    let [data] = data[..] else {
        return Err(unsupported("has several data areas, or none"));
    };
    if metadata.is_empty() {
        return Err(unsupported("keeps its metadata on other devices"));
    }
    Ok(Label {
        uuid,
        device_size: volume.device_size.get(),
        data_start: data.first,
        metadata,
    })
}

/// A list of places that ends with one of zeros.
fn places(rest: &mut &[u8]) -> Option<Vec<Extent>> {
    let mut list = Vec::new();
    loop {
        let (raw, behind) = RawPlace::ref_from_prefix(rest).ok()?;
        *rest = behind;
        if raw.offset.get() == 0 {
            return Some(list);
        }
        list.push(Extent {
            first: raw.offset.get(),
            count: raw.size.get(),
        });
    }
}

fn check(label: Label, window_len: u64) -> Result<Label, Cause> {
    if label.device_size > window_len {
        let kind = Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes: label.device_size,
            partition: window_len,
        };
        return Err(kind.into());
    }
    Ok(label)
}

fn field(field: &'static str, value: u64) -> Cause {
    Cause::field(LABEL, field, value)
}

fn unsupported(what: &'static str) -> Cause {
    Cause::unsupported(NAME, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_lvm() {
        assert_eq!(size_of::<RawLabel>(), 32);
        assert_eq!(size_of::<RawVolume>(), 40);
        assert_eq!(size_of::<RawPlace>(), 16);
    }
}
