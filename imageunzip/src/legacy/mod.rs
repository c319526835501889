//! Emulab images: what is asked of their chunks, and checking, installing and showing them.

pub(crate) mod dump;
mod examine;
pub(crate) mod install;
mod rules;

pub use rules::Legacy;
