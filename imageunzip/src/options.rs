//! Options about an installation, which imageunzip and frisbee-client share.

use chunkfmt::CHUNK_SIZE_MAX;
use clap::{Args, ValueEnum};
use frisbee_cli::units;

use crate::{AfterArgs, FreeSpace, InstallOptions, Target};

/// Bytes that an installation takes apart from its threads: the program, the ends of the disk, a manifest.
const MEMORY_FIXED: u64 = 24 << 20;

/// Bytes for each thread that opens chunks: five chunks of 2 MiB on their way, and the codec.
const MEMORY_PER_THREAD: u64 = 12 << 20;

/// Least that `--memory` may be: one thread, and as much for chunks that the network brings.
const MEMORY_MIN: u64 = 48 << 20;

/// What to do with free space, on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Free {
    /// Leave what is there
    #[default]
    Skip,
    /// Fill it with zeros: nothing of the last user is left (but an Emulab delta, which does not say that it is one,
    /// would destroy its base)
    Zero,
    /// Tell the device that it is not used (TRIM); what is read there afterwards is undefined
    Discard,
}

impl From<Free> for FreeSpace {
    fn from(free: Free) -> Self {
        match free {
            Free::Skip => Self::Skip,
            Free::Zero => Self::Zero,
            Free::Discard => Self::Discard,
        }
    }
}

/// When to look for what is on the target already, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Reuse {
    /// If an installation of this image was interrupted there
    Auto,
    /// In any case
    Always,
    /// Not at all
    Never,
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text)?;
    match bytes < MEMORY_MIN {
        true => Err(format!("at least {} are needed", units::size(MEMORY_MIN))),
        false => Ok(bytes),
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
    /// Make all checks, say what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Compare the target with the image first, and leave alone what it holds already: auto does so where an installation of
    /// this image was interrupted; --reuse alone means always
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        hide_possible_values = true
    )]
    reuse: Reuse,
    /// Read back everything that was written, past the page cache, before the disk is made bootable
    #[arg(long)]
    verify: bool,
    /// Number of threads that decompress [default: one per core, as far as --memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Most memory to use, from 48M on; a very large image's manifest comes on top
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "256M")]
    pub memory: u64,
    /// What is done with the disk when the image is on it
    #[command(flatten)]
    pub after: AfterArgs,
}

impl InstallArgs {
    /// The pipeline's options, if `taken` bytes of memory are for something else.
    pub fn options(&self, taken: u64) -> InstallOptions {
        let usual = InstallOptions::default();
        let wanted = self.threads.map_or(usual.threads, usize::from);
        let room = self.memory.saturating_sub(MEMORY_FIXED + taken);
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let threads = wanted.min(count(room / MEMORY_PER_THREAD)).max(1);
        let left = room.saturating_sub(threads as u64 * MEMORY_PER_THREAD);
        let ahead = count(left / u64::from(CHUNK_SIZE_MAX));
        InstallOptions {
            free: self.free.into(),
            verify: self.verify,
            threads,
            queue: Some(threads),
            ahead: ahead.min(InstallOptions::AHEAD),
        }
    }

    /// An option that needs a disk, and so cannot be used if the disk is only written out.
    pub(crate) fn needs_disk(&self) -> Option<&'static str> {
        let asked = [
            (self.dry_run, "--dry-run"),
            (self.verify, "--verify"),
            (matches!(self.reuse, Reuse::Always), "--reuse"),
            (matches!(self.free, Free::Discard), "--free discard"),
            (
                self.after.works_on_filesystems(),
                "what is to be done after the installation",
            ),
        ];
        let found = asked.into_iter().find(|(asked, _)| *asked);
        found.map(|(_, name)| name)
    }

    /// Whether every target is to be compared with the image.
    pub(crate) fn compares_always(&self) -> bool {
        self.reuse == Reuse::Always
    }

    /// Whether it is to be found out what a target holds already.
    pub fn looks_at(&self, target: &Target) -> bool {
        match self.reuse {
            Reuse::Auto => target.was_interrupted(),
            Reuse::Always => true,
            Reuse::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        install: InstallArgs,
    }

    fn options(arguments: &[&str], taken: u64) -> InstallOptions {
        let words = ["program"].iter().chain(arguments);
        Program::parse_from(words).install.options(taken)
    }

    fn threads(arguments: &[&str], taken: u64) -> usize {
        options(arguments, taken).threads
    }

    #[test]
    fn memory_bounds_threads() {
        let memory = |threads: usize| MEMORY_FIXED + threads as u64 * MEMORY_PER_THREAD;
        let many = threads(&["--threads", "1000"], 0);
        assert!(
            memory(many) <= 256 << 20 && memory(many + 1) > 256 << 20,
            "{many}"
        );
        assert_eq!(threads(&["--threads", "1000", "--memory", "72M"], 0), 4);
        assert_eq!(
            threads(&["--threads", "1000", "--memory", "72M"], 24 << 20),
            2
        );
        assert_eq!(threads(&["--threads", "3"], 0), 3);
        assert_eq!(threads(&["--threads", "3", "--memory", "48M"], 12 << 20), 1);
        assert!(Program::try_parse_from(["program", "--memory", "47M"]).is_err());

        // What threads leave is for chunks in store.
        let ahead = |memory: &str| options(&["--threads", "3", "--memory", memory], 0).ahead;
        assert_eq!(ahead("256M"), InstallOptions::AHEAD);
        assert_eq!(
            [ahead("60M"), ahead("61M"), ahead("62M"), ahead("70M")],
            [0, 0, 1, 5]
        );
    }
}
