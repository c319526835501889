//! Where the image goes: a file that appears under its name only when it is whole, or standard output.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use frisbee_cli::write_back::WriteBack;
use frisbee_cli::{Exit, Failure};
use tempfile::NamedTempFile;

fn is_same_file(path: &Path, found: &Metadata) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (found.dev(), found.ino()))
}

/// An image being written. Dropped before [`Output::commit`] it leaves nothing behind.
pub(crate) enum Output {
    File {
        file: NamedTempFile,
        path: PathBuf,
        overwrite: bool,
        /// Bytes written.
        length: u64,
        back: WriteBack,
    },
    Pipe(File),
}

impl Output {
    /// Prepares to write to `path`, or to standard output for `-`. None of `keep` is overwritten. A `secret` image
    /// can be read by its owner only.
    pub(crate) fn open(
        path: &Path,
        overwrite: bool,
        keep: &[&Path],
        secret: bool,
    ) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                let message = "standard output is a terminal: redirect it into a file or a pipe";
                return Err(Failure::new(Exit::Usage, message));
            }
            // The library's stdout takes writing to a closed one for success.
            let stdout = stdout
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| Failure::new(Exit::Io, format!("standard output: {error}")))?;
            return Ok(Self::Pipe(stdout.into()));
        }
        if let Ok(found) = fs::symlink_metadata(path) {
            let name = path.display();
            // It would be replaced, not written to.
            if !found.is_file() {
                let message = format!(
                    "{name} is not a regular file: name a new file, or - for standard output"
                );
                return Err(Failure::new(Exit::Usage, message));
            }
            if keep.iter().any(|kept| is_same_file(kept, &found)) {
                let message = format!("{name} is what the image is made of: choose another name");
                return Err(Failure::new(Exit::Usage, message));
            }
            if !overwrite {
                let message =
                    format!("{name} exists: choose another name, or overwrite it with --force");
                return Err(Failure::new(Exit::Usage, message));
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .suffix(".partial")
            .permissions(Permissions::from_mode(if secret { 0o600 } else { 0o666 }))
            .tempfile_in(directory)
            .map_err(|error| Failure::new(Exit::Io, format!("{}: {error}", path.display())))?;
        Ok(Self::File {
            file,
            path: path.into(),
            overwrite,
            length: 0,
            back: WriteBack::default(),
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
                ..
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
                File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
            }
            Self::Pipe(mut stdout) => stdout.flush(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File {
                file, length, back, ..
            } => {
                let written = file.as_file_mut().write(bytes)?;
                back.wrote(file.as_file(), *length, written as u64);
                *length += written as u64;
                Ok(written)
            }
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
