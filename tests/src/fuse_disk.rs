//! Disks that are a program: a user-space filesystem with one file, of which every read, write and flush asks a [`Medium`].

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::mount::{MntFlags, umount2};

pub use fuser::Errno;

const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
/// The kernel may keep what it knows of the file, but not its content.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// What the disk does. Called from one thread.
pub trait Medium: Send + Sync + 'static {
    /// Bytes.
    fn size(&self) -> u64;

    /// Whether it can be written to.
    fn is_writable(&self) -> bool {
        false
    }

    /// Fills `bytes` with what is at `offset`.
    ///
    /// # Errors
    /// What the reader gets.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno>;

    /// Writes `bytes` at `offset`; returns how many were written.
    ///
    /// # Errors
    /// What the writer gets.
    fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EROFS)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// What who flushes gets.
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The mounted disk; unmounted when dropped.
pub struct FuseDisk<M> {
    path: PathBuf,
    medium: Arc<M>,
    _session: BackgroundSession,
}

impl<M: Medium> FuseDisk<M> {
    /// Shows a medium as `disk` in the new directory `mount`.
    ///
    /// # Errors
    /// If it cannot be mounted: it takes root and `/dev/fuse`.
    pub fn show(medium: M, mount: &Path) -> Result<Self> {
        fs::create_dir_all(mount)?;
        let medium = Arc::new(medium);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("test-disk".into())];
        if !medium.is_writable() {
            config.mount_options.push(MountOption::RO);
        }
        let shown = Shown(Arc::clone(&medium));
        let session = fuser::spawn_mount(shown, mount, &config)
            .with_context(|| format!("{}: cannot be mounted", mount.display()))?;
        Ok(Self {
            path: mount.join(NAME),
            medium,
            _session: session,
        })
    }

    /// The disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pulls it out: what is open, and what is under way, fails from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pull_out(&self) -> Result<()> {
        let mount = self.path.parent().context("no mount point")?;
        // The first ends the connection, also if something keeps the mount from going.
        let _ = umount2(mount, MntFlags::MNT_FORCE);
        let _ = umount2(mount, MntFlags::MNT_DETACH);
        ensure!(!self.path.exists(), "{} is there", self.path.display());
        Ok(())
    }

    /// What it does.
    pub fn medium(&self) -> &M {
        &self.medium
    }
}

struct Shown<M>(Arc<M>);

impl<M: Medium> Shown<M> {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == DISK;
        let size = self.0.size();
        FileAttr {
            ino: inode,
            size: if is_disk { size } else { 0 },
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_disk {
                true => FileType::RegularFile,
                false => FileType::Directory,
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 512,
        }
    }
}

impl<M: Medium> Filesystem for Shown<M> {
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

    /// A disk keeps its size.
    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size.is_none_or(|size| size == self.0.size()) {
            true => reply.attr(&FOREVER, &self.attributes(inode)),
            false => reply.error(Errno::EPERM),
        }
    }

    /// Without the page cache every access comes here when it is made.
    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = match self.0.is_writable() {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => FopenFlags::empty(),
        };
        reply.opened(FileHandle(0), flags);
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
        let size = u64::from(size).min(self.0.size().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        match self.0.read(offset, &mut bytes) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(offset, bytes) {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    /// Closing a file flushes nothing.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        match self.0.flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}
