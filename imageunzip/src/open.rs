//! The middle stage of the pipeline: threads that verify, decrypt, decompress and relocate.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chunkfmt::relocation::{self, Applied, PartitionPlace, Relocation, Sectors};
use chunkfmt::tree::Cv;
use chunkfmt::{Context, Error as FormatError, Layout, Opener, Part, PlainHash, Region, Span};
use crossbeam_channel::{Receiver, Sender};
use frisbee_cli::stages::Stages;

use crate::Error;
use crate::contents::Origin;
use crate::direct::Aligned;
use crate::install::{Event, Observer};
use crate::legacy::Legacy;
use crate::part::clip;

/// Sectors that relocations are about.
const SECTOR: u64 = relocation::SECTOR_SIZE as u64;

/// Data of a chunk of an Emulab image up to this size go to the writer at once; larger ones, up to 1 GiB, in parts.
const WHOLE_MAX: u64 = 8 << 20;

/// A chunk on its way into the pipeline.
pub(crate) struct Job {
    pub(crate) index: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) source: Source,
}

pub(crate) enum Source {
    /// A chunk of the image itself.
    Own,
    /// A chunk of a base, which must have the plain hash that the image names.
    Base {
        origin: Origin,
        plain_hash: PlainHash,
    },
    /// On the disk already; only its free space is still to be cleared.
    Kept(Layout),
    /// A chunk of an Emulab image that answers for these sectors.
    Ndz(Span),
}

/// How an open chunk proved to be the right one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By this root, which the manifest has to name.
    Root(Cv),
    /// By its plain hash, which is the manifest's.
    PlainHash,
    /// By what is on the disk.
    #[default]
    OnDisk,
}

/// An open chunk on its way to the disk; its buffers go round.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) index: u32,
    pub(crate) proof: Proof,
    pub(crate) layout: Layout,
    /// The regions' data, one after the other.
    pub(crate) data: Aligned,
    /// BLAKE3 of the data, if they are to be read back.
    pub(crate) hash: Option<blake3::Hash>,
    /// The data are too many, and have gone to the writer in parts.
    pub(crate) went_ahead: bool,
    /// Length of the image in bytes, if its last sector is in this chunk and a short one.
    pub(crate) short_end: Option<u64>,
}

/// What goes to the writer.
pub(crate) enum Parcel {
    /// Data of a chunk that is completely good and follows.
    Part {
        /// Where on the disk, in bytes.
        offset: u64,
        bytes: Vec<u8>,
    },
    Chunk(Opened),
}

/// What opens chunks, one per thread.
pub(crate) enum ChunkOpener {
    Frz {
        context: Arc<Context>,
        own: Box<Opener>,
        bases: Vec<Opener>,
        /// The sectors that are wanted of the disk; `None` for all.
        part: Option<Range<u64>>,
    },
    Ndz(Arc<Legacy>),
}

/// Where data may go, and to which place of its disk they are relocated.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Bytes of the target.
    pub bytes: u64,
    /// Bytes of the image's sectors.
    pub sector_size: u32,
    /// The target, if it is a partition.
    pub partition: Option<PartitionPlace>,
}

/// One thread of the middle stage.
pub(crate) struct OpenStage {
    pub(crate) opener: ChunkOpener,
    pub(crate) window: Window,
    /// What is written is going to be read back.
    pub(crate) verify: bool,
    pub(crate) chunks: Receiver<Job>,
    pub(crate) spare: Sender<Vec<u8>>,
    pub(crate) empty: Receiver<Opened>,
    pub(crate) opened: Sender<Parcel>,
    pub(crate) observer: Observer,
    pub(crate) aborted: Arc<AtomicBool>,
    pub(crate) stages: Arc<Stages>,
}

impl OpenStage {
    pub(crate) fn run(mut self) {
        let stages = Arc::clone(&self.stages);
        let mut watch = stages.middle.stopwatch();
        while let Ok(mut job) = self.chunks.recv() {
            watch.waited_for_input();
            if self.aborted.load(Ordering::Relaxed) {
                return;
            }
            let mut opened = self.empty.try_recv().unwrap_or_default();
            opened.index = job.index;
            opened.went_ahead = false;
            opened.hash = None;
            opened.short_end = None;
            let result = self.open(&mut job, &mut opened);
            watch.worked();
            // Full: enough buffers go round already.
            let _ = self.spare.try_send(job.bytes);
            match result {
                Ok(Some(proof)) => {
                    opened.proof = proof;
                    if self.verify && !opened.went_ahead && proof != Proof::OnDisk {
                        opened.hash = Some(blake3::hash(&opened.data));
                    }
                    if self.opened.send(Parcel::Chunk(opened)).is_err() {
                        return;
                    }
                    watch.waited_for_output();
                }
                // Nobody writes any more.
                Ok(None) => return,
                Err(error) => (self.observer)(Event::Refused {
                    index: job.index,
                    error,
                }),
            }
        }
    }

    /// Opens a chunk; `None` if the writer has ended.
    fn open(&mut self, job: &mut Job, opened: &mut Opened) -> Result<Option<Proof>, Error> {
        let part = Part::Chunk(job.index);
        let window = self.window;
        let sectors = match &self.opener {
            // What of a chunk is inside is found out when it is open.
            ChunkOpener::Frz { part: Some(_), .. } => u64::MAX,
            _ => window.bytes / u64::from(window.sector_size),
        };
        let (layout, data) = (&mut opened.layout, &mut opened.data);
        let proof = match (&mut self.opener, &mut job.source) {
            (_, Source::Kept(kept)) => {
                *layout = std::mem::take(kept);
                data.clear();
                return Ok(Some(Proof::OnDisk));
            }
            (ChunkOpener::Frz { own, .. }, Source::Own) => {
                let verified = own.open(job.index, &mut job.bytes, sectors, layout, data)?;
                Proof::Root(verified.root)
            }
            (ChunkOpener::Frz { context, bases, .. }, Source::Base { origin, plain_hash }) => {
                let missing = FormatError::NotInManifest { part };
                let opener = bases.get_mut(origin.layer).ok_or(missing)?;
                opener.open(origin.index, &mut job.bytes, sectors, layout, data)?;
                if context.plain_hash(layout, data)? != *plain_hash {
                    return Err(FormatError::PlainHash { part }.into());
                }
                Proof::PlainHash
            }
            (ChunkOpener::Ndz(legacy), Source::Ndz(span)) => {
                let (legacy, span) = (Arc::clone(legacy), *span);
                return self.open_legacy(&legacy, job, span, opened);
            }
            _ => {
                let field = "chunk format";
                return Err(FormatError::Foreign { part, field }.into());
            }
        };
        if let ChunkOpener::Frz {
            part: Some(range), ..
        } = &self.opener
        {
            clip(layout, data, range, window.sector_size);
        }
        let applied = relocate(part, layout, data, &window)?;
        opened.short_end = applied.final_length;
        self.tell_unknown(job.index, &applied.unknown);
        Ok(Some(proof))
    }

    /// Opens a chunk of an Emulab image, which may hold 1 GiB.
    fn open_legacy(
        &self,
        legacy: &Legacy,
        job: &Job,
        span: Span,
        opened: &mut Opened,
    ) -> Result<Option<Proof>, Error> {
        let root = *blake3::hash(&job.bytes).as_bytes();
        let window = &self.window;
        let alive = legacy.open(job.index, &job.bytes, span, window, |header, checked| {
            opened.short_end = checked.final_length();
            self.tell_unknown(job.index, checked.unknown_relocations());
            opened.layout.span = span;
            opened.layout.relocations.clear();
            opened.layout.regions.clear();
            let regions = header.regions.iter().map(|region| Region {
                first: region.first,
                // All of a chunk's sectors together are fewer than 2^22.
                sectors: u32::try_from(region.sectors).unwrap_or(u32::MAX),
            });
            opened.layout.regions.extend(regions);
            opened.data.clear();
            opened.went_ahead = header.sectors() * SECTOR > WHOLE_MAX;
            checked.pieces(|first, bytes| {
                if !opened.went_ahead {
                    opened.data.extend_from_slice(bytes);
                    return Ok(());
                }
                if self.aborted.load(Ordering::Relaxed) {
                    return Err(Stop::Gone);
                }
                let (offset, bytes) = (first * SECTOR, bytes.to_vec());
                self.opened
                    .send(Parcel::Part { offset, bytes })
                    .map_err(|_| Stop::Gone)
            })
        })?;
        match alive {
            Ok(()) => Ok(Some(Proof::Root(root))),
            Err(Stop::Gone) => Ok(None),
            Err(Stop::Bad(error)) => Err(error.into()),
        }
    }

    fn tell_unknown(&self, index: u32, kinds: &[u32]) {
        for &kind in kinds {
            (self.observer)(Event::UnknownRelocation { index, kind });
        }
    }
}

/// Why data are not handed on.
enum Stop {
    Bad(ndz::Error),
    /// The writer has ended.
    Gone,
}

impl From<ndz::Error> for Stop {
    fn from(error: ndz::Error) -> Self {
        Self::Bad(error)
    }
}

/// Adapts the data of a chunk to the place of its partition.
fn relocate(
    part: Part,
    layout: &Layout,
    data: &mut [u8],
    window: &Window,
) -> Result<Applied, Error> {
    let has_effect = |relocation: &Relocation| relocation.kind != relocation::UNREADABLE;
    if !layout.relocations.iter().any(has_effect) {
        return Ok(Applied::default());
    }
    if u64::from(window.sector_size) != SECTOR {
        let field = "relocation";
        return Err(FormatError::Field { part, field }.into());
    }
    let mut sectors = RegionSectors::new(&layout.regions, data);
    relocation::apply(&layout.relocations, window.partition, &mut sectors)
        .map_err(|fault| Error::Relocation { part, fault })
}

/// The data of regions, found by sector.
struct RegionSectors<'a> {
    /// First sector of each region, the sector behind it, and where in the data it begins, in sectors.
    regions: Vec<(u64, u64, u64)>,
    data: &'a mut [[u8; relocation::SECTOR_SIZE]],
}

impl<'a> RegionSectors<'a> {
    fn new(regions: &[Region], data: &'a mut [u8]) -> Self {
        let mut at = 0;
        let regions = regions
            .iter()
            .map(|region| {
                let place = (region.first, region.end(), at);
                at += u64::from(region.sectors);
                place
            })
            .collect();
        let (data, _) = data.as_chunks_mut();
        Self { regions, data }
    }
}

impl Sectors for RegionSectors<'_> {
    fn sector_mut(&mut self, sector: u64) -> Option<&mut [u8; relocation::SECTOR_SIZE]> {
        let behind = self.regions.partition_point(|&(first, ..)| first <= sector);
        let &(first, end, at) = self.regions.get(behind.checked_sub(1)?)?;
        let place = usize::try_from(at + (sector - first)).ok()?;
        (sector < end).then(|| self.data.get_mut(place)).flatten()
    }
}
