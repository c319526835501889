//! Key files as files: read with the care of ssh, written once and never over an old one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::{Exit, Failure};

/// No key file is longer; an RSA-4096 key in PEM has 3.3 kB.
const SIZE_MAX: usize = 64 * 1024;

/// Where a shell puts what comes from another program: `--passphrase-file <(...)`, or standard input.
const PASSED_ON: [&str; 3] = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];

pub(super) fn input(path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Input, format!("{}: {problem}", path.display()))
}

/// A key file's bytes, and who may read them.
pub(super) struct KeyFile<'a> {
    path: &'a Path,
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
    owner: u32,
}

impl<'a> KeyFile<'a> {
    /// Reads a regular file. Anything else is refused, unread: a named pipe would wait for ever, and a device may do
    /// anything.
    pub(super) fn read(path: &'a Path) -> Result<Self, Failure> {
        Self::open(path, false)
    }

    /// As [`Self::read`], or what the shell passes on from another program.
    pub(super) fn read_or_pipe(path: &'a Path) -> Result<Self, Failure> {
        let passed_on = PASSED_ON.iter().any(|place| path.starts_with(place));
        Self::open(path, passed_on)
    }

    fn open(path: &'a Path, pipe: bool) -> Result<Self, Failure> {
        let io = |error: std::io::Error| input(path, error);
        // Before it is opened: opening a tape rewinds it.
        check_type(path, &fs::metadata(path).map_err(io)?, pipe)?;
        let flags = if pipe { 0 } else { nix::libc::O_NONBLOCK };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        check_type(path, &metadata, pipe)?;
        // All the room at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SIZE_MAX + 1));
        file.take(SIZE_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        if bytes.len() > SIZE_MAX {
            return Err(input(path, "longer than 64 KiB: this is not a key file"));
        }
        Ok(Self {
            path,
            bytes,
            mode: metadata.mode() & 0o777,
            owner: metadata.uid(),
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.bytes)
            .map_err(|_| input(self.path, "not a key file: it is not text"))
    }

    /// Refuses a public key file that anybody could have written.
    pub(super) fn check_public(&self) -> Result<(), Failure> {
        if self.mode & 0o002 == 0 {
            return Ok(());
        }
        let (path, mode) = (self.path.display(), self.mode);
        let problem = format!("everybody can change this file (mode {mode:03o}): chmod o-w {path}");
        Err(input(self.path, problem))
    }

    /// Refuses a secret that others can read, or that somebody else put there.
    pub(super) fn check_secret(&self) -> Result<(), Failure> {
        let path = self.path.display();
        if self.mode & 0o077 != 0 {
            let mode = self.mode;
            let problem =
                format!("others can read this secret (mode {mode:03o}): chmod 600 {path}");
            return Err(input(self.path, problem));
        }
        if ![0, geteuid().as_raw()].contains(&self.owner) && Some(self.owner) != sudo_user() {
            let owner = self.owner;
            let problem = format!(
                "this secret belongs to user {owner}, who can read and change it: chown it to yourself"
            );
            return Err(input(self.path, problem));
        }
        Ok(())
    }
}

fn check_type(path: &Path, metadata: &fs::Metadata, pipe: bool) -> Result<(), Failure> {
    let kind = metadata.file_type();
    let what = if kind.is_file() || pipe && !kind.is_dir() && !kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(input(path, format!("{what}, not a key file")))
}

/// Who called sudo. For root only, who needs to ask nobody.
fn sudo_user() -> Option<u32> {
    let user = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    geteuid().is_root().then_some(user)
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
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is none.
        let _ = fs::remove_file(path);
        io(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.key");
        write_new(&path, "secret", 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let check = |path: &Path| KeyFile::read(path).unwrap().check_secret();
        assert!(check(&path).is_ok());
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let failure = check(&path).unwrap_err();
            assert_eq!(failure.exit, Exit::Input);
            assert!(failure.message.contains("chmod 600"), "{failure}");
        }
    }

    #[test]
    fn a_public_key_that_everybody_can_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("owner.pub");
        write_new(&path, "public", 0o644).unwrap();
        for (mode, good) in [(0o644, true), (0o664, true), (0o666, false), (0o642, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(KeyFile::read(&path).unwrap().check_public().is_ok(), good);
        }
    }

    #[test]
    fn a_secret_of_somebody_else_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("content.key");
        write_new(&path, "secret", 0o600).unwrap();
        chown(&path, Some(4711), None).unwrap();
        let failure = KeyFile::read(&path).unwrap().check_secret().unwrap_err();
        assert!(failure.message.contains("user 4711"), "{failure}");
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let long = directory.path().join("long");
        fs::write(&long, vec![b'0'; SIZE_MAX + 1]).unwrap();
        let refused = [
            (fifo.as_path(), "a pipe"),
            (directory.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/nonexistent"), "No such file"),
            (long.as_path(), "64 KiB"),
        ];
        for (path, reason) in refused {
            for result in [KeyFile::read(path), KeyFile::read_or_pipe(path)] {
                let failure = result.err().unwrap();
                assert_eq!(failure.exit, Exit::Input);
                assert!(failure.message.contains(reason), "{failure}");
            }
        }
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
}
