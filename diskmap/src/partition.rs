//! One partition, or the whole disk where there is no table: what is in it, what of it is free.

use crate::Options;
use crate::bsd_label;
use crate::error::{Effect, Error, Fault, Incompatible, Place, Warning};
use crate::ext;
use crate::extent::{Extent, FreeRuns};
use crate::filesystem::{Container, Filesystem, Inner, Mapped, Parsed};
use crate::pieces::Pieces;
use crate::signature;
use crate::source::{ReadAt, Window};
use crate::table::{self, Slice, Table, TableKind};

/// What a partition or a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// What it is called in messages: `ext4`, `XFS`, `LUKS encryption`; `raw` if nothing is known.
    pub kind: &'static str,
    /// What is known of the filesystem, if it was understood.
    pub filesystem: Option<Filesystem>,
    /// Why it is copied raw, if it is.
    pub raw: Option<String>,
}

/// A partition and what of it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number as Linux counts: primary ones from 1, logical ones from 5, 0 for the whole disk.
    pub number: u32,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u64,
    /// Type in the table: `0x83` or a GUID; empty for the whole disk.
    pub type_id: String,
    /// Name in the GPT.
    pub name: Option<String>,
    /// What it holds.
    pub contents: Contents,
    /// The volumes in it, if it is a container of volumes.
    pub volumes: Vec<Volume>,
    /// Sectors of it that are saved.
    pub saved_sectors: u64,
}

/// A volume in a partition: a partition of a BSD disklabel, a logical volume of LVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the container.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes of it that are saved.
    pub saved_bytes: u64,
    /// What it holds.
    pub contents: Contents,
}

impl Contents {
    fn skipped() -> Self {
        Self {
            kind: "skipped",
            filesystem: None,
            raw: None,
        }
    }

    fn raw(kind: &'static str, why: impl Into<String>) -> Self {
        Self {
            kind,
            filesystem: None,
            raw: Some(why.into()),
        }
    }
}

impl Partition {
    fn new(slice: &Slice, contents: Contents) -> Self {
        Self {
            number: slice.number,
            first: slice.extent.first,
            count: slice.extent.count,
            type_id: slice.type_id.clone(),
            name: slice.name.clone(),
            contents,
            volumes: Vec::new(),
            saved_sectors: slice.extent.count,
        }
    }

    /// A partition of unknown contents that is saved completely.
    pub(crate) fn raw(slice: &Slice, why: impl Into<String>) -> Self {
        Self::new(slice, Contents::raw(RAW, why))
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            first: self.first,
            count: self.count,
        }
    }

    /// Saves all of a partition with a filesystem that does not tell whether it is mounted, and
    /// may be by a system that sleeps: what that has written, but not committed, is in use.
    /// Returns whether it is one.
    pub(crate) fn keep_for_sleeper(&mut self) -> bool {
        let inside = self.volumes.iter_mut().map(|volume| &mut volume.contents);
        let mut found = false;
        for contents in inside.chain([&mut self.contents]) {
            if contents.kind == signature::BTRFS && contents.raw.is_none() {
                contents.raw = Some("a suspended system may use it".to_owned());
                found = true;
            }
        }
        if found {
            for volume in &mut self.volumes {
                volume.saved_bytes = volume.size_bytes;
            }
        }
        found
    }
}

/// Types of partitions that are a pool for volumes of several pieces, in the order of a database
/// elsewhere. The first piece looks like the filesystem that begins in it, whose bitmaps tell of
/// blocks which are not where they seem to be, but in other pieces.
const SCATTERED: [(&str, &str); 6] = [
    ("0x42", DYNAMIC_DISK),
    ("5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", DYNAMIC_DISK),
    ("AF9B60A0-1431-4F62-BC68-3311714A69AD", DYNAMIC_DISK),
    ("E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "Storage Spaces"),
    ("52414944-0000-11AA-AA11-00306543ECAC", "Apple RAID"),
    ("53746F72-6167-11AA-AA11-00306543ECAC", "Apple Core Storage"),
];
const DYNAMIC_DISK: &str = "Windows dynamic disk";

/// Contents that are not known.
const RAW: &str = "raw";

/// Runs of a disk, in its sectors, that need no saving.
#[derive(Default)]
pub(crate) struct Spared {
    /// Sectors that are free. Partitions are looked into in the order of the disk.
    pub(crate) free: FreeRuns,
    /// Sectors that are saved as zeros.
    pub(crate) zeroed: Vec<Extent>,
    pub(crate) warnings: Vec<Warning>,
}

/// Looks into a slice and adds to `spared` what is free in it.
pub(crate) fn probe(
    source: &dyn ReadAt,
    slice: &Slice,
    options: &Options,
    spared: &mut Spared,
) -> Result<Partition, Error> {
    if let Some(cause) = &slice.untrusted {
        return Ok(Partition::raw(slice, cause.to_string()));
    }
    if options.skip.contains(&slice.number) {
        spared.free.push(slice.extent);
        return Ok(Partition::new(slice, Contents::skipped()));
    }
    if options.raw_partitions.contains(&slice.number) {
        return Ok(Partition::raw(slice, "as asked for"));
    }
    if let Some(&(_, kind)) = SCATTERED.iter().find(|(id, _)| *id == slice.type_id) {
        let why = format!("{kind} is not parsed");
        return Ok(Partition::new(slice, Contents::raw(kind, why)));
    }
    let size = u64::from(options.sector_size);
    let start = slice.extent.first.saturating_mul(size);
    let window = Window::part(source, start, slice.extent.count.saturating_mul(size));
    let mut prober = Prober {
        options,
        number: (slice.number != 0).then_some(slice.number),
        warnings: Vec::new(),
    };
    let look = prober.look(&window, true)?;
    if look.contents.kind == signature::BSD && !bsd_label::is_expected_in(&slice.type_id) {
        let why = "a BSD disklabel in a partition of another type";
        return Ok(Partition::raw(slice, why));
    }
    let mut partition = Partition::new(slice, look.contents);
    let sector_run = |bytes: &Extent| {
        // Whole sectors only, where blocks are smaller than sectors.
        Extent::between(bytes.first.div_ceil(size), bytes.end() / size)
    };
    let in_bytes = |run: &Extent, unit: u64| Extent {
        first: start.saturating_add(run.first.saturating_mul(unit)),
        count: run.count.saturating_mul(unit),
    };
    let runs = look.free.runs().iter().map(|run| in_bytes(run, look.unit));
    let zeroed = look.zeroed.iter().map(|run| in_bytes(run, look.unit));
    spared
        .zeroed
        .extend(zeroed.filter_map(|run| sector_run(&run)));
    if look.inner.is_empty() {
        for run in runs {
            if let Some(run) = sector_run(&run) {
                spared.free.push(run);
            }
        }
    } else {
        let mut all = FreeRuns::default();
        let mut more = runs.collect::<Vec<_>>();
        for inner in &look.inner {
            let (volume, found) = prober.volume(&window, inner)?;
            partition.volumes.push(volume);
            more.extend(found.free);
            // However many volumes there are.
            if more.len() > FreeRuns::LIMIT {
                all = all.with(more.drain(..));
            }
            let zeroed = found.zeroed.iter().filter_map(sector_run);
            spared.zeroed.extend(zeroed);
        }
        all = all.with(more);
        if all.is_thinned() {
            prober.warn_thinned(&window);
        }
        // Two runs that touch may share a sector that neither fills.
        for run in all.runs() {
            if let Some(run) = sector_run(run) {
                spared.free.push(run);
            }
        }
    }
    spared.warnings.append(&mut prober.warnings);
    Ok(partition)
}

/// Refuses containers whose volumes leave them or share bytes.
fn check_volumes(window: &Window<'_>, container: &Container) -> Result<(), Fault> {
    let pieces = container.volumes.iter().flat_map(|inner| &inner.pieces);
    let mut pieces: Vec<Extent> = pieces.copied().filter(|piece| piece.count > 0).collect();
    let free = container.free.runs().iter();
    pieces.extend(free.map(|run| Extent {
        first: run.first.saturating_mul(container.unit),
        count: run.count.saturating_mul(container.unit),
    }));
    pieces.sort_unstable();
    let outside = pieces
        .iter()
        .find(|piece| !window.contains(piece.first, piece.count));
    let shared = pieces.windows(2).find(|pair| pair[0].overlaps(&pair[1]));
    let structure = container.kind;
    match (outside, shared) {
        (Some(piece), _) => Err(window.fault(
            0,
            crate::Corrupt::Outside {
                structure,
                block: piece.first,
            },
        )),
        (None, Some(pair)) => Err(window.fault(
            pair[1].first,
            crate::Corrupt::Conflict {
                structure,
                block: pair[1].first,
            },
        )),
        (None, None) => Ok(()),
    }
}

/// What was seen in a window.
struct Look {
    contents: Contents,
    unit: u64,
    free: FreeRuns,
    zeroed: Vec<Extent>,
    inner: Vec<Inner>,
}

/// What is spared of a volume, in bytes of the disk.
struct Found {
    free: Vec<Extent>,
    zeroed: Vec<Extent>,
}

struct Prober<'a> {
    options: &'a Options,
    number: Option<u32>,
    warnings: Vec<Warning>,
}

impl Prober<'_> {
    /// Looks into a window; what is wrong with it becomes a warning.
    fn look(&mut self, window: &Window<'_>, outermost: bool) -> Result<Look, Error> {
        let raw = |contents| Look {
            contents,
            unit: 1,
            free: FreeRuns::default(),
            zeroed: Vec::new(),
            inner: Vec::new(),
        };
        let (kind, parsed) = match identify(window, outermost) {
            Ok(None) => return Ok(raw(Contents::raw(RAW, "no known filesystem"))),
            Ok(Some(name)) => match signature::parser(name) {
                Some(parse) => (name, parse(window)),
                None => {
                    let why = format!("{name} is not parsed");
                    return Ok(raw(Contents::raw(name, why)));
                }
            },
            Err(fault) => (RAW, Err(fault)),
        };
        // A BSD label has boot code beside it that holds a table for show.
        let may_have_table = !outermost || kind == signature::BSD;
        let parsed = parsed.and_then(|parsed| {
            if !may_have_table {
                refuse_table(window, kind, self.options.sector_size)?;
            }
            Ok(parsed)
        });
        let parsed = parsed.and_then(|parsed| match parsed {
            Parsed::Container(container) => {
                check_volumes(window, &container).map(|()| Parsed::Container(container))
            }
            filesystem @ Parsed::Filesystem(_) => Ok(filesystem),
        });
        match parsed {
            Ok(Parsed::Filesystem(mapped)) => Ok(self.take(window, mapped)),
            Ok(Parsed::Container(_)) if !outermost => {
                let why = format!("{kind} inside of another container is not parsed");
                Ok(raw(Contents::raw(kind, why)))
            }
            Ok(Parsed::Container(container)) => Ok(Look {
                contents: Contents {
                    kind: container.kind,
                    filesystem: Some(container.filesystem),
                    raw: None,
                },
                unit: container.unit,
                free: container.free,
                zeroed: Vec::new(),
                inner: container.volumes,
            }),
            Err(fault) => {
                let effect = self
                    .number
                    .map_or(Effect::RawDisk, |_| Effect::RawPartition);
                let warning = fault.into_warning(self.number, effect, self.options.rescue)?;
                let why = warning.cause.to_string();
                self.warnings.push(warning);
                Ok(raw(Contents::raw(kind, why)))
            }
        }
    }

    fn warn_thinned(&mut self, window: &Window<'_>) {
        self.warnings.push(Warning {
            place: Place {
                partition: self.number,
                offset: window.on_disk(0),
            },
            cause: Incompatible::TooManyFreeRuns(FreeRuns::LIMIT).into(),
            effect: Effect::ShortRunsSaved,
        });
    }

    /// Takes over the map of a filesystem, without the contents that are not wanted.
    fn take(&mut self, window: &Window<'_>, mapped: Mapped) -> Look {
        if mapped.free.is_thinned() {
            self.warn_thinned(window);
        }
        let mut free = mapped.free;
        let mut zeroed = Vec::new();
        for (content, runs) in mapped.optional {
            if !self.options.exclude.contains(&content) {
                continue;
            }
            if content.is_zeroed() {
                zeroed.extend(runs);
            } else {
                free = free.with(runs);
            }
        }
        Look {
            contents: Contents {
                kind: mapped.kind,
                filesystem: Some(mapped.filesystem),
                raw: None,
            },
            unit: mapped.unit,
            free,
            zeroed,
            inner: Vec::new(),
        }
    }

    /// Looks into a volume of the container in `window`.
    fn volume(&mut self, window: &Window<'_>, inner: &Inner) -> Result<(Volume, Found), Error> {
        let mut found = Found {
            free: Vec::new(),
            zeroed: Vec::new(),
        };
        let size_bytes = inner.pieces.iter().map(|piece| piece.count).sum();
        let mut volume = Volume {
            name: inner.name.clone(),
            size_bytes,
            saved_bytes: size_bytes,
            contents: Contents::raw(RAW, ""),
        };
        if let Some(why) = &inner.raw {
            volume.contents = Contents::raw(RAW, why);
            return Ok((volume, found));
        }
        // The pieces were checked to lie inside.
        let Some(pieces) = Pieces::new(*window, &inner.pieces) else {
            return Ok((volume, found));
        };
        let before = self.warnings.len();
        let look = self.look(&Window::disk(&pieces), false)?;
        for warning in self.warnings.iter_mut().skip(before) {
            warning.place.offset = pieces.on_disk(warning.place.offset);
        }
        let on_disk = |runs: &[Extent]| -> Vec<Extent> {
            let bytes = |run: &Extent| {
                let first = run.first.saturating_mul(look.unit);
                (first, run.end().saturating_mul(look.unit))
            };
            runs.iter()
                .map(bytes)
                .flat_map(|(first, end)| pieces.on_disk_all(first, end))
                .collect()
        };
        found.free = on_disk(look.free.runs());
        found.zeroed = on_disk(&look.zeroed);
        let free: u64 = found.free.iter().map(|run| run.count).sum();
        volume.saved_bytes = size_bytes.saturating_sub(free);
        volume.contents = look.contents;
        Ok((volume, found))
    }
}

/// Refuses what stands in a partition with a partition table of its own, as the disk of a virtual
/// machine has: a table in sector 0 leaves intact what an older filesystem of the whole partition
/// has further behind, such as the superblock of ext.
fn refuse_table(window: &Window<'_>, kind: &'static str, sector_size: u32) -> Result<(), Fault> {
    let table = table::read(window, sector_size)?;
    // One that names what it stands in, for systems that want a table on every disk.
    let is_own = table.slices.iter().all(|slice| slice.extent.first == 0);
    if table.kind == TableKind::None || (table.kind == TableKind::Mbr && is_own) {
        return Ok(());
    }
    let first = "a partition table";
    let second = kind;
    Err(window.fault(0, Incompatible::Ambiguous { first, second }))
}

/// The name of the one thing that claims the window. A BSD label stands in the boot area of the
/// UFS that begins with its first partition: outside it names both, inside there is the UFS.
fn identify(window: &Window<'_>, outermost: bool) -> Result<Option<&'static str>, Fault> {
    let mut signatures = signature::find(window)?;
    let (one, other) = (signature::BSD, signature::UFS);
    let has = |name| signatures.iter().any(|found| found.name == name);
    if has(one) && has(other) {
        let dropped = if outermost { other } else { one };
        signatures.retain(|found| found.name != dropped);
    }
    let Some(first) = signatures.first() else {
        return Ok(None);
    };
    match signatures.iter().find(|other| other.name != first.name) {
        Some(other) => Err(window.fault(
            other.offset,
            Incompatible::Ambiguous {
                first: first.name,
                second: other.name,
            },
        )),
        None => Ok(Some(first.name)),
    }
}

/// Refuses a table on a disk that something else claims as a whole: a filesystem or RAID made
/// over an old table leaves partitions behind that describe nothing. Sector 0 is the table's own,
/// and what lies in a partition is the partition's.
pub(crate) fn check_table(disk: &Window<'_>, table: &Table, sector_size: u32) -> Result<(), Fault> {
    if table.kind == TableKind::None {
        return Ok(());
    }
    let mut claims: Vec<_> = signature::find(disk)?;
    // Boot code may hold the two bytes.
    if !ext::is_plausible(disk)? {
        claims.retain(|claim| claim.name != signature::EXT);
    }
    let in_a_partition = |offset: u64| {
        let sector = Extent {
            first: offset / u64::from(sector_size),
            count: 1,
        };
        table
            .slices
            .iter()
            .any(|slice| slice.extent.covers(&sector))
    };
    match claims
        .iter()
        .find(|claim| claim.offset >= 512 && !in_a_partition(claim.offset))
    {
        Some(claim) => {
            let first = "a partition table";
            Err(disk.fault(
                claim.offset,
                Incompatible::Ambiguous {
                    first,
                    second: claim.name,
                },
            ))
        }
        None => Ok(()),
    }
}
