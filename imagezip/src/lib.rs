//! Disk to image: what is to be saved is cut into chunks, which are read, compressed, encrypted and signed on all
//! cores and written in order.

mod create;
mod disk;
mod error;
pub mod key;
mod output;
mod plan;
pub mod zip;

pub use create::{Job, Summary, create};
pub use disk::Disk;
pub use error::Error;
pub use plan::{Piece, Plan};
