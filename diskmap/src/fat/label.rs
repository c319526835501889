//! The volume label of FAT: an entry of the root directory, or a field of the boot sector.

use super::boot::{Geometry, Kind};
use crate::error::Fault;
use crate::filesystem::text_field;
use crate::source::Window;

/// Clusters of the root directory that are looked through; a label stands near the start.
const MAX_CLUSTERS: u32 = 16;
const ENTRY: usize = 32;
/// Attributes: volume label, directory, and the four that together mark a long name.
const LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const DELETED: u8 = 0xe5;
/// What formatters write into the boot sector instead of nothing.
const NO_NAME: &[u8; 11] = b"NO NAME    ";

/// Reads the label.
pub(super) fn read(window: &Window<'_>, geometry: &Geometry) -> Result<Option<String>, Fault> {
    let sectors = geometry.data_start.saturating_sub(geometry.root_start);
    let found = match geometry.root_cluster {
        None => look(window, geometry, geometry.root_start, sectors)?,
        Some(root) => look_in_chain(window, geometry, root)?,
    };
    match found {
        Found::Label(label) => Ok(label),
        Found::End | Found::Nothing if geometry.label == *NO_NAME => Ok(None),
        Found::End | Found::Nothing => Ok(text_field(&geometry.label)),
    }
}

enum Found {
    Label(Option<String>),
    End,
    Nothing,
}

/// Follows the root directory of FAT32 for a while.
fn look_in_chain(window: &Window<'_>, geometry: &Geometry, root: u32) -> Result<Found, Fault> {
    let mut cluster = root;
    for _ in 0..MAX_CLUSTERS {
        let first = geometry.cluster_start(cluster);
        let found = look(window, geometry, first, geometry.sectors_per_cluster.into())?;
        if !matches!(found, Found::Nothing) {
            return Ok(found);
        }
        debug_assert!(geometry.kind == Kind::Fat32, "others have no such chain");
        let mut entry = [0; 4];
        let at = u64::from(cluster).saturating_mul(4);
        let fat = geometry.to_bytes(geometry.reserved);
        window.read(&mut entry, fat.saturating_add(at))?;
        cluster = u32::from_le_bytes(entry) & 0x0fff_ffff;
        if !(2..=geometry.last_cluster()).contains(&cluster) {
            break;
        }
    }
    Ok(Found::Nothing)
}

fn look(
    window: &Window<'_>,
    geometry: &Geometry,
    first: u64,
    sectors: u64,
) -> Result<Found, Fault> {
    let len = usize::try_from(geometry.to_bytes(sectors)).unwrap_or(usize::MAX);
    // At most 65535 entries, or a cluster of 128 sectors.
    let mut bytes = vec![0; len.min(2 << 20)];
    window.read(&mut bytes, geometry.to_bytes(first))?;
    for entry in bytes.chunks_exact(ENTRY) {
        let (Some((name, rest)), Some(&start)) = (entry.split_at_checked(11), entry.first()) else {
            break;
        };
        let attributes = rest.first().copied().unwrap_or_default();
        if start == 0 {
            return Ok(Found::End);
        }
        let is_label =
            attributes & (LABEL | DIRECTORY) == LABEL && attributes & LONG_NAME != LONG_NAME;
        if is_label && start != DELETED {
            return Ok(Found::Label(text_field(name)));
        }
    }
    Ok(Found::Nothing)
}
