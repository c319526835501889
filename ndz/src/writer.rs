//! Writing images of versions 3 and 5: cutting ranges of sectors into chunks (docs/NDZ.md, Writing).
//!
//! The cuts follow the C program, so that its readers meet nothing that they have not met before.

use std::io;

use chunkfmt::relocation::{self, Relocation};
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::delta::check_ranges;
use crate::header::{Region, Span};
use crate::{CHUNK_SIZE, DATA_SIZE, Error, HEADER_SIZE, ImageId, SECTOR_SIZE, Version};

/// Most data that are read and compressed at once, in bytes.
const READ_MAX: u64 = 128 << 10;

/// Part of the data area that is kept free for what a piece may grow by, in bytes.
const RESERVE: usize = 1024;

/// A chunk with less than this free is full, in bytes.
const FULL_MARGIN: usize = 8192;

/// Version 3 counts its header as large as that of version 4, so that no chunk has more regions than C readers know.
const V3_HEADER_COUNTED: usize = 344;

const SECTOR: u64 = SECTOR_SIZE as u64;

/// What to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// [`Version::V3`], which is known everywhere, or [`Version::V5`], for disks above 2 TiB.
    pub version: Version,
    /// Name of the image. Version 5 only.
    pub image_id: Option<ImageId>,
    /// The sectors to save: ascending, without overlap.
    pub ranges: Vec<Region>,
    /// Size of the disk or partition, if known.
    pub disk_sectors: Option<u64>,
    /// Bytes that `read` gives in a form that does not depend on the place of the partition. For a file whose length is
    /// no multiple of 512, a short sector.
    pub relocations: Vec<Relocation>,
    /// Level of zlib, 0 to 9. The C program's default is 4.
    pub level: u32,
}

/// Makes the chunks of an image, one after the other.
pub struct Writer {
    plan: Plan,
    chunk: Vec<u8>,
    input: Vec<u8>,
    /// The range in work, and how much of it is in chunks already.
    range: usize,
    done: u64,
    next_relocation: usize,
    chunks: u32,
    next_sector: u64,
}

/// The chunk in work.
struct Open {
    stream: Compress,
    regions: Vec<Region>,
    relocations: Vec<Relocation>,
}

impl Writer {
    /// Checks the plan.
    ///
    /// # Errors
    /// [`Error::Usage`] if the format cannot hold it, [`Error::Relocation`] if a relocation is not in a range.
    pub fn new(mut plan: Plan) -> Result<Self, Error> {
        let largest = match plan.version {
            Version::V3 => u64::from(u32::MAX),
            Version::V5 => u64::MAX / SECTOR,
            _ => {
                return Err(Error::Usage(
                    "only images of versions 3 and 5 can be written",
                ));
            }
        };
        if plan.version == Version::V3 && plan.image_id.is_some() {
            return Err(Error::Usage("version 3 has no image id: write version 5"));
        }
        if plan.level > 9 {
            return Err(Error::Usage("zlib's levels are 0 to 9"));
        }
        if plan.ranges.is_empty() {
            return Err(Error::Usage(
                "there is nothing to save: no sector is in use",
            ));
        }
        if plan.disk_sectors.is_some_and(|sectors| sectors > largest) {
            return Err(Error::Usage(
                "the disk is too large for this version of the format: write version 5",
            ));
        }
        check_ranges(&plan.ranges, plan.disk_sectors.unwrap_or(largest))?;
        plan.relocations
            .sort_by_key(|relocation| (relocation.sector, relocation.offset));
        let pairs: Vec<_> = plan
            .ranges
            .iter()
            .map(|range| (range.first, range.sectors))
            .collect();
        relocation::check(&plan.relocations, &pairs)
            .map_err(|fault| Error::Relocation { chunk: 0, fault })?;
        Ok(Self {
            plan,
            chunk: vec![0; CHUNK_SIZE],
            input: Vec::new(),
            range: 0,
            done: 0,
            next_relocation: 0,
            chunks: 0,
            next_sector: 0,
        })
    }

    /// Writes all chunks to `output`, without flushing it. Gives their number.
    ///
    /// # Errors
    /// As [`Self::next_chunk`], and [`Error::Write`].
    pub fn write_to(
        mut self,
        output: &mut impl io::Write,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<u32, Error> {
        while let Some(chunk) = self.next_chunk(&mut read)? {
            output.write_all(chunk).map_err(Error::Write)?;
        }
        Ok(self.chunks)
    }

    /// The next chunk of 1 MiB, `None` after the last. `read` fills a buffer of at most 128 KiB from the given sector on;
    /// it is called for ascending sectors, once for each.
    ///
    /// # Errors
    /// [`Error::ReadDisk`]; [`Error::Usage`] for too many chunks, or relocations so close to each other that no chunk
    /// can hold them. After an error the image is lost.
    pub fn next_chunk(
        &mut self,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Option<&[u8]>, Error> {
        if self.range == self.plan.ranges.len() {
            return Ok(None);
        }
        if i32::try_from(self.chunks).is_err() {
            return Err(Error::Usage(
                "the image would have more chunks than can be counted",
            ));
        }
        let mut open = Open {
            stream: Compress::new(Compression::new(self.plan.level), true),
            regions: Vec::new(),
            relocations: Vec::new(),
        };
        // Whether the last region is of the range in work, so that more of it is added there.
        let mut growing = false;
        let mut used = 0;
        self.chunk.fill(0);
        while let Some(&range) = self.plan.ranges.get(self.range) {
            let first = range.first + self.done;
            let left = DATA_SIZE - used;
            let wish = (range.end() - first).min(room(self.plan.level, left) / SECTOR);
            let regions = open.regions.len() + usize::from(!growing);
            let (sectors, relocations) =
                self.without_cut(first, wish, regions, open.relocations.len())?;
            if sectors == 0 && open.regions.is_empty() {
                return Err(Error::Usage(
                    "relocations are too close to each other to be put into chunks",
                ));
            }
            if sectors == 0 {
                break;
            }
            self.input
                .resize(usize::try_from(sectors * SECTOR).unwrap_or_default(), 0);
            read(first, &mut self.input).map_err(|source| Error::ReadDisk {
                sector: first,
                source,
            })?;
            used = self.compress(&mut open.stream, used, FlushCompress::Sync)?;
            match open.regions.last_mut().filter(|_| growing) {
                Some(last) => last.sectors += sectors,
                None => open.regions.push(Region { first, sectors }),
            }
            open.relocations.extend(
                self.plan
                    .relocations
                    .iter()
                    .skip(self.next_relocation)
                    .take(relocations),
            );
            self.next_relocation += relocations;
            self.done += sectors;
            growing = self.done < range.sectors;
            if !growing {
                self.range += 1;
                self.done = 0;
            }
            let table_full = !growing && !self.fits(open.regions.len() + 1, open.relocations.len());
            if DATA_SIZE - used < FULL_MARGIN || table_full {
                break;
            }
        }
        self.input.clear();
        used = self.compress(&mut open.stream, used, FlushCompress::Finish)?;
        let span = self.span(&open.regions);
        self.header(&open, used, span);
        self.chunks += 1;
        self.next_sector = span.end;
        Ok(Some(&self.chunk))
    }

    /// What of `wish` sectors from `first` on can be added to the chunk in work, without parting what a relocation is
    /// about and with room for the relocations in it: number of sectors, and of relocations. No sectors if another chunk
    /// has to be begun.
    fn without_cut(
        &self,
        first: u64,
        wish: u64,
        regions: usize,
        in_work: usize,
    ) -> Result<(u64, usize), Error> {
        let waiting = self
            .plan
            .relocations
            .get(self.next_relocation..)
            .unwrap_or_default();
        let touched = |relocation: &Relocation| {
            let sectors = relocation.sectors().map_err(|fault| Error::Relocation {
                chunk: self.chunks,
                fault,
            })?;
            Ok(sectors.unwrap_or((relocation.sector, relocation.sector.saturating_add(1))))
        };
        let mut end = first + wish;
        // Each turn moves `end` down.
        while end > first {
            let mut cut = None;
            let mut count = 0;
            for relocation in waiting
                .iter()
                .take_while(|relocation| relocation.sector < end.saturating_add(2))
            {
                let (from, to) = touched(relocation)?;
                if from >= end {
                    continue;
                }
                count += 1;
                if to > end || !self.fits(regions, in_work + count) {
                    cut = Some(from);
                    break;
                }
            }
            match cut {
                None => return Ok((end - first, count)),
                Some(from) => end = from,
            }
        }
        Ok((0, 0))
    }

    fn fits(&self, regions: usize, relocations: usize) -> bool {
        let size = match self.plan.version {
            Version::V5 => 72 + 16 * regions + 24 * relocations,
            _ => V3_HEADER_COUNTED + 8 * regions + 16 * relocations,
        };
        size <= HEADER_SIZE
    }

    /// Compresses `input` behind the `used` bytes of the data area. Gives the bytes that are used then.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "differences are at most the length of a slice"
    )]
    fn compress(
        &mut self,
        stream: &mut Compress,
        used: usize,
        flush: FlushCompress,
    ) -> Result<usize, Error> {
        let mut used = used;
        let mut input = self.input.as_slice();
        loop {
            let output = self.chunk.get_mut(HEADER_SIZE + used..).unwrap_or_default();
            let room = output.len();
            let (in_before, out_before) = (stream.total_in(), stream.total_out());
            let status = stream
                .compress(input, output, flush)
                .map_err(|_| TOO_LARGE)?;
            let read = (stream.total_in() - in_before) as usize;
            let written = (stream.total_out() - out_before) as usize;
            input = input.get(read..).unwrap_or_default();
            used += written;
            // A flush is complete when it left room.
            let flushed = flush == FlushCompress::Sync && input.is_empty() && written < room;
            if status == Status::StreamEnd || flushed {
                return Ok(used);
            }
            if written == room || (read == 0 && written == 0) {
                return Err(TOO_LARGE);
            }
        }
    }

    /// What the chunk accounts for: free space behind it, unless it ended inside of a range.
    fn span(&self, regions: &[Region]) -> Span {
        let end = regions.last().map_or(self.next_sector, Region::end);
        let end = match self.plan.ranges.get(self.range) {
            None => self.plan.disk_sectors.unwrap_or(end),
            Some(next) if self.done == 0 => next.first,
            Some(_) => end,
        };
        Span {
            first: self.next_sector,
            end,
        }
    }

    fn header(&mut self, open: &Open, used: usize, span: Span) {
        let wide = self.plan.version == Version::V5;
        let number = |value: u64| {
            value
                .to_le_bytes()
                .into_iter()
                .take(if wide { 8 } else { 4 })
        };
        let mut header = Vec::with_capacity(HEADER_SIZE);
        header.extend(self.plan.version.magic().to_le_bytes());
        header.extend(count(used));
        header.extend(self.chunks.to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        header.extend(count(HEADER_SIZE));
        header.extend(count(open.regions.len()));
        if wide {
            header.extend([0; 8]);
            header.extend(count(open.relocations.len()));
            header.extend([0; 4]);
            header.extend(number(span.first).chain(number(span.end)));
            header.extend(self.plan.image_id.map_or([0; 16], |id| id.0));
        } else {
            header.extend(number(span.first).chain(number(span.end)));
            header.extend(count(open.relocations.len()));
        }
        for region in &open.regions {
            header.extend(number(region.first).chain(number(region.sectors)));
        }
        for relocation in &open.relocations {
            if wide {
                header.extend(relocation.to_bytes());
            } else {
                header.extend(relocation.kind.to_le_bytes());
                header.extend(number(relocation.sector));
                header.extend(relocation.offset.to_le_bytes());
                header.extend(number(relocation.size));
            }
        }
        for (to, from) in self.chunk.iter_mut().zip(header) {
            *to = from;
        }
    }
}

/// zlib has written more than its bound allows. Not reachable by any input that is known.
const TOO_LARGE: Error = Error::Usage("the data grow when they are compressed: use another level");

/// A count that is below 2^20.
fn count(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

/// How much may be compressed at once into so many free bytes, at most 128 KiB, in whole sectors.
fn room(level: u32, left: usize) -> u64 {
    let left = left.saturating_sub(RESERVE);
    // At level 1 the compressor knows only fixed codes, in which a byte may need 9 bits.
    let room = if level == 1 { left / 9 * 8 } else { left };
    (room as u64).min(READ_MAX) / SECTOR * SECTOR
}
