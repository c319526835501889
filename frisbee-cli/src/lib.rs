//! What all the command line tools have in common: exit codes and error lines, key files, units, progress,
//! and what Linux tells about block devices.

pub mod confirm;
pub mod device;
pub mod disks;
pub mod exit;
pub mod interrupt;
pub mod keys;
pub mod pipe;
pub mod policy;
pub mod progress;
pub mod selector;
pub mod stages;
pub mod units;
pub mod write_back;

pub use exit::{Exit, Failure, run, say};
pub use interrupt::Interrupt;
