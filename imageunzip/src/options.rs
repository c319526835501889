//! Options about an installation, which imageunzip and frisbee-client share.

use clap::{Args, ValueEnum};

use crate::{AfterArgs, FreeSpace, InstallOptions};

/// What to do with free space, on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Free {
    /// Leave what is there
    #[default]
    Skip,
    /// Fill it with zeros: nothing of the last user is left (but an Emulab delta, which does not say that it is one,
    /// would destroy its base)
    Zero,
}

impl From<Free> for FreeSpace {
    fn from(free: Free) -> Self {
        match free {
            Free::Skip => Self::Skip,
            Free::Zero => Self::Zero,
        }
    }
}

/// How an image is installed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Installation")]
pub struct InstallArgs {
    /// What to do with the disk's free space
    #[arg(long, value_enum, default_value_t)]
    free: Free,
    /// Overwrite the target without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Number of threads that decompress [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// What is done with the disk when the image is on it
    #[command(flatten)]
    pub after: AfterArgs,
}

impl InstallArgs {
    /// The pipeline's options.
    pub fn options(&self) -> InstallOptions {
        let mut options = InstallOptions {
            free: self.free.into(),
            ..InstallOptions::default()
        };
        if let Some(threads) = self.threads {
            options.threads = threads.into();
        }
        options
    }
}
