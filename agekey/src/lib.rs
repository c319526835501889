//! Content keys wrapped for recipients: small age files (age-encryption.org/v1, C2SP "The age file encryption format").
//!
//! A wrapped key is an ordinary age file that holds the text of a key file, so `age -d -i IDENTITY` opens it too. Only
//! recipients with a key pair are known here: X25519 (`age1...`) and `ssh-ed25519`. What other recipients have added is
//! passed over, as the format demands.

mod crypto;
mod error;
mod header;
mod identity;
mod recipient;
mod ssh;

pub use error::Error;
pub use identity::Identity;
pub use recipient::Recipient;

use ring::aead::{Aad, CHACHA20_POLY1305};
use zeroize::Zeroizing;

use crypto::{FileKey, TAG_SIZE, nonce};
use header::Header;

/// Most bytes of an age file here: what an image header has room for (docs/FORMAT.md, section 6).
pub const FILE_MAX: usize = 3152;

/// Most bytes of the text inside.
pub const TEXT_MAX: usize = 1024;

/// Bytes of the random value that the payload key depends on.
const PAYLOAD_NONCE_SIZE: usize = 16;

/// The payload is always its own last chunk; chunks of age have 64 KiB.
const LAST_CHUNK: [u8; 12] = nonce(1);

/// Encrypts `text`, the content of a key file, for each of `recipients`. A recipient that is named twice counts once.
///
/// # Errors
/// [`Error::NoRecipients`], [`Error::TooManyRecipients`], [`Error::TextTooLong`], [`Error::Random`]
pub fn wrap(text: &str, recipients: &[Recipient]) -> Result<Vec<u8>, Error> {
    if text.len() > TEXT_MAX {
        return Err(Error::TextTooLong { max: TEXT_MAX });
    }
    let mut unique: Vec<&Recipient> = Vec::new();
    for recipient in recipients {
        if !unique.contains(&recipient) {
            unique.push(recipient);
        }
    }
    if unique.is_empty() {
        return Err(Error::NoRecipients);
    }
    let file_key = FileKey::generate()?;
    let stanzas = unique
        .iter()
        .map(|recipient| recipient.wrap(&file_key))
        .collect::<Result<Vec<_>, _>>()?;
    let mut file = Header::encode(&stanzas, &file_key)?;
    let mut nonce = [0; PAYLOAD_NONCE_SIZE];
    crypto::random(&mut nonce)?;
    file.extend(nonce);
    let mut payload = Zeroizing::new(text.as_bytes().to_vec());
    let key = crypto::aead_key(&CHACHA20_POLY1305, &*file_key.derive(&nonce, b"payload")?)?;
    let tag = key
        .seal_in_place_separate_tag(crypto::aead_nonce(LAST_CHUNK), Aad::empty(), &mut payload)
        .map_err(|_| Error::TextTooLong { max: TEXT_MAX })?;
    file.extend_from_slice(&payload);
    file.extend_from_slice(tag.as_ref());
    match file.len() {
        0..=FILE_MAX => Ok(file),
        size => Err(Error::TooManyRecipients {
            count: unique.len(),
            size,
            max: FILE_MAX,
        }),
    }
}

/// Decrypts an age file with the first of `identities` that it was made for.
///
/// # Errors
/// [`Error::NotForUs`] if it was made for none of them; [`Error::Format`] and [`Error::Altered`] if it is damaged.
pub fn unwrap(file: &[u8], identities: &[Identity]) -> Result<Zeroizing<String>, Error> {
    let (header, payload) = Header::parse(file)?;
    let mut found = None;
    for identity in identities {
        for stanza in &header.stanzas {
            if found.is_none() {
                found = identity.unwrap(stanza)?;
            }
        }
    }
    let Some(file_key) = found else {
        return Err(Error::NotForUs {
            kinds: kinds(&header).join(", "),
        });
    };
    header.verify(&file_key)?;
    let (nonce, sealed) = payload
        .split_at_checked(PAYLOAD_NONCE_SIZE)
        .filter(|(_, sealed)| (TAG_SIZE..=TEXT_MAX + TAG_SIZE).contains(&sealed.len()))
        .ok_or(Error::Format {
            what: "payload length",
        })?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let key = crypto::aead_key(&CHACHA20_POLY1305, &*file_key.derive(nonce, b"payload")?)?;
    let text = key
        .open_in_place(crypto::aead_nonce(LAST_CHUNK), Aad::empty(), &mut sealed)
        .map_err(|_| Error::Altered)?;
    match std::str::from_utf8(text) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Error::Format { what: "text" }),
    }
}

/// For which kinds of recipients an age file was made, one word for each recipient: `X25519`, `ssh-ed25519`, ... The
/// words come from the file and are of printable ASCII characters. Nothing shows that they are true.
///
/// # Errors
/// [`Error::Format`]
pub fn stanzas(file: &[u8]) -> Result<Vec<String>, Error> {
    Ok(kinds(&Header::parse(file)?.0))
}

fn kinds(header: &Header<'_>) -> Vec<String> {
    header
        .stanzas
        .iter()
        .map(|stanza| stanza.kind().to_owned())
        .collect()
}
