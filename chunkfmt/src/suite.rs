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
    }
}

numbered! {
    /// How chunk bodies and the manifest's private part are encrypted.
    Cipher, "cipher" {
        /// Not encrypted.
        None = 0, "none";
        /// AES-256-GCM, NIST SP 800-38D.
        Aes256Gcm = 1, "AES-256-GCM";
    }
}

numbered! {
    /// How header, chunks and manifest are signed.
    SignatureAlgorithm, "signature algorithm" {
        /// Not signed.
        None = 0, "none";
        /// Ed25519, RFC 8032.
        Ed25519 = 1, "Ed25519";
    }
}
