//! One chunk on its way from bytes to disk data: parsed, verified, decrypted, checked, handed out in pieces.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chunkfmt::relocation::{self, Applied, PartitionPlace};

use crate::crypt::{DIGEST_SIZE, SIGNATURE_SIZE, digest};
use crate::header::{area, v4};
use crate::inflate::Inflater;
use crate::layout::array;
use crate::{
    Checksum, Cipher, ContentKey, Error, HEADER_SIZE, Header, ImageId, PIECE_MAX, PublicKey,
    Region, SECTOR_SIZE,
};

/// Data of a chunk up to this size are kept between checking and handing out, so that they are inflated once only. A
/// usual chunk has 2 to 4 MiB. Larger ones, up to 1 GiB, are inflated twice.
const KEEP_MAX: u64 = 8 << 20;

const SECTOR: u64 = SECTOR_SIZE as u64;

/// What a caller demands of each chunk before it is used.
#[derive(Clone, Copy, Debug)]
pub enum Demand<'a> {
    /// A checksum is compared if there is one; a signature is not looked at.
    Nothing,
    /// There must be a checksum, and it must be right. Finds damage, not changes made on purpose.
    Checksum,
    /// There must be a signature by this key. Refuses all chunks of versions 1, 2, 3 and 5, which have none.
    Signature(&'a PublicKey),
}

/// What [`Chunk::verify`] has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// The chunk has no checksum, or a signature that no key was given for.
    Unknown,
    /// The checksum is right.
    Checksum,
    /// The signature is right.
    Signature,
}

/// What data are restored to, which decides about relocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A whole disk or a file.
    WholeDisk,
    /// A partition.
    Partition(PartitionPlace),
    /// Nothing: the data are wanted as they are in the image, to compare or to convert them.
    AsStored,
}

/// A chunk whose header is good.
#[derive(Debug)]
pub struct Chunk<'a> {
    header: Header,
    area: &'a [u8; HEADER_SIZE],
    data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads the chunk at position `index` of an image. `bytes` must be 1 MiB long.
    ///
    /// # Errors
    /// What is wrong with the header: version, a field, a region, a relocation, another position.
    pub fn parse(index: u32, bytes: &'a [u8]) -> Result<Self, Error> {
        let area = area(index, bytes)?;
        let header = Header::parse(index, area)?;
        let data = bytes
            .get(HEADER_SIZE..HEADER_SIZE + header.data_size)
            .unwrap_or_default();
        Ok(Self { header, area, data })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Checks that the chunk is of the image with this id.
    ///
    /// # Errors
    /// [`Error::ImageId`], also if the chunk has no id, as in versions 1 to 3.
    pub fn demand_image_id(&self, expected: ImageId) -> Result<(), Error> {
        let found = self.header.image_id;
        if found == Some(expected) {
            Ok(())
        } else {
            Err(Error::ImageId {
                chunk: self.header.index,
                found,
                expected,
            })
        }
    }

    /// Checks checksum or signature. They cover the header and the data as stored, not the padding behind.
    ///
    /// # Errors
    /// What is demanded is missing or wrong.
    pub fn verify(&self, demand: Demand<'_>) -> Result<Integrity, Error> {
        let chunk = self.header.index;
        match (self.header.checksum, demand) {
            (Checksum::None, Demand::Nothing) => Ok(Integrity::Unknown),
            (Checksum::None, Demand::Checksum) => Err(Error::NoChecksum { chunk }),
            (Checksum::None | Checksum::Sha1, Demand::Signature(_)) => {
                Err(Error::NotSigned { chunk })
            }
            (Checksum::SignedSha1, Demand::Nothing) => Ok(Integrity::Unknown),
            // The digest is inside of the signature block, which cannot be opened without the key.
            (Checksum::SignedSha1, Demand::Checksum) => Err(Error::NoChecksum { chunk }),
            (Checksum::Sha1, Demand::Nothing | Demand::Checksum) => {
                let stored = self.checksum_field::<DIGEST_SIZE>();
                let good = stored.is_some_and(|stored| stored == digest(self.area, self.data));
                if good {
                    Ok(Integrity::Checksum)
                } else {
                    Err(Error::Checksum { chunk })
                }
            }
            (Checksum::SignedSha1, Demand::Signature(key)) => {
                let signature = self.checksum_field::<SIGNATURE_SIZE>();
                let good = signature
                    .is_some_and(|signature| key.verify(&signature, &digest(self.area, self.data)));
                if good {
                    Ok(Integrity::Signature)
                } else {
                    Err(Error::Signature { chunk })
                }
            }
        }
    }

    /// The used part of the checksum field. `None` if the unused part, which no checksum covers, is not zero.
    fn checksum_field<const N: usize>(&self) -> Option<[u8; N]> {
        let field: [u8; v4::CHECKSUM_SIZE] = array(self.area, v4::CHECKSUM);
        let (used, unused) = field.split_first_chunk()?;
        unused.iter().all(|&byte| byte == 0).then_some(*used)
    }

    /// The chunk's compressed data, decrypted with `key`. Call [`Self::verify`] before.
    ///
    /// # Errors
    /// Key given and data not encrypted, or the other way round, or wrong padding, which tells of a wrong key in all but
    /// one of 256 cases; what is left is found by [`Data::check`].
    pub fn data(&self, key: Option<&ContentKey>) -> Result<Data<'_>, Error> {
        let chunk = self.header.index;
        let stream = match (self.header.cipher, key) {
            (Cipher::None, None) => Cow::Borrowed(self.data),
            (Cipher::None, Some(_)) => return Err(Error::NotEncrypted { chunk }),
            (Cipher::BlowfishCbc, None) => return Err(Error::KeyNeeded { chunk }),
            (Cipher::BlowfishCbc, Some(key)) => {
                let iv = array(self.area, v4::IV);
                Cow::Owned(key.decrypt(iv, self.data).ok_or(Error::Decrypt { chunk })?)
            }
        };
        Ok(Data {
            header: &self.header,
            stream,
        })
    }
}

/// The compressed data of a chunk, not encrypted any more.
pub struct Data<'a> {
    header: &'a Header,
    stream: Cow<'a, [u8]>,
}

impl<'a> Data<'a> {
    /// Inflates everything, hands nothing on, and relocates. Needs at most 8 MiB of memory.
    ///
    /// # Errors
    /// [`Error::Stream`] if the data are not exactly what the regions hold, [`Error::Relocation`] if something cannot be
    /// relocated to `place`.
    pub fn check(self, place: Place) -> Result<Checked<'a>, Error> {
        let Self { header, stream } = self;
        let chunk = header.index;
        let bad = |fault| Error::Relocation { chunk, fault };
        let mut sectors = BTreeMap::new();
        if place != Place::AsStored {
            for relocation in &header.relocations {
                if let Some((first, end)) = relocation.sectors().map_err(bad)? {
                    sectors.extend((first..end).map(|sector| (sector, [0; SECTOR_SIZE])));
                }
            }
        }
        let bytes = header.sectors() * SECTOR;
        let mut kept = None;
        if bytes <= KEEP_MAX {
            let mut plain = vec![0; usize::try_from(bytes).unwrap_or_default()];
            let mut inflater = Inflater::new(chunk, &stream);
            inflater.fill(&mut plain)?;
            inflater.end()?;
            let mut rest = plain.as_slice();
            for region in &header.regions {
                let (data, behind) =
                    rest.split_at(usize::try_from(region.sectors * SECTOR).unwrap_or_default());
                take_sectors(&mut sectors, region.first, data);
                rest = behind;
            }
            kept = Some(plain);
        } else {
            inflate(header, &stream, |first, data| {
                take_sectors(&mut sectors, first, data);
                Ok::<_, Error>(())
            })?;
        }
        let partition = match place {
            Place::Partition(place) => Some(place),
            Place::WholeDisk | Place::AsStored => None,
        };
        let relocations = if place == Place::AsStored {
            &[]
        } else {
            header.relocations.as_slice()
        };
        let applied = relocation::apply(relocations, partition, &mut sectors).map_err(bad)?;
        Ok(Checked {
            header,
            stream,
            kept,
            sectors,
            applied,
        })
    }
}

/// Copies those of `sectors` that are in `data`, which begins at sector `first`.
fn take_sectors(sectors: &mut BTreeMap<u64, [u8; SECTOR_SIZE]>, first: u64, data: &[u8]) {
    let (found, _) = data.as_chunks::<SECTOR_SIZE>();
    for (&sector, to) in sectors.range_mut(first..first + found.len() as u64) {
        if let Some(from) = usize::try_from(sector - first)
            .ok()
            .and_then(|at| found.get(at))
        {
            *to = *from;
        }
    }
}

/// Inflates a whole chunk piece by piece into one buffer of at most 1 MiB.
fn inflate<E: From<Error>>(
    header: &Header,
    stream: &[u8],
    mut sink: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut inflater = Inflater::new(header.index, stream);
    let mut buffer = vec![0; PIECE_MAX];
    for (first, sectors) in header.regions.iter().flat_map(pieces) {
        let piece = buffer.get_mut(..sectors * SECTOR_SIZE).unwrap_or_default();
        inflater.fill(piece)?;
        sink(first, piece)?;
    }
    Ok(inflater.end()?)
}

/// The pieces of a region: first sector and number of sectors.
fn pieces(region: &Region) -> impl Iterator<Item = (u64, usize)> + use<> {
    const SECTORS: usize = PIECE_MAX / SECTOR_SIZE;
    let (first, end) = (region.first, region.end());
    (first..end).step_by(SECTORS).map(move |at| {
        (
            at,
            usize::try_from(end - at).unwrap_or(SECTORS).min(SECTORS),
        )
    })
}

/// The data of a chunk that is completely good.
pub struct Checked<'a> {
    header: &'a Header,
    stream: Cow<'a, [u8]>,
    kept: Option<Vec<u8>>,
    /// Relocated sectors, which replace those of the stream.
    sectors: BTreeMap<u64, [u8; SECTOR_SIZE]>,
    applied: Applied,
}

impl Checked<'_> {
    /// Length of the image in bytes, if its last sector is not full. It is in this chunk and is handed out whole; cut
    /// the output to this length after writing.
    #[must_use]
    pub fn final_length(&self) -> Option<u64> {
        self.applied.final_length
    }

    /// Kinds of relocations that are not known and were left alone: the user should be told.
    #[must_use]
    pub fn unknown_relocations(&self) -> &[u32] {
        &self.applied.unknown
    }

    /// Hands all data to `sink`, in ascending order, in pieces of whole sectors and at most 1 MiB, with the first
    /// sector of each.
    ///
    /// # Errors
    /// Those of `sink`; the data were checked before.
    pub fn pieces<E: From<Error>>(
        mut self,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let sectors = &self.sectors;
        let mut relocate = |first: u64, piece: &mut [u8]| {
            let found = piece.as_chunks_mut::<SECTOR_SIZE>().0;
            for (&sector, from) in sectors.range(first..first + found.len() as u64) {
                if let Some(to) = usize::try_from(sector - first)
                    .ok()
                    .and_then(|at| found.get_mut(at))
                {
                    *to = *from;
                }
            }
            sink(first, piece)
        };
        let Some(plain) = self.kept.as_mut() else {
            return inflate(self.header, &self.stream, relocate);
        };
        let mut rest = plain.as_mut_slice();
        for (first, sectors) in self.header.regions.iter().flat_map(pieces) {
            let (piece, behind) = rest.split_at_mut(sectors * SECTOR_SIZE);
            relocate(first, piece)?;
            rest = behind;
        }
        Ok(())
    }
}
