//! A disk with a write cache that a power cut empties: what was not flushed is kept, lost or torn, in any order.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use fastrand::Rng;

use crate::fuse_disk::{Errno, FuseDisk, Medium};

/// What a disk writes at once, whatever happens.
const SECTOR: usize = 512;

/// The disk, mounted.
pub type CrashDisk = FuseDisk<Cache>;

/// What [`CrashDisk`] shows.
pub struct Cache(Mutex<State>);

struct State {
    /// What is read.
    shown: Vec<u8>,
    /// What would be there without what was not flushed.
    durable: Vec<u8>,
    /// Writes since the last flush, in order: places and bytes.
    pending: Vec<(usize, Vec<u8>)>,
    /// Writes and flushes up to now.
    accesses: usize,
    /// The power goes before the access with this number.
    power: Option<usize>,
    /// It was asked for something when the power had gone.
    is_off: bool,
}

impl State {
    fn check_power(&mut self) -> Result<(), Errno> {
        if self.power.is_some_and(|power| self.accesses >= power) {
            self.is_off = true;
            return Err(Errno::EIO);
        }
        Ok(())
    }
}

impl Cache {
    /// A disk with these bytes, all of them durable; the power goes after `power` writes and flushes.
    pub fn new(bytes: Vec<u8>, power: Option<usize>) -> Self {
        Self(Mutex::new(State {
            shown: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
            accesses: 0,
            power,
            is_off: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and flushes that were made.
    pub fn accesses(&self) -> usize {
        self.state().accesses
    }

    /// Whether the power went too early for somebody.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// What is on the disk after a power cut: of the writes since the last flush some are complete, some are missing, of
    /// some there are only some of the sectors, and later ones may be there before earlier ones.
    pub fn after_power_cut(&self, random: &mut Rng) -> Vec<u8> {
        let state = self.state();
        let mut disk = state.durable.clone();
        let mut pending: Vec<_> = state.pending.iter().collect();
        random.shuffle(&mut pending);
        for (at, bytes) in pending {
            let (from, to) = match random.u8(0..4) {
                0 => (0, 0),
                1 => (0, bytes.len()),
                // The head or the tail of it.
                cut => {
                    let border = random.usize(0..=bytes.len() / SECTOR) * SECTOR;
                    match cut {
                        2 => (0, border),
                        _ => (border, bytes.len()),
                    }
                }
            };
            disk[at + from..at + to].copy_from_slice(&bytes[from..to]);
        }
        disk
    }
}

impl Medium for Cache {
    fn size(&self) -> u64 {
        self.state().shown.len() as u64
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let mut state = self.state();
        state.check_power()?;
        let at = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        bytes.copy_from_slice(&state.shown[at..at + bytes.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state();
        state.check_power()?;
        state.accesses += 1;
        let at = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = at + bytes.len();
        let place = state.shown.get_mut(at..end).ok_or(Errno::ENOSPC)?;
        place.copy_from_slice(bytes);
        state.pending.push((at, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut state = self.state();
        state.check_power()?;
        state.accesses += 1;
        for (at, bytes) in std::mem::take(&mut state.pending) {
            state.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

/// Shows a disk with these bytes in the new directory `mount`.
///
/// # Errors
/// See [`FuseDisk::show`].
pub fn show(bytes: Vec<u8>, power: Option<usize>, mount: &Path) -> Result<CrashDisk> {
    ensure!(bytes.len().is_multiple_of(SECTOR), "half a sector");
    FuseDisk::show(Cache::new(bytes, power), mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Result<Cache, Errno> {
        let cache = Cache::new(vec![0; 8 * SECTOR], None);
        cache.write(0, &[1; 2 * SECTOR])?;
        cache.flush()?;
        cache.write(SECTOR as u64, &[2; 4 * SECTOR])?;
        cache.write(2 * SECTOR as u64, &[3; 4 * SECTOR])?;
        Ok(cache)
    }

    #[test]
    fn what_was_flushed_stays() -> Result<(), Errno> {
        let cache = written()?;
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let disk = cache.after_power_cut(&mut Rng::with_seed(seed));
            assert!(disk[..SECTOR].iter().all(|&byte| byte == 1));
            assert!(disk[6 * SECTOR..].iter().all(|&byte| byte == 0));
            let sectors: Vec<u8> = disk.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(
                disk.chunks(SECTOR)
                    .all(|sector| sector.iter().all(|byte| *byte == sector[0]))
            );
            found.insert(sectors);
        }
        // All, nothing, torn ones, and the later write before the earlier one.
        for sectors in [
            [1, 2, 3, 3, 3, 3, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
            [1, 2, 2, 0, 0, 0, 0, 0],
            [1, 2, 2, 2, 2, 3, 0, 0],
            [1, 1, 0, 0, 2, 0, 0, 0],
        ] {
            assert!(found.contains(&sectors[..]), "{sectors:?}");
        }
        cache.flush()?;
        let disk = cache.after_power_cut(&mut Rng::with_seed(0));
        assert_eq!(disk[5 * SECTOR], 3);
        Ok(())
    }

    #[test]
    fn without_power_nothing_works() -> Result<(), Errno> {
        let cache = Cache::new(vec![0; SECTOR], Some(2));
        cache.write(0, &[1; SECTOR])?;
        cache.flush()?;
        assert!(!cache.is_off());
        assert!(cache.write(0, &[2; SECTOR]).is_err() && cache.flush().is_err());
        assert!(cache.read(0, &mut [0; SECTOR]).is_err() && cache.is_off());
        assert_eq!(cache.after_power_cut(&mut Rng::with_seed(0)), [1; SECTOR]);
        Ok(())
    }
}
