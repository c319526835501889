//! The harness of the end-to-end tests: disks with real files, loop devices, rooms of network namespaces, and oracles
//! that are not ours (the kernel, e2fsprogs).
//!
//! The tools under test are the built binaries, run as a user runs them. `cargo xtask` uses the same harness for its
//! demonstration and measurements. Everything that a test makes is removed when its guard is dropped; what a killed
//! test leaves behind is removed by the next run.

pub mod anatomy;
pub mod background;
pub mod canary;
pub mod cgroup;
pub mod class;
pub mod command;
pub mod crash_disk;
pub mod disk;
pub mod events;
pub mod ext;
pub mod fault_disk;
pub mod files;
pub mod filesystem;
pub mod forger;
pub mod fuse_disk;
pub mod image;
pub mod loop_device;
pub mod need;
pub mod netns;
pub mod packages;
pub mod ranges;
pub mod relay;
pub mod room;
pub mod scene;
pub mod scratch;
