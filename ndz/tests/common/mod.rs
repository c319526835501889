//! Golden files, a disk in memory to restore to, and hand-made chunks.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test support"
)]

use std::collections::BTreeMap;
use std::path::Path;

use ndz::{
    CHUNK_SIZE, ContentKey, Demand, Error, Integrity, Place, PublicKey, Reader, Region, Summary,
};
use sha2::{Digest, Sha256};

pub fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/ndz")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A disk whose sectors are zero unless written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Disk(pub BTreeMap<u64, [u8; 512]>);

impl Disk {
    pub fn write(&mut self, first: u64, data: &[u8]) {
        let (sectors, rest) = data.as_chunks::<512>();
        assert!(rest.is_empty(), "pieces are whole sectors");
        self.0.extend((first..).zip(sectors.iter().copied()));
    }

    pub fn read(&self, first: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let (sectors, rest) = buffer.as_chunks_mut::<512>();
        assert!(rest.is_empty());
        for (sector, data) in self.0.range(first..first + sectors.len() as u64) {
            sectors[(sector - first) as usize] = *data;
        }
    }

    pub fn get(&self, region: Region) -> Vec<u8> {
        let mut data = vec![0; region.sectors as usize * 512];
        self.read(region.first, &mut data);
        data
    }

    pub fn sha256(&self, bytes: u64) -> String {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < bytes {
            let length = (bytes - at).min(1 << 20) as usize;
            self.read(at / 512, &mut buffer);
            hash.update(&buffer[..length]);
            at += length as u64;
        }
        hex(&hash.finalize())
    }
}

pub struct Restored {
    pub disk: Disk,
    pub summary: Summary,
    pub final_length: Option<u64>,
    pub integrity: Vec<Integrity>,
    pub regions: Vec<Vec<Region>>,
    pub relocations: usize,
}

impl Restored {
    pub fn full_length(&self) -> u64 {
        self.final_length.unwrap_or(self.summary.sectors * 512)
    }

    pub fn sparse_length(&self) -> u64 {
        self.final_length
            .unwrap_or(self.regions.last().unwrap().last().unwrap().end() * 512)
    }

    /// All regions, with those joined that a chunk's end has parted.
    pub fn ranges(&self) -> Vec<Region> {
        let mut ranges: Vec<Region> = Vec::new();
        for region in self.regions.iter().flatten() {
            match ranges.last_mut() {
                Some(last) if last.end() == region.first => last.sectors += region.sectors,
                _ => ranges.push(*region),
            }
        }
        ranges
    }
}

pub fn restore_with(
    image: &[u8],
    place: Place,
    key: Option<&ContentKey>,
    demand: Demand<'_>,
) -> Result<Restored, Error> {
    restore_over(Disk::default(), image, place, key, demand)
}

pub fn restore_over(
    mut disk: Disk,
    image: &[u8],
    place: Place,
    key: Option<&ContentKey>,
    demand: Demand<'_>,
) -> Result<Restored, Error> {
    let mut reader = Reader::new(image);
    let mut final_length = None;
    let mut integrity = Vec::new();
    let mut regions = Vec::new();
    let mut relocations = 0;
    while let Some((chunk, _)) = reader.next_chunk()? {
        integrity.push(chunk.verify(demand)?);
        regions.push(chunk.header().regions.clone());
        relocations += chunk.header().relocations.len();
        let checked = chunk.data(key)?.check(place)?;
        final_length = checked.final_length().or(final_length);
        checked.pieces(|first, data| {
            assert!(data.len() <= ndz::PIECE_MAX);
            disk.write(first, data);
            Ok::<_, Error>(())
        })?;
    }
    let summary = reader.finish()?;
    Ok(Restored {
        disk,
        summary,
        final_length,
        integrity,
        regions,
        relocations,
    })
}

pub fn restore(image: &[u8]) -> Result<Restored, Error> {
    restore_with(image, Place::WholeDisk, None, Demand::Nothing)
}

pub fn content_key() -> ContentKey {
    ContentKey::parse(&golden("test.ekey")).unwrap()
}

pub fn public_key(image: &str) -> PublicKey {
    PublicKey::parse(&golden(&format!("{image}.skey"))).unwrap()
}

/// What a hand-made chunk says, field by field; wrong values are possible.
#[derive(Clone)]
pub struct Made {
    /// 1 to 5; 68 for version 5 with the header of a 32-bit program.
    pub version: u8,
    pub size: Option<u32>,
    pub index: u32,
    pub total: u32,
    pub region_size: u32,
    pub region_count: Option<u32>,
    pub relocation_count: Option<u32>,
    pub span: (u64, u64),
    pub regions: Vec<(u64, u64)>,
    /// Kind, sector, offset, size.
    pub relocations: Vec<(u32, u64, u32, u64)>,
    pub image_id: [u8; 16],
    /// The zlib stream.
    pub stream: Vec<u8>,
}

/// A chunk with these regions; each byte of the data is the low byte of its sector.
pub fn made(version: u8, span: (u64, u64), regions: &[(u64, u64)]) -> Made {
    Made {
        version,
        size: None,
        index: 0,
        total: 0,
        region_size: 4096,
        region_count: None,
        relocation_count: None,
        span,
        regions: regions.to_vec(),
        relocations: Vec::new(),
        image_id: [0; 16],
        stream: zlib(&made_data(regions)),
    }
}

pub fn made_data(regions: &[(u64, u64)]) -> Vec<u8> {
    regions
        .iter()
        .flat_map(|&(first, sectors)| first..first + sectors)
        .flat_map(|sector| [sector as u8; 512])
        .collect()
}

pub fn zlib(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

impl Made {
    pub fn bytes(&self) -> Vec<u8> {
        let wide = self.version >= 5;
        let number = |value: u64| value.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec();
        let mut out = Vec::new();
        out.extend([0x69 + self.version.min(5) - 1, 0x69, 0x69, 0x69]);
        for field in [
            self.size.unwrap_or(self.stream.len() as u32),
            self.index,
            self.total,
            self.region_size,
            self.region_count.unwrap_or(self.regions.len() as u32),
        ] {
            out.extend(field.to_le_bytes());
        }
        let relocation_count = self
            .relocation_count
            .unwrap_or(self.relocations.len() as u32)
            .to_le_bytes();
        if wide {
            out.extend([0; 8]);
            out.extend(relocation_count);
            if self.version == 5 {
                out.extend([0; 4]);
            }
            out.extend(number(self.span.0));
            out.extend(number(self.span.1));
            out.extend(self.image_id);
            assert_eq!(out.len(), if self.version == 5 { 72 } else { 68 });
        } else if self.version > 1 {
            out.extend(number(self.span.0));
            out.extend(number(self.span.1));
            out.extend(relocation_count);
            if self.version == 4 {
                out.resize(328, 0);
                out.extend(self.image_id);
            }
        }
        for &(first, sectors) in &self.regions {
            out.extend(number(first));
            out.extend(number(sectors));
        }
        for &(kind, sector, offset, size) in &self.relocations {
            out.extend(kind.to_le_bytes());
            if wide {
                out.extend(offset.to_le_bytes());
                out.extend(number(sector));
            } else {
                out.extend(number(sector));
                out.extend(offset.to_le_bytes());
            }
            out.extend(number(size));
        }
        out.truncate(4096);
        out.resize(4096, 0);
        out.extend(&self.stream);
        out.truncate(CHUNK_SIZE);
        out.resize(CHUNK_SIZE, 0);
        out
    }
}
