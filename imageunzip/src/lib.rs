//! Image to disk: the install pipeline that imageunzip and frisbee-client share.
//!
//! Three stages: *receive* (the caller's, who hands chunks to [`Installer::submit`]), *open* (verify, decrypt,
//! decompress; one thread per core) and *write* (one thread). Chunks may come in any order and more than once. A disk
//! is either completely installed or does not boot: what a firmware or kernel would look for is wiped first and
//! written last.

mod after;
mod candidate;
mod choice;
mod compare;
mod contents;
mod cut;
mod direct;
mod discard;
pub mod dump;
mod edges;
mod error;
mod install;
mod layers;
mod legacy;
mod marker;
mod open;
mod options;
mod part;
mod readback;
mod report;
mod run;
mod source;
mod sparse;
mod stream;
mod target;
pub mod unzip;
mod verify;
mod write;

pub use after::{AfterArgs, ImageId, Installed};
pub use candidate::Candidate;
pub use choice::{TargetArgs, title};
pub use contents::{Contents, Held, Image, Origin, origin};
pub use error::Error;
pub use install::{Event, Expected, Format, FreeSpace, InstallOptions, Installer, Stopped};
pub use legacy::Legacy;
pub use open::Window;
pub use options::InstallArgs;
pub use report::{Report, Unreadable, dry_run};
pub use target::Target;
