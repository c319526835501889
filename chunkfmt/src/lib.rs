//! The `.frz` disk image format: what the bytes mean.
//!
//! An image is a signed header, independent chunks that are each compressed, encrypted and signed, a signed manifest
//! and a footer. `docs/FORMAT.md` is the normative text; the modules here follow its sections.
//!
//! Nothing in this crate opens a file, a device or a socket, starts a thread or reads a clock. [`Sealer`] and
//! [`Opener`] turn disk data into chunk bytes and back; [`ImageReader`] and [`ImageIndex`] read what they are given.

mod chunk;
mod cipher;
mod codec;
mod error;
mod footer;
mod header;
mod image;
mod legacy;
pub mod manifest;
mod open;
pub mod parity;
pub mod path;
mod payload;
mod prefix;
pub mod relocation;
mod seal;
mod signature;
mod suite;
pub mod tree;

pub use chunk::ChunkHeader;
pub use cipher::{CONTENT_KEY_HEX_LEN, ContentKey};
pub use error::{Error, ErrorKind, Part};
pub use footer::Footer;
pub use header::{Base, ImageHeader, NAME_MAX, WRAPPED_KEYS_MAX};
pub use image::{ImageIndex, ImageReader, Next, check_roots};
pub use legacy::LegacyIndex;
pub use manifest::{ChunkEntry, ChunkSecret, Manifest, ManifestHead, PlainHash};
pub use open::{Buffer, Context, Opener, Verified};
pub use payload::{Layout, Region, Span};
pub use seal::{Sealed, Sealer, SealingMemory};
pub use signature::{KeyId, SigningKey, Trust, TrustedKey, VerifyingKey};
pub use suite::{ChunkFormat, Cipher, Codec, SignatureAlgorithm, Suite};

/// Bytes of a block: the unit of transmission and the leaf of the BLAKE3 tree.
pub const BLOCK_SIZE: usize = 1024;

/// Blocks of a group, the unit that is checked on arrival (16 KiB).
pub const GROUP_BLOCKS: u32 = 16;

/// Bytes of the image header.
pub const HEADER_SIZE: usize = 4096;

/// Largest and default number of plain bytes in a chunk (2 MiB).
pub const CHUNK_SIZE_MAX: u32 = 2 << 20;

/// Smallest chunk size that an image may name (64 KiB).
pub const CHUNK_SIZE_MIN: u32 = 64 << 10;

/// Largest number of blocks of any chunk: header block, payload header, a region per sector, data, tag.
pub const CHUNK_BLOCKS_MAX: u32 = 2082;

/// Blocks of a chunk of an Emulab image (1 MiB).
pub const NDZ_CHUNK_BLOCKS: u32 = 1024;

/// The format version that this crate writes and reads.
pub const VERSION: u16 = 1;
