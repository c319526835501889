//! Files of NTFS by their number: the MFT, attribute lists, and streams of clusters.
//!
//! Source: ntfs-3g 2022.10.3, `libntfs-3g/volume.c` (`ntfs_mft_load`), `libntfs-3g/attrib.c`
//! and `include/ntfs-3g/layout.h` (`ATTR_LIST_ENTRY`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::boot::Boot;
use super::record::{Attribute, Body, Record, Run};
use super::{ATTRIBUTE_LIST, DATA, MFT, REFERENCE};
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, normalize};
use crate::source::Window;

/// Windows and ntfs-3g allow no longer attribute lists.
const MAX_LIST: usize = 256 << 10;
/// A file in more pieces than that is not looked at: 24 MiB of memory.
const MAX_RUNS: usize = 1 << 20;
const FLAGS_TRANSFORMED: u16 = 0xc0ff;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawListEntry {
    kind: U32,
    length: U16,
    name_length: u8,
    name_offset: u8,
    lowest_vcn: U64,
    mft_reference: U64,
    instance: U16,
}

/// The clusters of one attribute.
pub(super) struct Stream {
    pub(super) runs: Vec<Run>,
    pub(super) data_size: u64,
    /// From here on the file reads as zeros, whatever its clusters hold.
    pub(super) initialized_size: u64,
    /// Neither compressed nor encrypted nor sparse: the file's bytes stand in its clusters.
    pub(super) plain: bool,
}

/// The contents of one attribute.
pub(super) enum Contents {
    Resident(Vec<u8>),
    Clusters(Stream),
}

/// An opened filesystem.
pub(super) struct Volume<'a> {
    pub(super) window: &'a Window<'a>,
    pub(super) boot: Boot,
    pub(super) mft: Stream,
}

impl Stream {
    /// Where it lies.
    pub(super) fn extents(&self) -> Vec<Extent> {
        let extents = self.runs.iter().filter_map(|run| {
            Some(Extent {
                first: run.lcn?,
                count: run.count,
            })
        });
        normalize(extents.collect())
    }

    /// Reads bytes of a plain stream. `None` if there are not as many.
    fn read(
        &self,
        window: &Window<'_>,
        cluster: u64,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<()>, Fault> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset.saturating_add(length);
        if end > self.data_size || !self.plain {
            return Ok(None);
        }
        buf.fill(0);
        let mut at = offset;
        while at < end.min(self.initialized_size) {
            let vcn = at.checked_div(cluster).unwrap_or(0);
            let index = self.runs.partition_point(|run| run.end() <= vcn);
            let Some(run) = self.runs.get(index) else {
                return Ok(None);
            };
            let skipped = at.saturating_sub(run.vcn.saturating_mul(cluster));
            let left = run.count.saturating_mul(cluster).saturating_sub(skipped);
            let stop = at.saturating_add(left).min(end).min(self.initialized_size);
            let from = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            let to = usize::try_from(stop.saturating_sub(offset)).unwrap_or(usize::MAX);
            let (Some(part), Some(lcn)) = (buf.get_mut(from..to), run.lcn) else {
                return Ok(None);
            };
            window.read(part, lcn.saturating_mul(cluster).saturating_add(skipped))?;
            at = stop;
        }
        Ok(Some(()))
    }
}

impl<'a> Volume<'a> {
    /// Reads the MFT's own record, which tells where the others are.
    pub(super) fn open(window: &'a Window<'a>, boot: Boot) -> Result<Self, Fault> {
        let at = boot.mft.saturating_mul(boot.cluster);
        let mut bytes = vec![0; boot.record];
        window.read(&mut bytes, at)?;
        let structure = MFT;
        let record = Record::parse(bytes, 0)
            .map_err(|problem| window.fault(at, Corrupt::Structure { structure, problem }))?;
        let mut volume = Self {
            window,
            boot,
            mft: Stream {
                runs: Vec::new(),
                data_size: 0,
                initialized_size: 0,
                plain: true,
            },
        };
        let base = volume.attributes(&record, MFT)?;
        volume.mft = match volume.assemble(&record, &base, DATA, &[], MFT, true)? {
            Some(Contents::Clusters(stream)) if stream.plain => stream,
            _ => return Err(volume.damaged(MFT, "has no clusters")),
        };
        Ok(volume)
    }

    /// A finding in a file.
    pub(super) fn damaged(&self, structure: &'static str, problem: &'static str) -> Fault {
        let at = self.boot.mft.saturating_mul(self.boot.cluster);
        self.window
            .fault(at, Corrupt::Structure { structure, problem })
    }

    /// Reads bytes of a stream that must have them.
    pub(super) fn read(
        &self,
        stream: &Stream,
        buf: &mut [u8],
        offset: u64,
        name: &'static str,
    ) -> Result<(), Fault> {
        stream
            .read(self.window, self.boot.cluster, buf, offset)?
            .ok_or_else(|| self.damaged(name, "is shorter than it should be, or transformed"))
    }

    /// A record that must be in use. `name` is that of its file.
    pub(super) fn record(&self, number: u64, name: &'static str) -> Result<Record, Fault> {
        let record = self.record_by(&self.mft, number, name)?;
        if record.base != 0 {
            return Err(self.damaged(name, "has the record of another file"));
        }
        Ok(record)
    }

    fn record_by(&self, mft: &Stream, number: u64, name: &'static str) -> Result<Record, Fault> {
        let mut bytes = vec![0; self.boot.record];
        let length = u64::try_from(self.boot.record).unwrap_or(u64::MAX);
        let at = number.saturating_mul(length);
        if at.saturating_add(length) > mft.initialized_size {
            return Err(self.damaged(name, "has its record outside of the MFT"));
        }
        self.read(mft, &mut bytes, at, name)?;
        Record::parse(bytes, number).map_err(|problem| self.damaged(name, problem))
    }

    fn attributes<'r>(
        &self,
        record: &'r Record,
        name: &'static str,
    ) -> Result<Vec<Attribute<'r>>, Fault> {
        record
            .attributes()
            .map_err(|problem| self.damaged(name, problem))
    }

    /// The contents of the attribute `kind` called `label` (UTF-16LE) of a file; `None` if the
    /// file has no such attribute.
    pub(super) fn contents(
        &self,
        record: &Record,
        kind: u32,
        label: &[u8],
        name: &'static str,
    ) -> Result<Option<Contents>, Fault> {
        let base = self.attributes(record, name)?;
        self.assemble(record, &base, kind, label, name, false)
    }

    /// Puts an attribute together from its parts. While the MFT itself is `opening`, the records
    /// of later parts must lie in the earlier ones.
    fn assemble(
        &self,
        record: &Record,
        base: &[Attribute<'_>],
        kind: u32,
        label: &[u8],
        name: &'static str,
        opening: bool,
    ) -> Result<Option<Contents>, Fault> {
        let mut parts = Parts::default();
        let twice = || self.damaged(name, "has an attribute twice");
        let list = self.attribute_list(base, name)?;
        let Some(list) = list else {
            let mut found = base.iter().filter(|part| part.is(kind, label));
            let Some(part) = found.next() else {
                return Ok(None);
            };
            if found.next().is_some() {
                return Err(twice());
            }
            parts.add(self, part, name)?;
            return parts.finish(self, name).map(Some);
        };
        for entry in list.iter().filter(|entry| entry.is(kind, label)) {
            let number = entry.reference & REFERENCE;
            let extension;
            let extended;
            let attributes = if number == record.number {
                base
            } else {
                let mft = if opening {
                    parts.so_far(self, name)?
                } else {
                    &self.mft
                };
                extension = self.record_by(mft, number, name)?;
                if extension.base != record.number
                    || u64::from(extension.sequence) != entry.reference >> 48
                {
                    return Err(self.damaged(name, "names a record of another file"));
                }
                extended = self.attributes(&extension, name)?;
                &extended
            };
            let mut found = attributes
                .iter()
                .filter(|part| part.is(kind, label) && part.instance == entry.instance);
            let part = found
                .next()
                .ok_or_else(|| self.damaged(name, "lacks an attribute of its list"))?;
            if found.next().is_some() {
                return Err(twice());
            }
            parts.add(self, part, name)?;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        parts.finish(self, name).map(Some)
    }

    /// The entries of a file's attribute list, if it has one.
    fn attribute_list(
        &self,
        base: &[Attribute<'_>],
        name: &'static str,
    ) -> Result<Option<Vec<ListEntry>>, Fault> {
        let Some(part) = base.iter().find(|part| part.kind == ATTRIBUTE_LIST) else {
            return Ok(None);
        };
        let mut parts = Parts::default();
        parts.add(self, part, name)?;
        let bytes = match parts.finish(self, name)? {
            Contents::Resident(bytes) => bytes,
            Contents::Clusters(stream) => {
                let size = usize::try_from(stream.data_size)
                    .ok()
                    .filter(|&size| size <= MAX_LIST)
                    .ok_or_else(|| self.damaged(name, "has too long an attribute list"))?;
                let mut bytes = vec![0; size];
                self.read(&stream, &mut bytes, 0, name)?;
                bytes
            }
        };
        let entries = list_entries(&bytes);
        entries
            .ok_or_else(|| self.damaged(name, "has a bad attribute list"))
            .map(Some)
    }
}

impl Attribute<'_> {
    fn is(&self, kind: u32, label: &[u8]) -> bool {
        self.kind == kind && self.name == label
    }
}

struct ListEntry {
    kind: u32,
    label: Vec<u8>,
    reference: u64,
    instance: u16,
}

impl ListEntry {
    fn is(&self, kind: u32, label: &[u8]) -> bool {
        self.kind == kind && self.label == label
    }
}

fn list_entries(mut bytes: &[u8]) -> Option<Vec<ListEntry>> {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let (raw, _) = RawListEntry::ref_from_prefix(bytes).ok()?;
        let length = usize::from(raw.length.get());
        if length < size_of::<RawListEntry>() {
            return None;
        }
        let (entry, rest) = bytes.split_at_checked(length)?;
        let label = usize::from(raw.name_length).checked_mul(2)?;
        let label = entry.get(usize::from(raw.name_offset)..)?.get(..label)?;
        list.push(ListEntry {
            kind: raw.kind.get(),
            label: label.to_vec(),
            reference: raw.mft_reference.get(),
            instance: raw.instance.get(),
        });
        bytes = rest;
    }
    Some(list)
}

/// An attribute that is being put together.
#[derive(Default)]
struct Parts {
    resident: Option<Vec<u8>>,
    clusters: Option<Stream>,
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.resident.is_none() && self.clusters.is_none()
    }

    /// The stream that the parts so far tell of.
    fn so_far(&self, volume: &Volume<'_>, name: &'static str) -> Result<&Stream, Fault> {
        self.clusters
            .as_ref()
            .ok_or_else(|| volume.damaged(name, "does not begin in its first record"))
    }

    fn add(
        &mut self,
        volume: &Volume<'_>,
        part: &Attribute<'_>,
        name: &'static str,
    ) -> Result<(), Fault> {
        let bad = |problem| Err(volume.damaged(name, problem));
        match &part.body {
            Body::Resident(value) => {
                if !self.is_empty() {
                    return bad("has an attribute twice");
                }
                self.resident = Some(value.to_vec());
            }
            Body::NonResident(runs) => {
                if self.resident.is_some() {
                    return bad("has an attribute twice");
                }
                let is_first = self.clusters.is_none();
                let stream = self.clusters.get_or_insert_with(|| Stream {
                    runs: Vec::new(),
                    data_size: runs.data_size,
                    initialized_size: runs.initialized_size,
                    plain: part.flags & FLAGS_TRANSFORMED == 0,
                });
                let end = stream.runs.last().map_or(0, Run::end);
                if runs.first != end || !is_first && runs.count == 0 {
                    return bad("has a gap in its runs");
                }
                let clusters = volume.boot.clusters;
                if runs.decode(clusters, &mut stream.runs).is_none() {
                    return bad("has bad runs");
                }
                if stream.runs.len() > MAX_RUNS {
                    return bad("is in too many pieces");
                }
            }
        }
        Ok(())
    }

    fn finish(self, volume: &Volume<'_>, name: &'static str) -> Result<Contents, Fault> {
        let bad = |problem| Err(volume.damaged(name, problem));
        match (self.resident, self.clusters) {
            (Some(bytes), None) => Ok(Contents::Resident(bytes)),
            (None, Some(stream)) => {
                let last = stream.runs.last().map_or(0, Run::end);
                let bytes = last.saturating_mul(volume.boot.cluster);
                if stream.data_size > bytes || stream.initialized_size > stream.data_size {
                    return bad("has a size that its runs do not have");
                }
                if stream.plain {
                    if stream.runs.iter().any(|run| run.lcn.is_none()) {
                        return bad("has holes");
                    }
                    // No cluster twice, so that no stream takes longer to read than the disk.
                    let own: u64 = stream.extents().iter().map(|extent| extent.count).sum();
                    if own != last {
                        return bad("has a cluster twice");
                    }
                }
                Ok(Contents::Clusters(stream))
            }
            _ => bad("lacks an attribute"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_ntfs_3g() {
        assert_eq!(size_of::<RawListEntry>(), 26);
    }
}
