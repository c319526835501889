//! Where the image goes: a file that appears under its name only when it is whole, or standard output.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use frisbee_cli::{Exit, Failure};
use tempfile::NamedTempFile;

/// An image being written. Dropped before [`Output::commit`] it leaves nothing behind.
pub(crate) enum Output {
    File {
        file: NamedTempFile,
        path: PathBuf,
        overwrite: bool,
    },
    Pipe(StdoutLock<'static>),
}

impl Output {
    /// Prepares to write to `path`, or to standard output for `-`.
    pub(crate) fn open(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                let message = "standard output is a terminal: redirect it into a file or a pipe";
                return Err(Failure::new(Exit::Usage, message));
            }
            return Ok(Self::Pipe(stdout.lock()));
        }
        if !overwrite && fs::symlink_metadata(path).is_ok() {
            let message = format!(
                "{} exists: choose another name, or overwrite it with --force",
                path.display()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .suffix(".partial")
            // As the umask allows: without a key an image tells nothing.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(|error| Failure::new(Exit::Io, format!("{}: {error}", path.display())))?;
        Ok(Self::File {
            file,
            path: path.into(),
            overwrite,
        })
    }

    /// The name for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Pipe(_) => "standard output".into(),
        }
    }

    /// Flushes the image to disk and gives it its name.
    pub(crate) fn commit(self) -> io::Result<()> {
        match self {
            Self::File {
                file,
                path,
                overwrite,
            } => {
                file.as_file().sync_all()?;
                let persisted = if overwrite {
                    file.persist(&path)
                } else {
                    file.persist_noclobber(&path)
                };
                persisted.map_err(|error| error.error)?;
                let directory = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
            }
            Self::Pipe(mut stdout) => stdout.flush(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.as_file_mut().write(bytes),
            Self::Pipe(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.as_file_mut().flush(),
            Self::Pipe(stdout) => stdout.flush(),
        }
    }
}
