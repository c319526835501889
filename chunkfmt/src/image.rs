//! Reading whole images: as a stream from a pipe, or by index from something that can seek.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use crate::prefix::blocks_of;
use crate::tree::Cv;
use crate::{
    BLOCK_SIZE, ChunkHeader, Error, Footer, HEADER_SIZE, ImageHeader, Manifest, ManifestHead, Part,
    Trust,
};

/// Reads `buffer` full.
fn read_full(
    source: &mut impl Read,
    buffer: &mut [u8],
    part: Part,
    offset: u64,
) -> Result<(), Error> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => {
                return Err(Error::Truncated {
                    part,
                    offset: offset + filled as u64,
                });
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Io {
                    offset: offset + filled as u64,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Reads manifest body and checks it against its head and the header's bytes.
fn read_manifest(
    source: &mut impl Read,
    head: ManifestHead,
    header_bytes: &[u8],
    offset: u64,
) -> Result<(Manifest, Vec<u8>), Error> {
    let mut object = header_bytes.to_vec();
    let expected = head.padded_body_length();
    // Grows with what really comes, not with what the head claims.
    let read = source
        .by_ref()
        .take(expected)
        .read_to_end(&mut object)
        .map_err(|source| Error::Io { offset, source })?;
    if read as u64 != expected {
        return Err(Error::Truncated {
            part: Part::Manifest,
            offset: offset + read as u64,
        });
    }
    let (_, manifest) = Manifest::parse(head, &object)?;
    Ok((manifest, object))
}

fn footer_of(head: &ManifestHead, manifest_offset: u64) -> Footer {
    Footer {
        uuid: head.uuid().into_bytes(),
        manifest_offset,
        manifest_length: BLOCK_SIZE as u64 + head.padded_body_length(),
    }
}

/// What comes next in an image that is read as a stream.
#[derive(Debug)]
pub enum Next {
    /// The chunk with this index is in the buffer; nothing of it is verified but its lengths. Without a gap the
    /// indexes rise from 0; a delta leaves some out.
    Chunk(u32),
    /// All chunks have come, and so has the manifest; the stream is at its end.
    End(Box<Manifest>),
}

/// Reads an image from beginning to end, as from a pipe. Memory: one chunk, and the manifest at the end.
pub struct ImageReader<R> {
    source: R,
    header_bytes: Vec<u8>,
    trust: Trust,
    offset: u64,
    /// The index that the next chunk should have, or may have in a delta.
    next: u32,
    delta: bool,
    /// Blocks of the chunks that came.
    blocks: Vec<u32>,
}

impl<R: Read> ImageReader<R> {
    /// Reads the image header, whose bytes [`ImageReader::header_bytes`] then gives.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::NotAnImage`], [`Error::Io`]
    pub fn new(mut source: R, trust: Trust) -> Result<Self, Error> {
        let mut header_bytes = vec![0; HEADER_SIZE];
        read_full(&mut source, &mut header_bytes, Part::Header, 0).or_else(
            |error| match error {
                // A short file that begins with something else is no image, rather than a short one.
                Error::Truncated { offset, .. } => ImageHeader::parse(
                    header_bytes
                        .get(..usize::try_from(offset).unwrap_or(0))
                        .unwrap_or_default(),
                )
                .map(|_| ()),
                other => Err(other),
            },
        )?;
        let header = ImageHeader::parse(&header_bytes)?;
        Ok(Self {
            source,
            header_bytes,
            trust,
            offset: HEADER_SIZE as u64,
            next: 0,
            delta: header.base.is_some(),
            blocks: Vec::new(),
        })
    }

    /// The bytes of the image header.
    pub fn header_bytes(&self) -> &[u8] {
        &self.header_bytes
    }

    /// Bytes of the image read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next chunk into `chunk` (cleared first), or the manifest, whose signature and root are checked.
    ///
    /// The caller then has to compare the chunks' roots with the manifest's: [`check_roots`].
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Truncated`], [`Error::Io`]; what is wrong with manifest or footer.
    pub fn next(&mut self, chunk: &mut Vec<u8>) -> Result<Next, Error> {
        let mut index = self.next;
        let part = Part::Chunk(index);
        chunk.clear();
        chunk.resize(BLOCK_SIZE, 0);
        read_full(&mut self.source, chunk, part, self.offset)?;
        let offset = self.offset;
        self.offset += BLOCK_SIZE as u64;
        if ManifestHead::is_manifest(chunk) {
            let head = ManifestHead::parse(chunk)?;
            head.verify(chunk, &self.trust)?;
            let footer = footer_of(&head, offset);
            let (manifest, _) =
                read_manifest(&mut self.source, head, &self.header_bytes, self.offset)?;
            self.offset += manifest.head.padded_body_length();
            self.read_footer(footer)?;
            check_blocks(&manifest, &self.blocks)?;
            return Ok(Next::End(Box::new(manifest)));
        }
        if !ChunkHeader::is_chunk(chunk) {
            return Err(Error::Lost { offset });
        }
        let header = ChunkHeader::parse(chunk, index)?;
        if self.delta && header.index > index {
            index = header.index;
        }
        // `parse` bounds the length: at most CHUNK_BLOCKS_MAX.
        chunk.resize(header.blocks() as usize * BLOCK_SIZE, 0);
        read_full(
            &mut self.source,
            &mut chunk[BLOCK_SIZE..],
            part,
            self.offset,
        )?;
        self.offset = offset + chunk.len() as u64;
        self.next = index.saturating_add(1);
        self.blocks.push(header.blocks());
        Ok(Next::Chunk(index))
    }

    fn read_footer(&mut self, expected: Footer) -> Result<(), Error> {
        let mut block = [0; BLOCK_SIZE];
        read_full(&mut self.source, &mut block, Part::Footer, self.offset)?;
        self.offset += BLOCK_SIZE as u64;
        if Footer::parse(&block)? != expected {
            return Err(Error::Field {
                part: Part::Footer,
                field: "place of the manifest",
            });
        }
        let mut extra = [0];
        match read_full(&mut self.source, &mut extra, Part::Footer, self.offset) {
            Err(Error::Truncated { .. }) => Ok(()),
            Ok(()) => Err(Error::Trailing),
            Err(other) => Err(other),
        }
    }
}

/// Compares the lengths of the chunks that came with the manifest's: who reads by index finds chunks by these. Whether
/// the chunks are the right ones, and all of them, is left to [`check_roots`].
fn check_blocks(manifest: &Manifest, blocks: &[u32]) -> Result<(), Error> {
    let expected = (0..)
        .zip(&manifest.entries)
        .filter(|(_, entry)| entry.is_present());
    let present = expected.clone().count();
    let other = expected
        .zip(blocks)
        .find(|((_, entry), found)| entry.blocks != **found);
    match other {
        Some(((number, _), _)) if blocks.len() == present => Err(Error::NotInManifest {
            part: Part::Chunk(number),
        }),
        _ => Ok(()),
    }
}

/// Compares the chunks that came, in their order, each with its index and root, with the manifest.
///
/// # Errors
/// [`Error::ChunkCount`], [`Error::NotInManifest`]
pub fn check_roots(manifest: &Manifest, roots: &[(u32, Cv)]) -> Result<(), Error> {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let (expected_count, found) = (count(manifest.present().count()), count(roots.len()));
    if found != expected_count {
        return Err(Error::ChunkCount {
            expected: expected_count,
            found,
        });
    }
    for ((number, entry), &(index, root)) in manifest.present().zip(roots) {
        if (index, root) != (number, entry.root) {
            return Err(Error::NotInManifest {
                part: Part::Chunk(index),
            });
        }
    }
    Ok(())
}

/// An image file's table of contents: where each chunk is, and the manifest object.
#[derive(Debug)]
pub struct ImageIndex {
    /// The manifest. Its root is checked, its signature only if `trust` was given.
    pub manifest: Manifest,
    /// The image header.
    pub header: ImageHeader,
    /// The manifest's signed first block.
    pub manifest_head: Vec<u8>,
    /// Object 0 of the transmission: image header, then manifest body.
    pub manifest_object: Vec<u8>,
    pub(crate) offsets: Vec<u64>,
}

impl ImageIndex {
    /// Reads header, footer and manifest of an image and checks that they fit each other and the file's length.
    ///
    /// With `trust` the owner's signature on the manifest is checked; a server that has no key leaves it out.
    ///
    /// # Errors
    /// What is wrong with the image.
    pub fn read(source: &mut (impl Read + Seek), trust: Option<&Trust>) -> Result<Self, Error> {
        let io = |source| Error::Io { offset: 0, source };
        let length = source.seek(SeekFrom::End(0)).map_err(io)?;
        source.seek(SeekFrom::Start(0)).map_err(io)?;
        let header_bytes = ImageReader::new(&mut *source, Trust::default())?.header_bytes;
        let header = ImageHeader::parse(&header_bytes)?;

        let truncated = || Error::Truncated {
            part: Part::Footer,
            offset: length,
        };
        let footer_at = length
            .checked_sub(BLOCK_SIZE as u64)
            .ok_or_else(truncated)?;
        let mut block = [0; BLOCK_SIZE];
        source.seek(SeekFrom::Start(footer_at)).map_err(io)?;
        read_full(source, &mut block, Part::Footer, footer_at)?;
        // An image that was cut has something else at its end.
        let footer = Footer::parse(&block).map_err(|error| match error {
            Error::Field { field: "magic", .. } => truncated(),
            other => other,
        })?;
        if footer.manifest_offset.checked_add(footer.manifest_length) != Some(footer_at) {
            return Err(truncated());
        }

        let mut manifest_head = vec![0; BLOCK_SIZE];
        let offset = footer.manifest_offset;
        source.seek(SeekFrom::Start(offset)).map_err(io)?;
        read_full(source, &mut manifest_head, Part::Manifest, offset)?;
        let head = ManifestHead::parse(&manifest_head)?;
        if let Some(trust) = trust {
            head.verify(&manifest_head, trust)?;
        }
        if footer_of(&head, offset) != footer {
            return Err(Error::Field {
                part: Part::Footer,
                field: "place of the manifest",
            });
        }
        let (manifest, manifest_object) =
            read_manifest(source, head, &header_bytes, offset + BLOCK_SIZE as u64)?;
        let mut offsets = Vec::with_capacity(manifest.entries.len());
        let mut position = HEADER_SIZE as u64;
        for entry in &manifest.entries {
            offsets.push(position);
            position += u64::from(entry.blocks) * BLOCK_SIZE as u64;
        }
        if position != offset {
            return Err(Error::Field {
                part: Part::Footer,
                field: "place of the manifest",
            });
        }
        Ok(Self {
            manifest,
            header,
            manifest_head,
            manifest_object,
            offsets,
        })
    }

    /// Offset in the file and length in bytes of a chunk; `None` if there is no such chunk, or a delta leaves it out.
    pub fn chunk(&self, index: u32) -> Option<(u64, usize)> {
        let index = usize::try_from(index).ok()?;
        let entry = self.manifest.entries.get(index)?;
        if !entry.is_present() {
            return None;
        }
        Some((
            *self.offsets.get(index)?,
            entry.blocks as usize * BLOCK_SIZE,
        ))
    }

    /// Number of blocks of the manifest object.
    pub fn manifest_object_blocks(&self) -> u64 {
        blocks_of(self.manifest_object.len() as u64)
    }
}
