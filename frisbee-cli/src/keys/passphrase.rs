//! The passphrase of an encrypted key file: from a file, or asked for on the terminal.

use std::io::{IsTerminal, stdin};
use std::path::Path;

use zeroize::Zeroizing;

use super::file::{KeyFile, input};
use crate::Failure;

/// The first line of the passphrase file; without one, what is typed for the key file `key`.
///
/// # Errors
/// If the file cannot be read or is readable for others, or there is nobody to ask.
pub(super) fn get(file: Option<&Path>, key: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match file {
        Some(file) => from_file(file),
        None if stdin().is_terminal() => ask(key),
        None => Err(input(key, chunkfmt::Error::PassphraseMissing)),
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let file = KeyFile::read_or_pipe(path)?;
    file.check_secret()?;
    let line = file.bytes().split(|&byte| byte == b'\n').next();
    let line = line.unwrap_or_default();
    match line.strip_suffix(b"\r").unwrap_or(line) {
        b"" => Err(input(path, "the first line, the passphrase, is empty")),
        passphrase => Ok(Zeroizing::new(passphrase.to_vec())),
    }
}

fn ask(key: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    rpassword::prompt_password(format!("Passphrase of {}: ", key.display()))
        .map(|text| Zeroizing::new(text.into_bytes()))
        .map_err(|error| input(key, format!("the passphrase cannot be asked for: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::write_new;
    use super::*;

    #[test]
    fn the_first_line_counts() {
        let directory = tempfile::tempdir().unwrap();
        let key = Path::new("owner.key");
        for (number, (text, passphrase)) in [
            ("pass phrase\n", Some("pass phrase")),
            ("pass phrase", Some("pass phrase")),
            (" one \r\ntwo\n", Some(" one ")),
            ("\nsecond\n", None),
            ("", None),
        ]
        .into_iter()
        .enumerate()
        {
            let path = directory.path().join(number.to_string());
            write_new(&path, text, 0o600).unwrap();
            let read = get(Some(&path), key).ok();
            assert_eq!(
                read.as_deref().map(Vec::as_slice),
                passphrase.map(str::as_bytes)
            );
        }
        let open = directory.path().join("open");
        write_new(&open, "secret\n", 0o644).unwrap();
        assert!(get(Some(&open), key).is_err());
    }
}
