//! The file allocation table: which clusters are free.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, section "FAT Data
//! Structure".

use super::TABLE;
use super::boot::{Geometry, Kind};
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::source::Window;

/// Bytes read at once; whole entries of each of the three sizes fit in.
const BATCH: usize = 3 << 18;

/// What the table says.
pub(super) struct Table {
    /// Free runs in sectors of the filesystem.
    pub(super) free: FreeRuns,
    pub(super) free_clusters: u64,
}

/// A set of clusters, one bit each.
struct Clusters(Vec<u64>);

impl Clusters {
    fn new(last: u32) -> Self {
        let words = usize::try_from(last / 64).unwrap_or(usize::MAX);
        Self(vec![0; words.saturating_add(1)])
    }

    /// Adds one; whether it is new.
    fn insert(&mut self, cluster: u32) -> bool {
        let word = usize::try_from(cluster / 64)
            .ok()
            .and_then(|index| self.0.get_mut(index));
        let bit = 1_u64 << (cluster % 64);
        word.is_some_and(|word| {
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        })
    }

    /// The first one that is in both.
    fn first_common(&self, other: &Self) -> Option<u64> {
        let common = self.0.iter().zip(&other.0).map(|(one, other)| one & other);
        let (word, bits) = common.enumerate().find(|(_, bits)| *bits != 0)?;
        let base = u64::try_from(word).ok()?.saturating_mul(64);
        Some(base.saturating_add(bits.trailing_zeros().into()))
    }
}

/// Reads all FATs, which must agree. Every chain must stay in use and inside the filesystem, and
/// no cluster may have two predecessors.
pub(super) fn read(window: &Window<'_>, geometry: &Geometry) -> Result<Table, Fault> {
    let bits = geometry.kind.entry_bits();
    let entries = u64::from(geometry.last_cluster()).saturating_add(1);
    let bytes = entries.saturating_mul(bits.into()).div_ceil(8);
    let start = geometry.to_bytes(geometry.reserved);
    let mut walk = Walk {
        geometry,
        free_clusters: 0,
        runs: FreeRuns::default(),
        free: Clusters::new(geometry.last_cluster()),
        followed: Clusters::new(geometry.last_cluster()),
    };
    let mut first = Vec::new();
    let mut copy = Vec::new();
    let mut at = 0_u64;
    let mut cluster = 0_u32;
    while at < bytes {
        let left = usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = left.min(BATCH);
        first.resize(len, 0);
        copy.resize(len, 0);
        let place = start.saturating_add(at);
        window.read(&mut first, place)?;
        if geometry.fats == 2 {
            let second = geometry
                .to_bytes(geometry.fat_sectors)
                .saturating_add(place);
            window.read(&mut copy, second)?;
            if first != copy {
                let problem = "differs from its copy";
                let structure = TABLE;
                return Err(window.fault(place, Corrupt::Structure { structure, problem }));
            }
        }
        let fault = |kind| window.fault(place, kind);
        walk.batch(&first, &mut cluster)
            .map_err(|flaw| match flaw {
                Flaw::Corrupt(kind) => fault(kind),
                Flaw::NotClean(what) => super::not_clean(window, place, what),
            })?;
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    if let Some(block) = walk.free.first_common(&walk.followed) {
        let structure = "FAT chain goes on there, but it is free";
        return Err(window.fault(start, Corrupt::Conflict { structure, block }));
    }
    Ok(Table {
        free: walk.runs,
        free_clusters: walk.free_clusters,
    })
}

enum Flaw {
    Corrupt(Corrupt),
    NotClean(&'static str),
}

impl From<Corrupt> for Flaw {
    fn from(kind: Corrupt) -> Self {
        Self::Corrupt(kind)
    }
}

struct Walk<'a> {
    geometry: &'a Geometry,
    free_clusters: u64,
    runs: FreeRuns,
    free: Clusters,
    /// What another cluster leads to.
    followed: Clusters,
}

impl Walk<'_> {
    /// Takes the entries in `bytes`, of which the first is that of `cluster`.
    fn batch(&mut self, bytes: &[u8], cluster: &mut u32) -> Result<(), Flaw> {
        let last = self.geometry.last_cluster();
        let word = |at: usize| -> Option<u32> {
            let low = bytes.get(at)?;
            let high = bytes.get(at.checked_add(1)?)?;
            Some(u16::from_le_bytes([*low, *high]).into())
        };
        let mut index = 0_usize;
        while *cluster <= last {
            let value = match self.geometry.kind {
                Kind::Fat12 => {
                    let at = index.saturating_add(index / 2);
                    let shift = if index.is_multiple_of(2) { 0 } else { 4 };
                    // The last of an odd number of entries shares no byte with a successor.
                    word(at).map(|word| word >> shift & 0xfff)
                }
                Kind::Fat16 => word(index.saturating_mul(2)),
                Kind::Fat32 => {
                    let at = index.saturating_mul(4);
                    let parts = word(at).zip(word(at.saturating_add(2)));
                    parts.map(|(low, high)| (high << 16 | low) & 0x0fff_ffff)
                }
            };
            let Some(value) = value else { break };
            match *cluster {
                0 => self.media(value)?,
                1 => self.flags(value)?,
                _ => self.entry(*cluster, value)?,
            }
            *cluster = cluster.saturating_add(1);
            index = index.saturating_add(1);
        }
        Ok(())
    }

    /// The largest value of an entry.
    fn mask(&self) -> u32 {
        match self.geometry.kind {
            Kind::Fat12 => 0xfff,
            Kind::Fat16 => 0xffff,
            Kind::Fat32 => 0x0fff_ffff,
        }
    }

    /// Entry 0 repeats the media byte: proof that a FAT stands here.
    fn media(&self, value: u32) -> Result<(), Flaw> {
        if value == (self.mask() & !0xff | u32::from(self.geometry.media)) {
            return Ok(());
        }
        Err(Flaw::Corrupt(Corrupt::Field {
            structure: TABLE,
            field: "entry 0",
            value: value.into(),
        }))
    }

    /// Entry 1 of FAT16 and FAT32 has a bit each for "unmounted" and "no errors".
    fn flags(&self, value: u32) -> Result<(), Flaw> {
        let (clean, sound) = match self.geometry.kind {
            Kind::Fat12 => return Ok(()),
            Kind::Fat16 => (0x8000, 0x4000),
            Kind::Fat32 => (0x0800_0000, 0x0400_0000),
        };
        if value & clean == 0 {
            Err(Flaw::NotClean("was not unmounted"))
        } else if value & sound == 0 {
            Err(Flaw::NotClean("had disk errors"))
        } else {
            Ok(())
        }
    }

    fn entry(&mut self, cluster: u32, value: u32) -> Result<(), Flaw> {
        // From here on: reserved, bad (7), and the end of a chain.
        let special = self.mask() & !0xf;
        if value == 0 {
            self.free.insert(cluster);
            self.free_clusters = self.free_clusters.saturating_add(1);
            self.runs.push(Extent {
                first: self.geometry.cluster_start(cluster),
                count: self.geometry.sectors_per_cluster.into(),
            });
        } else if (2..=self.geometry.last_cluster()).contains(&value) {
            if !self.followed.insert(value) {
                let structure = "two FAT chains";
                let block = value.into();
                return Err(Corrupt::Conflict { structure, block }.into());
            }
        } else if value < special {
            let structure = TABLE;
            let block = value.into();
            return Err(Corrupt::Outside { structure, block }.into());
        }
        Ok(())
    }
}
