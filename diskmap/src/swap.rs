//! Linux swap: only the page with the signature is worth saving.
//!
//! Source: Linux `include/linux/swap.h` (`union swap_header`) and `mm/swapfile.c`; the
//! signatures of a suspended system as in `kernel/power/swap.c` and util-linux 2.41,
//! `libblkid/src/superblocks/swap.c`.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Corrupt, Fault, Incompatible};
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Filesystem, Mapped, Parsed, text_field, uuid_text};
use crate::signature::{self, Signature};
use crate::source::Window;

const NAME: &str = "swap";
const HEADER_OFFSET: u64 = 1024;
const PAGE_SIZES: [u32; 5] = [4096, 8192, 16384, 32768, 65536];
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    version: U32,
    last_page: U32,
    bad_pages: U32,
    uuid: [u8; 16],
    label: [u8; 16],
}

/// The signature that led here is that of the old version, or of a suspended system.
pub(crate) const SUSPENDED: Incompatible = Incompatible::Unsupported {
    filesystem: NAME,
    what: "holds a suspended system",
};

/// Maps a swap area that nobody sleeps in.
pub(crate) fn map(window: &Window<'_>) -> Result<Parsed, Fault> {
    let mut page_size = None;
    for size in PAGE_SIZES {
        let mut signature = [0; 10];
        let at = u64::from(size).saturating_sub(10);
        if window.contains(at, 10) {
            window.read(&mut signature, at)?;
            if signature == *SIGNATURE {
                page_size = Some(size);
                break;
            }
        }
    }
    let unsupported = |what| {
        window.fault(
            HEADER_OFFSET,
            Incompatible::Unsupported {
                filesystem: NAME,
                what,
            },
        )
    };
    // An older signature of the same kind, for pages of another size, may stand further behind.
    let is_suspended = |found: &Signature| {
        let mut magic = [0; 10];
        let read = window.read(&mut magic, found.offset);
        found.name == signature::SWAP && read.map_or(true, |()| magic != *SIGNATURE)
    };
    if signature::find(window)?.iter().any(is_suspended) {
        page_size = None;
    }
    let page_size = page_size.ok_or_else(|| window.fault(HEADER_OFFSET, SUSPENDED))?;
    let header: RawHeader = window.read_struct(HEADER_OFFSET)?;
    if header.version.get() != 1 {
        return Err(unsupported("has a version or byte order other than 1"));
    }
    let page = u64::from(page_size);
    let pages = u64::from(header.last_page.get()).saturating_add(1);
    let size_bytes = pages.saturating_mul(page);
    if pages < 2 {
        let kind = Corrupt::Field {
            structure: "swap header",
            field: "last_page",
            value: header.last_page.get().into(),
        };
        return Err(window.fault(HEADER_OFFSET, kind));
    }
    if size_bytes > window.len() {
        let kind = Corrupt::LargerThanPartition {
            filesystem: NAME,
            bytes: size_bytes,
            partition: window.len(),
        };
        return Err(window.fault(HEADER_OFFSET, kind));
    }
    let mut free = FreeRuns::default();
    free.push(Extent {
        first: 1,
        count: pages.saturating_sub(1),
    });
    let uuid = (header.uuid != [0; 16]).then(|| uuid_text(&header.uuid));
    Ok(Mapped {
        kind: NAME,
        filesystem: Filesystem {
            label: text_field(&header.label),
            uuid,
            block_size: page_size,
            size_bytes,
            used_bytes: page,
            features: Vec::new(),
        },
        unit: page,
        free,
        optional: Vec::new(),
    }
    .into())
}
