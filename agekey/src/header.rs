//! The text header of an age file: version line, stanzas, authentication code.

use base64ct::{Base64Unpadded, Encoding};
use ring::hmac;

use crate::crypto::{FileKey, WRAPPED_SIZE};
use crate::{Error, FILE_MAX};

const VERSION: &[u8] = b"age-encryption.org/v1\n";
const STANZA: &str = "-> ";
const MAC: &str = "---";

/// Characters in a full line of a stanza's body.
const COLUMNS: usize = 64;
/// Most stanzas that are read.
const STANZAS_MAX: usize = 64;
/// Most arguments of a stanza that are read, its kind included.
const ARGUMENTS_MAX: usize = 16;

/// One recipient's share: what it needs to get at the file key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stanza {
    /// Kind, then what the kind defines. Never empty.
    pub(crate) arguments: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Stanza {
    pub(crate) fn new(kind: &str, arguments: &[&str], body: &[u8; WRAPPED_SIZE]) -> Self {
        let arguments = std::iter::once(&kind).chain(arguments);
        Self {
            arguments: arguments.map(|&argument| argument.to_owned()).collect(),
            body: body.to_vec(),
        }
    }

    pub(crate) fn kind(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }
}

/// A header that was read.
pub(crate) struct Header<'a> {
    pub(crate) stanzas: Vec<Stanza>,
    /// What the code is over: all up to and with `---`.
    authenticated: &'a [u8],
    mac: [u8; 32],
}

fn damaged(what: &'static str) -> Error {
    Error::Format { what }
}

/// Unpadded, canonical base64 of exactly `N` bytes.
pub(crate) fn decode<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let length = Base64Unpadded::decode(text, &mut bytes).map(<[u8]>::len);
    // One text for each value: an altered text must not pass for the one that was written.
    match length {
        Ok(length) if length == N && encode(&bytes) == text => Ok(bytes),
        _ => Err(damaged("a value is not base64 of the right length")),
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    Base64Unpadded::encode_string(bytes)
}

/// The first line of `rest`, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Error> {
    let end = rest
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(damaged("the header is cut short"))?;
    let (line, behind) = rest.split_at(end);
    *rest = behind.get(1..).unwrap_or_default();
    if line.iter().any(|byte| !matches!(byte, b' '..=b'~')) {
        return Err(damaged("a character that cannot be in a header"));
    }
    std::str::from_utf8(line).map_err(|_| damaged("a character that cannot be in a header"))
}

impl<'a> Header<'a> {
    /// Reads the header of an age file. Returns it with the payload, which follows it.
    pub(crate) fn parse(file: &'a [u8]) -> Result<(Self, &'a [u8]), Error> {
        let mut rest = file.strip_prefix(VERSION).ok_or(Error::NotAge)?;
        if file.len() > FILE_MAX {
            return Err(Error::TooLong {
                size: file.len(),
                max: FILE_MAX,
            });
        }
        let mut stanzas = Vec::new();
        loop {
            let before = rest;
            let first = line(&mut rest)?;
            if let Some(mac) = first.strip_prefix(MAC) {
                let mac = mac
                    .strip_prefix(' ')
                    .ok_or(damaged("the authentication code"))?;
                let authenticated = file.len() - before.len() + MAC.len();
                if stanzas.is_empty() {
                    return Err(damaged("there is no stanza"));
                }
                let header = Self {
                    stanzas,
                    authenticated: file.get(..authenticated).unwrap_or_default(),
                    mac: decode(mac)?,
                };
                return Ok((header, rest));
            }
            if stanzas.len() == STANZAS_MAX {
                return Err(damaged("more than 64 stanzas"));
            }
            stanzas.push(stanza(first, &mut rest)?);
        }
    }

    /// Checks the authentication code.
    pub(crate) fn verify(&self, file_key: &FileKey) -> Result<(), Error> {
        hmac::verify(&file_key.header_key()?, self.authenticated, &self.mac)
            .map_err(|_| Error::Altered)
    }
}

impl Header<'_> {
    /// The header with these stanzas.
    pub(crate) fn encode(stanzas: &[Stanza], file_key: &FileKey) -> Result<Vec<u8>, Error> {
        let mut text = VERSION.to_vec();
        for stanza in stanzas {
            text.extend(STANZA.bytes());
            text.extend(stanza.arguments.join(" ").bytes());
            text.push(b'\n');
            let body = encode(&stanza.body);
            let mut lines: Vec<_> = body.as_bytes().chunks(COLUMNS).collect();
            // The last line is a short one, be it an empty one.
            if lines.last().is_none_or(|last| last.len() == COLUMNS) {
                lines.push(b"");
            }
            for line in lines {
                text.extend(line);
                text.push(b'\n');
            }
        }
        text.extend(MAC.bytes());
        let mac = hmac::sign(&file_key.header_key()?, &text);
        text.extend(format!(" {}\n", encode(mac.as_ref())).bytes());
        Ok(text)
    }
}

fn stanza(first: &str, rest: &mut &[u8]) -> Result<Stanza, Error> {
    let arguments = first
        .strip_prefix(STANZA)
        .ok_or(damaged("a line is neither a stanza nor the end"))?;
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    if arguments.len() > ARGUMENTS_MAX || arguments.iter().any(String::is_empty) {
        return Err(damaged("the arguments of a stanza"));
    }
    let mut text = String::new();
    loop {
        let line = line(rest)?;
        text.push_str(line);
        match line.len() {
            COLUMNS => {}
            0..COLUMNS => break,
            _ => return Err(damaged("the body of a stanza")),
        }
    }
    let body = Base64Unpadded::decode_vec(&text).map_err(|_| damaged("the body of a stanza"))?;
    if encode(&body) != text {
        return Err(damaged("the body of a stanza"));
    }
    let stanza = Stanza { arguments, body };
    // "If the identity implementation recognizes the type, it must reject a stanza of another form": all of them here,
    // so that a file is good or bad whoever reads it.
    match (stanza.kind(), stanza.arguments.as_slice()) {
        ("X25519", [_, share]) if stanza.body.len() == WRAPPED_SIZE => {
            decode::<32>(share)?;
        }
        ("ssh-ed25519", [_, tag, share]) if stanza.body.len() == WRAPPED_SIZE => {
            decode::<4>(tag)?;
            decode::<32>(share)?;
        }
        ("X25519" | "ssh-ed25519", _) => return Err(damaged("the form of a stanza")),
        ("scrypt", _) => {
            return Err(damaged(
                "it is encrypted with a passphrase, which cannot open an image",
            ));
        }
        _ => {}
    }
    Ok(stanza)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_stanza() -> impl Strategy<Value = Stanza> {
        let arguments = prop::collection::vec("[!-~]{1,20}", 0..4);
        let body = prop::collection::vec(any::<u8>(), 0..150);
        (arguments, body).prop_map(|(mut arguments, body)| {
            arguments.insert(0, "other".into());
            Stanza { arguments, body }
        })
    }

    proptest! {
        #[test]
        fn headers_come_back(stanzas in prop::collection::vec(any_stanza(), 1..8)) {
            let key = FileKey::generate().unwrap();
            let mut file = Header::encode(&stanzas, &key).unwrap();
            file.extend(b"payload");
            prop_assume!(file.len() <= FILE_MAX);
            let (header, payload) = Header::parse(&file).unwrap();
            prop_assert_eq!(&header.stanzas, &stanzas);
            prop_assert_eq!(payload, b"payload");
            prop_assert!(header.verify(&key).is_ok());
            prop_assert!(header.verify(&FileKey::generate().unwrap()).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), version in any::<bool>()) {
            let mut file = if version { VERSION.to_vec() } else { Vec::new() };
            file.extend(bytes);
            let _ = Header::parse(&file);
        }

        #[test]
        fn arbitrary_lines_do_no_harm(lines in prop::collection::vec("(-> |--- )?[A-Za-z0-9+/ ]{0,70}", 0..12)) {
            let mut file = VERSION.to_vec();
            file.extend(lines.join("\n").bytes());
            let _ = Header::parse(&file);
        }
    }
}
