//! The keys of version 4 and what is done with them: checksum, RSA signature, Blowfish (docs/NDZ.md, Protection).

use std::fmt;

use blowfish::Blowfish;
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, InnerIvInit, KeyInit};
use rsa::hazmat::rsa_encrypt;
use rsa::{BoxedUint, PublicKey as RsaKey};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use crate::header::v4;
use crate::image_id::hex_bytes;
use crate::{Error, HEADER_SIZE};

/// Bytes of a SHA-1 digest.
pub(crate) const DIGEST_SIZE: usize = 20;

/// Bytes of an RSA signature in an image.
pub(crate) const SIGNATURE_SIZE: usize = 64;

const MODULUS_BITS: usize = 512;

/// Longest key file that is looked at, in bytes. A real one has 455.
const KEY_FILE_MAX: usize = 1024;

/// The secret key of an encrypted image. It is wiped from memory when dropped, and never shown.
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

impl ContentKey {
    /// Reads the content of a key file (`.ekey`): 64 hexadecimal digits and at most a line end.
    ///
    /// # Errors
    /// [`Error::KeyFile`], which does not show what was read.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let bad = |fault| Error::KeyFile {
            file: "key file",
            fault,
        };
        let line = file.strip_suffix(b"\n").unwrap_or(file);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() != 64 {
            return Err(bad("not exactly one line of 64 hexadecimal digits"));
        }
        let bytes = Zeroizing::new(hex_bytes(line).ok_or_else(|| bad("not hexadecimal digits"))?);
        let mut key = Zeroizing::new([0; 32]);
        for (to, from) in key.iter_mut().zip(bytes.iter()) {
            *to = *from;
        }
        Ok(Self(key))
    }

    /// Decrypts the data area of a chunk and takes the padding off, which has to be complete and right.
    pub(crate) fn decrypt(&self, iv: [u8; 8], data: &[u8]) -> Option<Vec<u8>> {
        let cipher = Blowfish::new_from_slice(self.0.as_slice()).ok()?;
        let mut plain = data.to_vec();
        let length = Decryptor::<Blowfish>::inner_iv_init(cipher, &iv.into())
            .decrypt_padded::<Pkcs7>(&mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
    }
}

/// The public half of the key that signed an image: RSA, 512 bits.
///
/// Its file (`.skey`) holds the private half too; whoever can read the file can sign. Only modulus and exponent are
/// taken from it, and a file that holds nothing else is accepted.
#[derive(Clone, Debug)]
pub struct PublicKey(RsaKey);

impl PublicKey {
    /// Reads the content of a key file (`.skey`): five lines of hexadecimal digits, of which the first two are used, or
    /// only those two.
    ///
    /// # Errors
    /// [`Error::KeyFile`] if it is something else, or no usable key of 512 bits.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let bad = |fault| Error::KeyFile {
            file: "signature key file",
            fault,
        };
        if file.len() > KEY_FILE_MAX {
            return Err(bad("longer than a key file can be"));
        }
        let text = file.strip_suffix(b"\n").unwrap_or(file);
        let lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
        let digits = |line: &&[u8]| {
            (1..=128).contains(&line.len()) && line.iter().all(u8::is_ascii_hexdigit)
        };
        let ([modulus, exponent] | [modulus, exponent, _, _, _]) = lines.as_slice() else {
            return Err(bad("not five lines (or the first two)"));
        };
        if !lines.iter().all(digits) {
            return Err(bad("not lines of up to 128 hexadecimal digits"));
        }
        let number = |line: &[u8]| {
            // A number without leading zero may have an odd number of digits.
            let padded: Vec<u8> = std::iter::repeat_n(b'0', line.len() % 2)
                .chain(line.iter().copied())
                .collect();
            BoxedUint::from_be_slice(&hex_bytes(&padded)?, 512).ok()
        };
        let (modulus, exponent) = number(modulus)
            .zip(number(exponent))
            .ok_or_else(|| bad("not a number"))?;
        RsaKey::new_with_size_limits(modulus, exponent, MODULUS_BITS..=MODULUS_BITS)
            .map(Self)
            .map_err(|_| bad("not a usable RSA key of 512 bits"))
    }

    /// Whether `signature` is of `digest`. The block is PKCS #1 type 1 without a name of the hash: 00 01, eight FF, 00,
    /// then 53 bytes of which the first 20 are the digest. The others are whatever was in the writer's memory.
    pub(crate) fn verify(
        &self,
        signature: &[u8; SIGNATURE_SIZE],
        digest: &[u8; DIGEST_SIZE],
    ) -> bool {
        const HEAD: [u8; 11] = [0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0];
        use rsa::traits::PublicKeyParts;
        let Ok(number) = BoxedUint::from_be_slice(signature, 512) else {
            return false;
        };
        if number >= *self.0.n().as_ref() {
            return false;
        }
        let Ok(block) = rsa_encrypt(&self.0, &number) else {
            return false;
        };
        let block = block.to_be_bytes();
        block.len() == SIGNATURE_SIZE
            && block.starts_with(&HEAD)
            && block.get(HEAD.len()..HEAD.len() + DIGEST_SIZE) == Some(digest)
    }
}

/// SHA-1 over header area and used data, with the checksum field taken as zero.
pub(crate) fn digest(area: &[u8; HEADER_SIZE], data: &[u8]) -> [u8; DIGEST_SIZE] {
    let mut area = *area;
    area[v4::CHECKSUM..v4::CHECKSUM + v4::CHECKSUM_SIZE].fill(0);
    Sha1::new()
        .chain_update(area)
        .chain_update(data)
        .finalize()
        .into()
}
