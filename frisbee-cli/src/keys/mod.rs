//! Keys from files: content keys, owners' private and public keys, recipients and identities of wrapped keys.

mod file;
mod legacy;
mod passphrase;

use std::fs;
use std::path::{Path, PathBuf};

use agekey::{Identity, Recipient};
use chunkfmt::{ContentKey, Error, SigningKey, Trust, TrustedKey};

use crate::{Exit, Failure};
use file::{KeyFile, input};

pub use file::write_new;
pub use legacy::load_legacy_key;

/// Where a node keeps the public keys of the owners it trusts.
pub const TRUST_DIRECTORY: &str = "/etc/frisbee/trust.d";

/// Reads a secret key file and what `parse` makes of it. Only what is a secret key indeed must be hidden from others.
fn read_secret<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let file = KeyFile::read(path)?;
    let key = parse(file.text()?).map_err(|error| input(path, error))?;
    file.check_secret()?;
    Ok(key)
}

fn read_public<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let file = KeyFile::read(path)?;
    file.check_public()?;
    parse(file.text()?).map_err(|error| input(path, error))
}

/// Reads a content key file.
///
/// # Errors
/// With the file's name, if it cannot be read, is readable for others, or holds no key.
pub fn load_content_key(path: &Path) -> Result<ContentKey, Failure> {
    read_secret(path, ContentKey::from_hex)
}

/// Reads an owner's private key file. The passphrase of an encrypted one is the first line of `passphrase_file`, or
/// asked for on the terminal.
///
/// # Errors
/// With the file's name, if it cannot be read, is readable for others, or holds no key; if there is no passphrase.
pub fn load_signing_key(
    path: &Path,
    passphrase_file: Option<&Path>,
) -> Result<SigningKey, Failure> {
    let file = KeyFile::read(path)?;
    let text = file.text()?;
    let key = match SigningKey::from_pem(text) {
        Err(Error::PassphraseMissing) => {
            file.check_secret()?;
            let passphrase = passphrase::get(passphrase_file, path)?;
            SigningKey::from_encrypted_pem(text, &passphrase)
        }
        other => other,
    };
    let key = key.map_err(|error| input(path, error))?;
    file.check_secret()?;
    Ok(key)
}

/// Reads an owner's public key file, with the images that it is for.
///
/// # Errors
/// With the file's name, if it cannot be read or holds no key.
pub fn load_trusted_key(path: &Path) -> Result<TrustedKey, Failure> {
    read_public(path, TrustedKey::from_pem)
}

/// The public half of an owner's key file, be it a public or a private one.
///
/// # Errors
/// As [`load_trusted_key`] and [`load_signing_key`].
pub fn load_public_half(
    path: &Path,
    passphrase_file: Option<&Path>,
) -> Result<TrustedKey, Failure> {
    let is_private = KeyFile::read(path)?.text()?.contains("PRIVATE KEY-----");
    match is_private {
        true => load_signing_key(path, passphrase_file).map(|key| key.verifying_key().into()),
        false => load_trusted_key(path),
    }
}

/// The recipients that `named` names: each `age1...`, an `ssh-ed25519` line, or a file of them.
///
/// # Errors
/// If one is neither, or a file cannot be read or holds none.
pub fn load_recipients(named: &[String]) -> Result<Vec<Recipient>, Failure> {
    let mut recipients = Vec::new();
    for text in named {
        match text.parse() {
            Ok(recipient) => recipients.push(recipient),
            Err(_) if Path::new(text).exists() => {
                recipients.extend(read_public(Path::new(text), Recipient::read_file)?);
            }
            Err(error) => {
                // Not the text: it may be a secret in the wrong place.
                let message = format!("--recipient: {error}, and no file has this name");
                return Err(Failure::new(Exit::Usage, message));
            }
        }
    }
    Ok(recipients)
}

/// Reads a file of identities that open wrapped content keys.
///
/// # Errors
/// With the file's name, if it cannot be read, is readable for others, or holds none.
pub fn load_identities(path: &Path) -> Result<Vec<Identity>, Failure> {
    read_secret(path, Identity::read_file)
}

/// The owners named by `paths`; without any, those of [`TRUST_DIRECTORY`].
///
/// # Errors
/// If a key cannot be read, or nobody is trusted and `allow_unsigned` is false.
pub fn load_trust(paths: &[PathBuf], allow_unsigned: bool) -> Result<Trust, Failure> {
    let found;
    let paths = match paths {
        [] => {
            found = public_keys(Path::new(TRUST_DIRECTORY))?;
            &found
        }
        named => named,
    };
    if paths.is_empty() && !allow_unsigned {
        let message = format!(
            "no owner is trusted: name a public key with --trust, or put one into {TRUST_DIRECTORY}"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let keys = paths
        .iter()
        .map(|path| load_trusted_key(path))
        .collect::<Result<_, _>>()?;
    Ok(Trust::of(keys, allow_unsigned))
}

fn public_keys(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(input(directory, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| input(directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_that_others_can_read_is_refused_whatever_its_kind() {
        let directory = tempfile::tempdir().unwrap();
        let content = directory.path().join("content.key");
        write_new(&content, &ContentKey::generate().unwrap().to_hex(), 0o644).unwrap();
        let owner = directory.path().join("owner.key");
        let key = SigningKey::generate().unwrap();
        write_new(&owner, &key.to_pem().unwrap(), 0o644).unwrap();
        for failure in [
            load_content_key(&content).unwrap_err(),
            load_signing_key(&owner, None).unwrap_err(),
        ] {
            assert_eq!(failure.exit, Exit::Input);
            assert!(failure.message.contains("chmod 600"), "{failure}");
        }
        // A public key in place of a secret one is the greater mistake.
        let public = directory.path().join("owner.pub");
        write_new(&public, &key.verifying_key().to_pem().unwrap(), 0o644).unwrap();
        let failure = load_signing_key(&public, None).unwrap_err();
        assert!(failure.message.contains("it is a public key"), "{failure}");
        assert_eq!(
            load_trusted_key(&public).unwrap().key(),
            &key.verifying_key()
        );
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        if public_keys(Path::new(TRUST_DIRECTORY)).unwrap().is_empty() {
            assert_eq!(load_trust(&[], false).unwrap_err().exit, Exit::Usage);
        }
        assert!(load_trust(&[], true).is_ok());
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("b.pub"), "").unwrap();
        fs::write(directory.path().join("a.key"), "").unwrap();
        assert_eq!(
            public_keys(directory.path()).unwrap(),
            [directory.path().join("b.pub")]
        );
    }
}
