//! Disks with faults: sectors that cannot be read or written, no room, flushes that fail, cables that come off.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::fuse_disk::{Errno, FuseDisk, Medium};

/// Bytes that cannot be read.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which.
    pub bytes: Range<u64>,
    /// How many reads fail before the first one succeeds; all of them with `None`.
    pub times: Option<u32>,
}

/// A disk with read errors.
pub type FaultDisk = FuseDisk<Faulty>;

/// What [`FaultDisk`] shows: a file with errors in it.
pub struct Faulty {
    file: File,
    size: u64,
    faults: Vec<Fault>,
    /// How often each fault has struck.
    struck: Mutex<BTreeMap<usize, u32>>,
}

impl Faulty {
    /// A disk with the content of `file`.
    ///
    /// # Errors
    /// If that cannot be opened.
    pub fn new(file: &Path, faults: Vec<Fault>) -> Result<Self> {
        let file = File::open(file)?;
        Ok(Self {
            size: file.metadata()?.len(),
            file,
            faults,
            struck: Mutex::default(),
        })
    }

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
}

impl Medium for Faulty {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        match self.fails(offset, bytes.len() as u64) {
            true => Err(Errno::EIO),
            false => Ok(self.file.read_exact_at(bytes, offset)?),
        }
    }
}

/// How writing to a disk goes wrong.
#[derive(Clone, Debug)]
pub enum WriteFault {
    /// These bytes cannot be written.
    Bad(Range<u64>),
    /// There is no room from here on.
    Full(u64),
    /// Flushing fails, from the flush with this number on, the first being 0.
    Flush(u64),
    /// It is gone after this many reads, writes and flushes, and everything fails in this way.
    Gone(u64, Errno),
    /// Never more than this many bytes are written at once; nothing fails.
    Short(usize),
    /// This byte is not what was written there; nothing fails.
    Lies(u64),
}

/// A writable disk with a fault; what it shows is a file.
pub struct FaultyTarget {
    file: File,
    size: u64,
    fault: WriteFault,
    accesses: AtomicU64,
    flushes: AtomicU64,
}

impl FaultyTarget {
    /// A disk with the content of `file`, which takes what is written.
    ///
    /// # Errors
    /// If that cannot be opened.
    pub fn new(file: &Path, fault: WriteFault) -> Result<Self> {
        let file = File::options().read(true).write(true).open(file)?;
        Ok(Self {
            size: file.metadata()?.len(),
            file,
            fault,
            accesses: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        })
    }

    /// Flushes up to now.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    fn access(&self) -> Result<(), Errno> {
        let number = self.accesses.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            WriteFault::Gone(after, error) if number >= after => Err(error),
            _ => Ok(()),
        }
    }
}

impl Medium for FaultyTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.access()?;
        Ok(self.file.read_exact_at(bytes, offset)?)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.access()?;
        let end = offset + bytes.len() as u64;
        let bytes = match &self.fault {
            WriteFault::Bad(bad) if offset < bad.end && bad.start < end => return Err(Errno::EIO),
            WriteFault::Full(from) if end > *from => return Err(Errno::ENOSPC),
            WriteFault::Short(most) => &bytes[..bytes.len().min(*most)],
            _ => bytes,
        };
        self.file.write_all_at(bytes, offset)?;
        if let WriteFault::Lies(at) = self.fault
            && (offset..end).contains(&at)
        {
            let place = usize::try_from(at - offset).unwrap_or(0);
            self.file.write_all_at(&[!bytes[place]], at)?;
        }
        Ok(bytes.len())
    }

    fn flush(&self) -> Result<(), Errno> {
        self.access()?;
        let number = self.flushes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            WriteFault::Flush(first) if number >= first => Err(Errno::EIO),
            _ => Ok(()),
        }
    }
}
