//! Key files: read with the care of ssh, written once and never over an old one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chunkfmt::{ContentKey, SigningKey, Trust, VerifyingKey};
use zeroize::Zeroizing;

use crate::{Exit, Failure};

/// Where a node keeps the public keys of the owners it trusts.
pub const TRUST_DIRECTORY: &str = "/etc/frisbee/trust.d";

/// No key file is longer; an RSA-4096 key in PEM has 3.3 kB.
const KEY_FILE_MAX: u64 = 64 * 1024;

fn input(path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Input, format!("{}: {problem}", path.display()))
}

/// Reads a file and what `parse` makes of it. Only what is a secret key indeed must be hidden from others.
fn read<T>(
    path: &Path,
    secret: bool,
    parse: impl FnOnce(&str) -> Result<T, chunkfmt::Error>,
) -> Result<T, Failure> {
    let file = File::open(path).map_err(|error| input(path, error))?;
    let mode = file.metadata().map_err(|error| input(path, error))?.mode() & 0o777;
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(KEY_FILE_MAX)
        .read_to_string(&mut text)
        .map_err(|error| input(path, error))?;
    let key = parse(&text).map_err(|error| input(path, error))?;
    if secret && mode & 0o077 != 0 {
        let hint = format!("chmod 600 {}", path.display());
        return Err(input(
            path,
            format!("others can read this secret key (mode {mode:03o}): {hint}"),
        ));
    }
    Ok(key)
}

/// Reads a content key file.
///
/// # Errors
/// With the file's name, if it cannot be read, is readable for others, or holds no key.
pub fn load_content_key(path: &Path) -> Result<ContentKey, Failure> {
    read(path, true, ContentKey::from_hex)
}

/// Reads an owner's private key file.
///
/// # Errors
/// With the file's name, if it cannot be read, is readable for others, or holds no key.
pub fn load_signing_key(path: &Path) -> Result<SigningKey, Failure> {
    read(path, true, SigningKey::from_pem)
}

/// Reads an owner's public key file.
///
/// # Errors
/// With the file's name, if it cannot be read or holds no key.
pub fn load_verifying_key(path: &Path) -> Result<VerifyingKey, Failure> {
    read(path, false, VerifyingKey::from_pem)
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
        .map(|path| load_verifying_key(path))
        .collect::<Result<_, _>>()?;
    Ok(Trust::new(keys, allow_unsigned))
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

/// Writes a new key file with this mode, flushed to disk. An existing file is left alone.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            Exit::Usage,
            format!(
                "{} exists and is not overwritten: choose another name",
                path.display()
            ),
        ),
        _ => Failure::new(Exit::Io, format!("{}: {error}", path.display())),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.key");
        write_new(&path, &ContentKey::generate().unwrap().to_hex(), 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(load_content_key(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let failure = load_content_key(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Input);
        assert!(failure.message.contains("chmod 600"), "{failure}");
    }

    #[test]
    fn an_existing_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("owner.key");
        write_new(&path, "first", 0o600).unwrap();
        assert_eq!(
            write_new(&path, "second", 0o600).unwrap_err().exit,
            Exit::Usage
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
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
