//! Where the parts of an image file are, by the tables of `docs/FORMAT.md`, not by the code under test.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

const BLOCK: usize = 1024;
const HEADER: usize = 4096;

/// A part of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name, for messages.
    pub name: String,
    /// Its bytes.
    pub bytes: Range<usize>,
}

/// Places of a chunk in an image file.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Header block, body and padding.
    pub bytes: Range<usize>,
    /// End of the body.
    pub body_end: usize,
}

/// An image file taken apart.
#[derive(Clone, Debug)]
pub struct Anatomy {
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
    /// First byte of the manifest.
    pub manifest: usize,
    /// First byte of the footer, which is the last block.
    pub footer: usize,
}

fn u32_at(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the image ends early")?;
    Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
}

impl Anatomy {
    /// Takes an image apart.
    ///
    /// # Errors
    /// If it is not one.
    pub fn of(image: &[u8]) -> Result<Self> {
        let mut at = HEADER;
        let mut chunks = Vec::new();
        while image
            .get(at..)
            .is_some_and(|rest| rest.starts_with(b"FRZCHUNK"))
        {
            let body_end = at + BLOCK + u32_at(image, at + 60)?;
            let end = body_end.next_multiple_of(BLOCK);
            chunks.push(Chunk {
                bytes: at..end,
                body_end,
            });
            at = end;
        }
        ensure!(
            image
                .get(at..)
                .is_some_and(|rest| rest.starts_with(b"FRZMANIF")),
            "no manifest at byte {at}"
        );
        let footer = image.len() - BLOCK;
        ensure!(image[footer..].starts_with(b"FRZFOOTR"), "no footer");
        Ok(Self {
            chunks,
            manifest: at,
            footer,
        })
    }

    /// All parts in their order, without gaps.
    pub fn parts(&self) -> Vec<Part> {
        let part = |name: &str, bytes: Range<usize>| Part {
            name: name.into(),
            bytes,
        };
        let mut parts = vec![part("image header", 0..HEADER)];
        for (index, chunk) in self.chunks.iter().enumerate() {
            let start = chunk.bytes.start;
            parts.push(part(
                &format!("header of chunk {index}"),
                start..start + BLOCK,
            ));
            parts.push(part(
                &format!("body of chunk {index}"),
                start + BLOCK..chunk.body_end,
            ));
            parts.push(part(
                &format!("padding of chunk {index}"),
                chunk.body_end..chunk.bytes.end,
            ));
        }
        parts.push(part("manifest head", self.manifest..self.manifest + BLOCK));
        parts.push(part("manifest body", self.manifest + BLOCK..self.footer));
        parts.push(part("footer", self.footer..self.footer + BLOCK));
        parts.retain(|part| !part.bytes.is_empty());
        parts
    }
}
