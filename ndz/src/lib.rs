//! The Emulab disk image format ("ndz"), versions 1 to 5: what the bytes mean. `docs/NDZ.md` describes it.
//!
//! An image is a row of chunks of 1 MiB, each with its own header, list of sector regions and zlib stream. Nothing in
//! this crate opens a file or a device, starts a thread or reads a clock.
//!
//! The way of a chunk: [`Reader`] (or [`Chunk::parse`] and [`Set`]) checks headers, [`Chunk::verify`] the checksum or
//! signature, [`Chunk::data`] decrypts, [`Data::check`] inflates everything without handing anything on, and
//! [`Checked::pieces`] gives the data with the sectors they belong to. The types make it impossible to write data of a
//! chunk that is not completely good.
//!
//! ```
//! # fn main() -> Result<(), ndz::Error> {
//! # let image: &[u8] = include_bytes!("../../testdata/ndz/v1-raw.ndz");
//! let mut reader = ndz::Reader::new(image);
//! while let Some((chunk, _span)) = reader.next_chunk()? {
//!     chunk.verify(ndz::Demand::Nothing)?;
//!     let checked = chunk.data(None)?.check(ndz::Place::WholeDisk)?;
//!     checked.pieces(|first_sector, bytes| {
//!         // Write `bytes` at `first_sector`.
//! #       let _ = (first_sector, bytes);
//!         Ok::<_, ndz::Error>(())
//!     })?;
//! }
//! assert_eq!(reader.finish()?.sectors, 400);
//! # Ok(())
//! # }
//! ```

mod chunk;
mod crypt;
mod delta;
mod error;
mod header;
mod image_id;
mod inflate;
mod layout;
mod reader;
mod set;
mod signature;
mod writer;

pub use chunk::{Checked, Chunk, Data, Demand, Integrity, Place};
pub use chunkfmt::relocation::{PartitionPlace, Relocation};
pub use crypt::{ContentKey, PublicKey};
pub use error::{Error, ErrorKind};
pub use header::{Checksum, Cipher, Header, Region, Span, is_image};
pub use image_id::ImageId;
pub use layout::Version;
pub use reader::Reader;
pub use set::{Set, Summary};
pub use signature::{Entry, HashKind, Signature};
pub use writer::{Plan, Writer};

/// Bytes of a chunk: header area and data area.
pub const CHUNK_SIZE: usize = 1 << 20;

/// Bytes of a chunk's header area.
pub const HEADER_SIZE: usize = 4096;

/// Bytes of a chunk's data area.
pub const DATA_SIZE: usize = CHUNK_SIZE - HEADER_SIZE;

/// Bytes of a sector. The format knows no other size.
pub const SECTOR_SIZE: usize = 512;

/// Largest piece of data that is handed on at once, in bytes.
pub const PIECE_MAX: usize = 1 << 20;
