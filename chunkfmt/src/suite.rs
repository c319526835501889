//! The algorithms an image may name, with their numbers in the format (docs/FORMAT.md, section 3).

use crate::{Error, Part};

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident, $field:literal { $($(#[$vmeta:meta])* $variant:ident = $number:literal, $label:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            pub(crate) fn number(self) -> u8 {
                match self { $(Self::$variant => $number),+ }
            }

            pub(crate) fn from_number(number: u8, part: Part) -> Result<Self, Error> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Error::Field { part, field: $field }),
                }
            }

            /// The algorithm's usual name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

numbered! {
    /// How chunk data is compressed.
    Codec, "codec" {
        /// Stored as it is.
        None = 0, "none";
        /// Zstandard, RFC 8878; one frame per chunk.
        Zstd = 1, "zstd";
        /// zlib, RFC 1950; one stream per chunk.
        Zlib = 2, "zlib";
    }
}

numbered! {
    /// How chunk bodies and the manifest's private part are encrypted.
    Cipher, "cipher" {
        /// Not encrypted.
        None = 0, "none";
        /// AES-256-GCM, NIST SP 800-38D.
        Aes256Gcm = 1, "AES-256-GCM";
        /// ChaCha20-Poly1305, RFC 8439.
        ChaCha20Poly1305 = 2, "ChaCha20-Poly1305";
        /// Blowfish in CBC mode, then HMAC-SHA-256; keys of its own for each chunk.
        BlowfishCbc = 3, "Blowfish-CBC";
    }
}

numbered! {
    /// How header, chunks and manifest are signed.
    SignatureAlgorithm, "signature algorithm" {
        /// Not signed.
        None = 0, "none";
        /// Ed25519, RFC 8032.
        Ed25519 = 1, "Ed25519";
        /// RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 bytes, RFC 8017.
        RsaPss = 2, "RSA-PSS-SHA-256";
    }
}

numbered! {
    /// What the chunks of an image are.
    ChunkFormat, "chunk format" {
        /// Chunks of this format.
        Frz = 0, "frz";
        /// Chunks of an Emulab image of 1 MiB each, as they are; the manifest only says what they hash to.
        Ndz = 1, "ndz";
    }
}

/// Algorithms that are chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Zstandard, an AEAD, Ed25519 and BLAKE3.
    Modern,
    /// zlib, Blowfish-CBC with HMAC-SHA-256, RSA-PSS and SHA-256.
    Classic,
}

impl Suite {
    /// Whether an image made with these algorithms belongs to the suite. What is absent (no codec, no cipher, no
    /// signature) belongs to both.
    pub fn admits(self, codec: Codec, cipher: Cipher, signature: SignatureAlgorithm) -> bool {
        let codec = match codec {
            Codec::None => true,
            Codec::Zstd => self == Self::Modern,
            Codec::Zlib => self == Self::Classic,
        };
        let cipher = match cipher {
            Cipher::None => true,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => self == Self::Modern,
            Cipher::BlowfishCbc => self == Self::Classic,
        };
        let signature = match signature {
            SignatureAlgorithm::None => true,
            SignatureAlgorithm::Ed25519 => self == Self::Modern,
            SignatureAlgorithm::RsaPss => self == Self::Classic,
        };
        codec && cipher && signature
    }

    /// The suite's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Classic => "classic",
        }
    }
}
