//! A disk with bad sectors: a file that a user-space filesystem shows with read errors in it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};

const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
/// The kernel may keep what it knows.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// Bytes that cannot be read.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which.
    pub bytes: Range<u64>,
    /// How many reads fail before the first one succeeds; all of them with `None`.
    pub times: Option<u32>,
}

/// The mounted disk; unmounted when dropped.
pub struct FaultDisk {
    path: PathBuf,
    _session: BackgroundSession,
}

struct Shown {
    file: File,
    size: u64,
    faults: Vec<Fault>,
    /// How often each fault has struck.
    struck: Mutex<BTreeMap<usize, u32>>,
}

impl FaultDisk {
    /// Shows `file` as `disk` in the new directory `mount`, with read errors.
    ///
    /// # Errors
    /// If it cannot be mounted: it takes root and `/dev/fuse`.
    pub fn show(file: &Path, mount: &Path, faults: Vec<Fault>) -> Result<Self> {
        fs::create_dir_all(mount)?;
        let file = File::open(file)?;
        let shown = Shown {
            size: file.metadata()?.len(),
            file,
            faults,
            struck: Mutex::default(),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("fault-disk".into())];
        let session = fuser::spawn_mount(shown, mount, &config)
            .with_context(|| format!("{}: cannot be mounted", mount.display()))?;
        Ok(Self {
            path: mount.join(NAME),
            _session: session,
        })
    }

    /// The disk.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Shown {
    fn fails(&self, offset: u64, size: u64) -> bool {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fails = false;
        for (index, fault) in self.faults.iter().enumerate() {
            if fault.bytes.start < offset + size && offset < fault.bytes.end {
                let count = struck.entry(index).or_default();
                if fault.times.is_none_or(|times| *count < times) {
                    *count += 1;
                    fails = true;
                }
            }
        }
        fails
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == DISK;
        FileAttr {
            ino: inode,
            size: if is_disk { self.size } else { 0 },
            blocks: self.size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_disk {
                true => FileType::RegularFile,
                false => FileType::Directory,
            },
            perm: 0o555,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 512,
        }
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&FOREVER, &self.attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = u64::from(size).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if self.fails(offset, size) || self.file.read_exact_at(&mut bytes, offset).is_err() {
            reply.error(Errno::EIO);
        } else {
            reply.data(&bytes);
        }
    }
}
