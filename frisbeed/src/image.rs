//! The image file being served: what is in it and where. Emulab images get header and manifest here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chunkfmt::{BLOCK_SIZE, ImageIndex, LegacyIndex, NAME_MAX, Span};
use frisbee_cli::{Exit, Failure, say};
use frisbee_proto::{Image, Loaded, ObjectInfo};

/// An open image file and its table of contents.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    index: ImageIndex,
    head: Box<[u8; BLOCK_SIZE]>,
    /// The chunk that each object is, object 0 left out: a delta does not have them all.
    chunks: Vec<u32>,
}

impl ImageFile {
    /// Opens an image and checks its form; signatures are the clients' business.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let in_file = |failure| crate::in_file(path, failure);
        let mut file =
            File::open(path).map_err(|error| in_file(Failure::new(Exit::Input, error)))?;
        let index = match is_legacy(&file) {
            true => legacy_index(&file, path).map_err(in_file)?,
            false => ImageIndex::read(&mut file, None).map_err(|error| in_file(error.into()))?,
        };
        let head =
            <Box<[u8; BLOCK_SIZE]>>::try_from(index.manifest_head.clone()).map_err(|_| {
                in_file(Failure::new(
                    Exit::Internal,
                    "the manifest's head is not one block",
                ))
            })?;
        let chunks = index.manifest.present().map(|(index, _)| index).collect();
        Ok(Self {
            file,
            index,
            head,
            chunks,
        })
    }

    pub(crate) fn index(&self) -> &ImageIndex {
        &self.index
    }

    /// Bytes of all objects: what a client has to receive.
    pub(crate) fn object_bytes(&self) -> u64 {
        let head = &self.index.manifest.head;
        head.chunk_blocks
            .saturating_add(u64::from(head.object_blocks))
            .saturating_mul(BLOCK_SIZE as u64)
    }

    /// The image as the protocol knows it.
    pub(crate) fn protocol_image(&self) -> Image {
        let manifest = &self.index.manifest;
        let first = ObjectInfo {
            blocks: manifest.head.object_blocks,
            root: manifest.head.object_root,
            parity: None,
        };
        let chunks = manifest
            .present()
            .map(|(_, entry)| ObjectInfo::of_chunk(entry));
        Image {
            uuid: manifest.head.uuid().into_bytes(),
            head: self.head.clone(),
            objects: std::iter::once(first).chain(chunks).collect(),
        }
    }

    /// Reads and hashes one object: 0 is the manifest object, `i + 1` is the chunk at place `i` of those that the
    /// image has. `memory` is where to, whatever it holds.
    ///
    /// Nothing says that the bytes are still those that the manifest names; their root does.
    pub(crate) fn load(&self, object: u32, memory: Vec<u8>) -> io::Result<Loaded> {
        let bytes = match object.checked_sub(1) {
            None => self.index.manifest_object.clone(),
            Some(place) => {
                let chunk = usize::try_from(place).ok();
                let chunk = chunk.and_then(|place| self.chunks.get(place));
                let chunk = *chunk.ok_or(io::ErrorKind::NotFound)?;
                let (offset, length) = self.index.chunk(chunk).ok_or(io::ErrorKind::NotFound)?;
                let mut bytes = memory;
                bytes.resize(length, 0);
                self.file.read_exact_at(&mut bytes, offset)?;
                bytes
            }
        };
        Loaded::new(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Whether a file begins like an Emulab image. One that cannot be read is told by who reads it next.
fn is_legacy(file: &File) -> bool {
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 0).is_ok() && ndz::is_image(&head)
}

/// Reads an Emulab image from beginning to end, checks that its chunks belong together, and makes what it lacks.
/// Whether their data are good is the clients' business, who have the keys.
fn legacy_index(file: &File, path: &Path) -> Result<ImageIndex, Failure> {
    let mut index = LegacyIndex::default();
    let mut reader = ndz::Reader::new(file);
    while let Some((chunk, span)) = reader.next_chunk()? {
        let span = Span {
            first: span.first,
            sectors: span.end.saturating_sub(span.first),
        };
        let plain_bytes = chunk.header().sectors() * ndz::SECTOR_SIZE as u64;
        index.add(reader.bytes(), span, plain_bytes);
    }
    if reader.finish()?.maybe_cut {
        say(&format!(
            "frisbeed: warning: {}: the last chunk is full: the image may have been cut behind it",
            path.display()
        ));
    }
    Ok(index.finish(image_name(path))?)
}

/// The file's name without its ending, as an image can have it.
fn image_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name: String = stem.chars().filter(|char| !char.is_control()).collect();
    while name.len() > NAME_MAX {
        name.pop();
    }
    name
}
