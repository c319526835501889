//! The files of an image that is mounted: no path leaves it, whatever its symbolic links say.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Files that are changed are text that somebody writes by hand or a program for them: larger ones are something else.
const FILE_MAX: u64 = 16 << 20;

/// A directory that counts as `/`.
pub(super) struct Root(OwnedFd);

impl Root {
    /// The directory at this path.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    fn open(&self, path: &str, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.0.as_fd(), path, how)
    }

    /// Whether something is there, behind symbolic links within the image.
    pub(super) fn has(&self, path: &str) -> bool {
        self.open(path, OFlag::O_PATH, Mode::empty()).is_ok()
    }

    /// Opens a regular file; symbolic links in its directory are followed within the image, the file itself must be
    /// none. `None` if there is nothing.
    fn file(&self, path: &str, flags: OFlag) -> io::Result<Option<File>> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match self.open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(Errno::ELOOP) => return Err(io::Error::other("is a symbolic link")),
            Err(error) => return Err(error.into()),
        };
        match file.metadata()?.is_file() {
            true => Ok(Some(file)),
            false => Err(io::Error::other("is no regular file")),
        }
    }

    /// The bytes of a regular file; `None` if there is nothing.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(path, OFlag::O_RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_MAX {
            true => Err(ErrorKind::FileTooLarge.into()),
            false => Ok(Some(bytes)),
        }
    }

    /// Replaces what is in a regular file, which keeps owner, mode and attributes. `false` if it is not there.
    pub(super) fn rewrite(&self, path: &str, bytes: &[u8]) -> io::Result<bool> {
        let Some(mut file) = self.file(path, OFlag::O_WRONLY)? else {
            return Ok(false);
        };
        file.set_len(0)?;
        file.write_all(bytes)?;
        Ok(true)
    }

    /// As [`Self::rewrite`], and makes the file if it is not there.
    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if self.rewrite(path, bytes)? {
            return Ok(());
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(0o644);
        File::from(self.open(path, flags, mode)?).write_all(bytes)
    }

    /// The names in a directory, sorted; none if it is not there.
    pub(super) fn names(&self, directory: &str) -> io::Result<Vec<String>> {
        let Some(directory) = self.directory(directory)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(directory)?.iter() {
            // A name that is no text is none of those that are looked for.
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a file, or a symbolic link, but not what it leads to.
    pub(super) fn remove(&self, directory: &str, name: &str) -> io::Result<()> {
        let directory = self.directory(directory)?.ok_or(ErrorKind::NotFound)?;
        Ok(unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Whether a path is a regular file itself.
    pub(super) fn is_file(&self, path: &str) -> bool {
        matches!(self.file(path, OFlag::O_RDONLY), Ok(Some(_)))
    }

    fn directory(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::{fs, io};
    use tempfile::TempDir;

    /// A directory that is an image, beside one that is not.
    fn scene() -> io::Result<(TempDir, Root)> {
        let directory = TempDir::new()?;
        fs::create_dir_all(directory.path().join("image/etc"))?;
        fs::create_dir_all(directory.path().join("host/etc"))?;
        fs::write(directory.path().join("host/etc/hostname"), "host")?;
        let root = Root::new(&directory.path().join("image"))?;
        Ok((directory, root))
    }

    #[test]
    fn a_directory_that_leads_out_leads_nowhere() -> io::Result<()> {
        let (directory, root) = scene()?;
        let host = directory.path().join("host/etc");
        fs::remove_dir(directory.path().join("image/etc"))?;
        for target in [
            host.as_path(),
            Path::new("../host/etc"),
            Path::new("../../host/etc"),
        ] {
            symlink(target, directory.path().join("image/etc"))?;
            assert!(root.write("etc/hostname", b"changed").is_err());
            assert!(root.read("etc/hostname")?.is_none());
            assert!(root.names("etc")?.is_empty());
            assert!(root.remove("etc", "hostname").is_err());
            fs::remove_file(directory.path().join("image/etc"))?;
        }
        assert_eq!(fs::read(host.join("hostname"))?, b"host");
        Ok(())
    }

    #[test]
    fn a_file_that_leads_out_is_refused() -> io::Result<()> {
        let (directory, root) = scene()?;
        let host = directory.path().join("host/etc/hostname");
        symlink(&host, directory.path().join("image/etc/hostname"))?;
        assert!(root.write("etc/hostname", b"changed").is_err());
        assert!(root.read("etc/hostname").is_err());
        assert!(!root.is_file("etc/hostname"));
        root.remove("etc", "hostname")?;
        assert_eq!(fs::read(&host)?, b"host");
        root.write("etc/hostname", b"changed")?;
        assert_eq!(root.read("etc/hostname")?.as_deref(), Some(&b"changed"[..]));
        Ok(())
    }

    #[test]
    fn a_directory_link_within_the_image_is_followed_from_its_root() -> io::Result<()> {
        let (directory, root) = scene()?;
        fs::create_dir(directory.path().join("image/config"))?;
        fs::remove_dir(directory.path().join("image/etc"))?;
        symlink("/config", directory.path().join("image/etc"))?;
        root.write("etc/hostname", b"new")?;
        let written = directory.path().join("image/config/hostname");
        assert_eq!(fs::read(written)?, b"new");
        Ok(())
    }
}
