//! `$LogFile`: whether the journal holds anything that was not written to its place.
//!
//! Source: ntfs-3g 2022.10.3, `libntfs-3g/logfile.c` and `include/ntfs-3g/logfile.h`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::file::{Stream, Volume};
use super::not_clean;
use super::record::unprotect;
use crate::error::Fault;

pub(super) const NAME: &str = "NTFS file $LogFile";
const NO_CLIENT: u16 = 0xffff;
const VOLUME_IS_CLEAN: u16 = 0x0002;
const BATCH: usize = 1 << 20;
const EMPTY: u8 = 0xff;
const UNCLEAN: &str = "was not shut down cleanly";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRestartPage {
    magic: [u8; 4],
    usa_offset: U16,
    usa_count: U16,
    chkdsk_lsn: U64,
    system_page_size: U32,
    log_page_size: U32,
    restart_area_offset: U16,
    minor_version: U16,
    major_version: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRestartArea {
    current_lsn: U64,
    log_clients: U16,
    client_free_list: U16,
    client_in_use_list: U16,
    flags: U16,
}

/// What one restart page says.
struct Restart {
    current_lsn: u64,
    clean: bool,
}

/// Accepts a journal that was never begun or reset (as mkntfs and ntfs-3g leave it, all ones),
/// and one that its driver has closed.
pub(super) fn check(volume: &Volume<'_>, log: &Stream) -> Result<(), Fault> {
    let mut head = [0; 32];
    volume.read(log, &mut head, 0, NAME)?;
    if head.starts_with(b"RSTR") {
        return check_restart(volume, log, &head);
    }
    let mut buffer = Vec::new();
    let mut at = 0_u64;
    while at < log.data_size {
        let left = log.data_size.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(BATCH);
        buffer.resize(len, 0);
        volume.read(log, &mut buffer, at, NAME)?;
        if buffer.iter().any(|&byte| byte != EMPTY) {
            return Err(not_clean(volume, UNCLEAN));
        }
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// There are two restart pages, written in turn. The newer one counts, and since a crash may
/// tear it, both must be whole.
fn check_restart(volume: &Volume<'_>, log: &Stream, head: &[u8]) -> Result<(), Fault> {
    let bad = || volume.damaged(NAME, "has a bad restart page");
    let (head, _) = RawRestartPage::ref_from_prefix(head).map_err(|_| bad())?;
    let page_size = head.system_page_size.get();
    if ![4096, 8192, 16384, 32768, 65536].contains(&page_size) {
        return Err(bad());
    }
    let mut newest: Option<Restart> = None;
    for offset in [0, u64::from(page_size)] {
        let mut page = vec![0; usize::try_from(page_size).unwrap_or(usize::MAX)];
        volume.read(log, &mut page, offset, NAME)?;
        let restart = parse(&mut page, page_size).ok_or_else(|| not_clean(volume, UNCLEAN))?;
        if newest
            .as_ref()
            .is_none_or(|other| restart.current_lsn > other.current_lsn)
        {
            newest = Some(restart);
        } else if newest
            .as_ref()
            .is_some_and(|other| restart.current_lsn == other.current_lsn)
        {
            // Which one is newer cannot be told.
            newest = newest.map(|other| Restart {
                clean: other.clean && restart.clean,
                ..other
            });
        }
    }
    if newest.is_some_and(|restart| restart.clean) {
        Ok(())
    } else {
        Err(not_clean(volume, UNCLEAN))
    }
}

/// `None` if the page is damaged, or its version is none that is closed by an unmount: version
/// 2.0 is left behind by a fast shutdown, with contents in Windows's memory image.
fn parse(page: &mut [u8], page_size: u32) -> Option<Restart> {
    unprotect(page, *b"RSTR").ok()?;
    let (header, _) = RawRestartPage::ref_from_prefix(page).ok()?;
    if (header.major_version.get(), header.minor_version.get()) != (1, 1)
        || header.system_page_size.get() != page_size
    {
        return None;
    }
    let area = page.get(usize::from(header.restart_area_offset.get())..)?;
    let (area, _) = RawRestartArea::ref_from_prefix(area).ok()?;
    let clean =
        area.client_in_use_list.get() == NO_CLIENT || area.flags.get() & VOLUME_IS_CLEAN != 0;
    Some(Restart {
        current_lsn: area.current_lsn.get(),
        clean,
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_those_of_ntfs_3g() {
        assert_eq!(offset_of!(RawRestartPage, system_page_size), 16);
        assert_eq!(offset_of!(RawRestartPage, restart_area_offset), 24);
        assert_eq!(size_of::<RawRestartPage>(), 30);
        assert_eq!(offset_of!(RawRestartArea, client_in_use_list), 12);
        assert_eq!(size_of::<RawRestartArea>(), 16);
    }
}
