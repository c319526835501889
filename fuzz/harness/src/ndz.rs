//! Target `ndz`: chunks of Emulab's format, their signature files and key files.

use ndz::{
    CHUNK_SIZE, Checksum, Chunk, Demand, Error, HEADER_SIZE, Header, PIECE_MAX, PartitionPlace,
    Place, PublicKey, Reader, SECTOR_SIZE, Set, Signature,
};
use sha1::{Digest, Sha1};

use crate::forge;

/// Most disk bytes that a fuzzed chunk may hold: what inflates to more only takes time.
const INFLATE_MAX: u64 = 16 << 20;

/// First byte: 0 a signature file, 1 a public key, 2 a content key; otherwise a chunk, of which bit 3 leaves the header
/// as it is and bits 4 and 5 choose the place. Then two bytes: how much of the rest is header, which is padded with
/// zeros. What follows is data.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    match how {
        0 => signature_file(rest),
        1 => PublicKey::parse(rest).is_ok(),
        2 => ndz::ContentKey::parse(rest).is_ok(),
        _ => chunk(how, rest),
    }
}

/// The input of which [`feed`] makes this chunk.
pub(crate) fn input(how: u8, chunk: &[u8]) -> Vec<u8> {
    let (header, data) = chunk.split_at(HEADER_SIZE);
    let trim = |bytes: &[u8]| {
        bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1)
    };
    let length = u16::try_from(trim(header)).unwrap();
    let header = &header[..length.into()];
    [
        &[how],
        &length.to_le_bytes()[..],
        header,
        &data[..trim(data)],
    ]
    .concat()
}

/// SHA-1 of header and used data, the checksum field taken as zero (docs/NDZ.md).
fn checksum(chunk: &[u8]) -> [u8; 20] {
    let data_size = (forge::u32_at(chunk, 4) as usize).min(CHUNK_SIZE - HEADER_SIZE);
    let mut area = chunk[..HEADER_SIZE].to_vec();
    area[72..72 + 256].fill(0);
    Sha1::new()
        .chain_update(area)
        .chain_update(&chunk[HEADER_SIZE..HEADER_SIZE + data_size])
        .finalize()
        .into()
}

fn chunk(how: u8, rest: &[u8]) -> bool {
    let Some((length, rest)) = rest.split_first_chunk() else {
        return false;
    };
    let length = usize::from(u16::from_le_bytes(*length))
        .min(rest.len())
        .min(HEADER_SIZE);
    let (header, data) = rest.split_at(length);
    let mut bytes = vec![0; CHUNK_SIZE];
    forge::put(&mut bytes, 0, header);
    forge::put(&mut bytes, HEADER_SIZE, data);
    if how & 8 == 0 {
        // Zlib has to end where the data do.
        let size = u32::try_from(data.len().clamp(1, CHUNK_SIZE - HEADER_SIZE)).unwrap();
        forge::put(&mut bytes, 4, &size.to_le_bytes());
        forge::put(&mut bytes, 8, &[0; 4]);
        forge::put(&mut bytes, 16, &4096_u32.to_le_bytes());
        if bytes[38] == 1 && bytes[0] == 0x6c {
            let checksum = checksum(&bytes);
            forge::put(&mut bytes, 72, &checksum);
        }
    }
    let place = match how >> 4 & 3 {
        0 => Place::WholeDisk,
        1 => Place::AsStored,
        _ => Place::Partition(PartitionPlace {
            first_sector: 2048,
            sectors: 1 << 22,
        }),
    };
    one_chunk(&bytes, place)
}

fn one_chunk(bytes: &[u8], place: Place) -> bool {
    let mut reader = Reader::new(bytes);
    let read = reader.next_chunk();
    let Ok(chunk) = Chunk::parse(0, bytes) else {
        assert!(read.is_err());
        return false;
    };
    let header = chunk.header();
    check_header(header);
    let span = Set::new(None).add(header);
    match (read, span) {
        (Ok(Some((_, read))), Ok(span)) => {
            assert_eq!(read, span);
            assert!(header.regions[0].first >= span.first && header.end() <= span.end);
        }
        (Err(_), Err(_)) => {}
        _ => panic!("reader and set differ"),
    }
    let verified = chunk.verify(Demand::Nothing);
    if header.checksum == Checksum::Sha1 && verified.is_ok() {
        assert_eq!(bytes[72..92], checksum(bytes));
    }
    assert!(header.checksum != Checksum::None || chunk.verify(Demand::Checksum).is_err());
    if header.sectors() * SECTOR_SIZE as u64 > INFLATE_MAX {
        return false;
    }
    let Ok(data) = chunk.data(None) else {
        return false;
    };
    let Ok(checked) = data.check(place) else {
        return false;
    };
    let final_length = checked.final_length();
    let mut sectors = header
        .regions
        .iter()
        .flat_map(|region| region.first..region.end());
    let pieces = checked.pieces(|first, piece| {
        assert!(!piece.is_empty() && piece.len() <= PIECE_MAX);
        assert_eq!(piece.len() % SECTOR_SIZE, 0);
        for sector in first..first + (piece.len() / SECTOR_SIZE) as u64 {
            assert_eq!(sectors.next(), Some(sector));
        }
        Ok::<_, Error>(())
    });
    pieces.unwrap();
    assert_eq!(sectors.next(), None);
    if let Some(length) = final_length {
        assert_eq!(length.div_ceil(SECTOR_SIZE as u64), header.end());
    }
    true
}

fn check_header(header: &Header) {
    let mut position = header.span.map_or(0, |span| span.first);
    assert!(!header.regions.is_empty() && header.regions.len() <= HEADER_SIZE / 8);
    for region in &header.regions {
        assert!(region.sectors > 0 && region.first >= position);
        position = region.first.checked_add(region.sectors).unwrap();
    }
    assert!(header.span.is_none_or(|span| position <= span.end));
    assert!(header.sectors() <= 1 << 22, "2 GiB in 1 MiB");
    assert!(position.checked_mul(SECTOR_SIZE as u64).is_some());
}

fn signature_file(bytes: &[u8]) -> bool {
    let Ok(signature) = Signature::parse(bytes) else {
        return false;
    };
    let block = u64::from(signature.block_sectors());
    assert!((1..=65_536).contains(&block));
    assert!(signature.entries().len() <= bytes.len() / 32);
    let mut position = 0;
    for entry in signature.entries() {
        let region = entry.sectors;
        assert!(region.sectors > 0 && region.first >= position);
        assert_eq!(region.first / block, (region.end() - 1) / block);
        position = region.end();
        let _ = signature.matches(entry, b"other data");
    }
    true
}
