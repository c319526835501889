//! Disk to image: what is to be saved is cut into chunks, which are read, compressed, encrypted and signed on all
//! cores and written in order.

mod backing;
mod base;
mod budget;
mod compare;
mod create;
mod disk;
mod emulab;
mod error;
mod inputs;
pub mod key;
mod nbd;
mod output;
mod pipe;
mod piped;
mod plan;
mod protect;
mod qemu;
mod rescue;
mod reseal;
mod scan;
mod selection;
mod source_format;
pub mod zip;

use disk::Disk;
use error::Error;
use plan::{Piece, Plan};
