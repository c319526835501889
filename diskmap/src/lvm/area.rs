//! A metadata area: a header, and a ring of texts of which one counts.
//!
//! Source: LVM2 2.03, `lib/format_text/layout.h` (`struct mda_header`, `struct raw_locn`) and
//! `lib/format_text/format-text.c` (`_vg_read_raw_area`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NAME;
use super::label::checksum;
use crate::Cause;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::Extent;
use crate::source::Window;

const AREA: &str = "LVM metadata area";
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// Bytes of the header; texts are in the rest of the area.
const HEADER_LEN: u64 = 512;
/// Of a text: some thousand volumes. Bounds the memory.
const MAX_TEXT: u64 = 4 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawText {
    offset: U64,
    size: U64,
    checksum: U32,
    flags: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawArea {
    checksum: U32,
    magic: [u8; 16],
    version: U32,
    start: U64,
    size: U64,
    committed: RawText,
    /// A change that was begun.
    precommitted: RawText,
    rest: [u8; 424],
}

/// Reads the text that counts from the area at `place` (bytes of the window).
pub(super) fn read(window: &Window<'_>, place: Extent) -> Result<String, Fault> {
    let raw: RawArea = window.read_struct(place.first)?;
    let fault = |cause: Cause| window.fault(place.first, cause);
    check(&raw, place).map_err(fault)?;
    let (offset, size) = (raw.committed.offset.get(), raw.committed.size.get());
    // What does not fit before the end goes on behind the header.
    let behind = size.min(place.count.saturating_sub(offset));
    let first = piece(window, place.first.saturating_add(offset), behind)?;
    let again = place.first.saturating_add(HEADER_LEN);
    let rest = piece(window, again, size.saturating_sub(behind))?;
    let mut bytes = first;
    bytes.extend(rest);
    if checksum(&bytes) != raw.committed.checksum.get() {
        let kind = Corrupt::Checksum {
            structure: "LVM metadata text at byte",
            number: offset,
        };
        return Err(fault(kind.into()));
    }
    if bytes.pop() != Some(0) {
        return Err(fault(problem("has a text without an end")));
    }
    String::from_utf8(bytes).map_err(|_| fault(problem("has a text that is no UTF-8")))
}

fn check(raw: &RawArea, place: Extent) -> Result<(), Cause> {
    let covered = raw.as_bytes().get(4..).unwrap_or_default();
    if checksum(covered) != raw.checksum.get() {
        let kind = Corrupt::Checksum {
            structure: AREA,
            number: place.first,
        };
        return Err(kind.into());
    }
    let field = |field, value| -> Cause {
        let kind = Corrupt::Field {
            structure: AREA,
            field,
            value,
        };
        kind.into()
    };
    let unsupported = |what| -> Cause {
        let kind = Incompatible::Unsupported {
            filesystem: NAME,
            what,
        };
        kind.into()
    };
    if raw.magic != *MAGIC || raw.version.get() != VERSION {
        return Err(field("version", raw.version.get().into()));
    }
    if raw.start.get() != place.first || raw.size.get() != place.count {
        return Err(field("start", raw.start.get()));
    }
    let text = &raw.committed;
    if text.offset.get() == 0 {
        return Err(unsupported(
            "is in no volume group, or its metadata are elsewhere",
        ));
    }
    if text.flags.get() != 0 {
        return Err(unsupported("has a metadata area that is ignored"));
    }
    if raw.precommitted.offset.get() != 0 || raw.precommitted.size.get() != 0 {
        let kind = Incompatible::NotClean {
            filesystem: NAME,
            what: "has a change that was begun and not finished",
            remedy: "run vgck",
        };
        return Err(kind.into());
    }
    let ring = place.count.saturating_sub(HEADER_LEN);
    let size = text.size.get();
    if size == 0 || size > ring.min(MAX_TEXT) {
        return Err(field("text size", size));
    }
    if text.offset.get() < HEADER_LEN || text.offset.get() >= place.count {
        return Err(field("text offset", text.offset.get()));
    }
    Ok(())
}

/// Bytes of a text, whose length was checked.
fn piece(window: &Window<'_>, at: u64, len: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    window.read(&mut bytes, at)?;
    Ok(bytes)
}

fn problem(problem: &'static str) -> Cause {
    let kind = Corrupt::Structure {
        structure: AREA,
        problem,
    };
    kind.into()
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_layout_is_that_of_lvm() {
        assert_eq!(size_of::<RawArea>(), 512);
        assert_eq!(offset_of!(RawArea, committed), 40);
        assert_eq!(size_of::<RawText>(), 24);
    }
}
