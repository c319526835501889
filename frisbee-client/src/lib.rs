//! The client: sockets and a clock around [`frisbee_proto::Client`], the install pipeline of `imageunzip` behind it.
//!
//! Two sides, joined by channels: the *receiver*, a thread that never waits for a disk, and the main thread, which
//! judges the target and feeds the pipeline. What lies between them is bounded by the credit that the protocol
//! machine has: it asks for no more than it may hold.

mod admission;
mod cli;
mod discard;
mod image;
mod install;
mod membership;
mod patience;
mod place;
mod probe;
mod receiver;

pub use cli::Cli;

/// The command line's definition, for manual pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}
