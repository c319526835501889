//! What can go wrong while an image is made.

use std::io;
use std::path::PathBuf;

use frisbee_cli::{Exit, Failure};

/// Everything that can go wrong while an image is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is neither a block device nor a file.
    #[error("{}: is neither a block device nor a regular file: name a disk, a partition or a file", path.display())]
    Kind {
        /// The source.
        path: PathBuf,
    },
    /// The source is in use, and so may change while it is read.
    #[error(
        "{}: is in use ({user}) and may change while it is read: unmount it first, or say --allow-mounted",
        path.display()
    )]
    InUse {
        /// The source.
        path: PathBuf,
        /// Who uses it.
        user: String,
    },
    /// The source leads to other files.
    #[error("{}: is a {format} disk that {reason}", path.display())]
    Others {
        /// The source.
        path: PathBuf,
        /// What it is.
        format: &'static str,
        /// What is wrong with that, and what to do.
        reason: &'static str,
    },
    /// Reading the source failed.
    #[error("{}: reading {length} bytes at byte {offset}: {source}", path.display())]
    Read {
        /// The source.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How much.
        length: usize,
        /// Why.
        source: io::Error,
    },
    /// A pipe has ended too early.
    #[error(
        "{name}: ended after {found} of {size} bytes: a part of the disk is missing, or --size is wrong"
    )]
    Short {
        /// The pipe.
        name: String,
        /// What has come.
        found: u64,
        /// What was to come.
        size: u64,
    },
    /// A pipe does not end where it should.
    #[error(
        "{name}: goes on behind the {size} bytes of the disk: say with --size how many there are"
    )]
    Long {
        /// The pipe.
        name: String,
        /// What was to come.
        size: u64,
    },
    /// The disk cannot be mapped.
    #[error("{}: {source}", path.display())]
    Map {
        /// The source.
        path: PathBuf,
        /// Why.
        source: diskmap::Error,
    },
    /// An image that is read is not right.
    #[error("{name}: {source}")]
    Image {
        /// Its name.
        name: String,
        /// What is wrong.
        source: chunkfmt::Error,
    },
    /// An Emulab image, read or written, is not right.
    #[error("{name}: {source}")]
    Emulab {
        /// Its name.
        name: String,
        /// What is wrong.
        source: ndz::Error,
    },
    /// An image that is read twice was not the same.
    #[error("{name}: was changed while it was read")]
    Changed {
        /// Its name.
        name: String,
    },
    /// The format does not allow it.
    #[error(transparent)]
    Format(#[from] chunkfmt::Error),
    /// Writing the image failed.
    #[error("writing the image: {source}")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// A worker thread died.
    #[error("a worker thread failed: {0}")]
    Thread(String),
    /// A signal came.
    #[error("interrupted: no image was written")]
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Open { .. }
            | Error::Kind { .. }
            | Error::InUse { .. }
            | Error::Others { .. }
            | Error::Short { .. }
            | Error::Long { .. } => Exit::Input,
            Error::Map {
                source: diskmap::Error::Io { .. },
                ..
            } => Exit::Io,
            Error::Map { .. } => Exit::Input,
            Error::Read { .. } | Error::Write { .. } => Exit::Io,
            Error::Format(error) | Error::Image { source: error, .. } => error.kind().into(),
            Error::Changed { .. } => Exit::Input,
            Error::Emulab { source, .. } => match source.kind() {
                ndz::ErrorKind::Input => Exit::Input,
                ndz::ErrorKind::Verification => Exit::Verification,
                ndz::ErrorKind::Usage => Exit::Usage,
                ndz::ErrorKind::Io => Exit::Io,
            },
            Error::Thread(_) => Exit::Internal,
            Error::Interrupted => Exit::Interrupted,
        };
        Self::new(exit, error)
    }
}
