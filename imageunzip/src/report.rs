//! What an installation has done, in words and as JSON.

use std::fmt::Write;
use std::time::Duration;

use chunkfmt::{Layout, relocation};
use diskmap::edit::Edited;
use frisbee_cli::units;
use serde_json::{Value, json};

use crate::{FreeSpace, Held, Target};

/// Most ranges of unreadable sectors that are listed one by one.
const RANGES_MAX: usize = 1024;

/// Most of them that a line names.
const RANGES_SHOWN: usize = 8;

/// What was installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks written.
    pub chunks: u32,
    /// Bytes of disk data written.
    pub plain_bytes: u64,
    /// Bytes of free space in the imaged disk.
    pub free_bytes: u64,
    /// Chunks that were on the disk already, of which nothing was written.
    pub kept_chunks: u32,
    /// Bytes of disk data in those.
    pub kept_bytes: u64,
    /// What was done with free space.
    pub free: FreeSpace,
    /// The device did not take all of the free space that was to be discarded.
    pub discard_refused: bool,
    /// Everything that was written was read back.
    pub verified: bool,
    /// Sectors that could not be read when the image was made.
    pub unreadable: Unreadable,
    /// What was changed in the partition table.
    pub table: Edited,
}

/// Sectors that could not be read when an image was made, and are zeros in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Their bytes.
    pub bytes: u64,
    /// First sector and number of sectors, of the first thousand ranges.
    ranges: Vec<(u64, u64)>,
    more: u64,
}

impl Unreadable {
    /// Adds those of a chunk.
    pub(crate) fn add(&mut self, layout: &Layout, sector_size: u64) {
        let bad = layout
            .relocations
            .iter()
            .filter(|relocation| relocation.kind == relocation::UNREADABLE);
        for relocation in bad {
            self.bytes = self.bytes.saturating_add(relocation.size);
            if self.ranges.len() < RANGES_MAX {
                let sectors = relocation.size / sector_size.max(1);
                self.ranges.push((relocation.sector, sectors));
            } else {
                self.more += 1;
            }
        }
    }

    /// First sector and number of sectors, of the first thousand ranges, as JSON.
    pub(crate) fn ranges(&self) -> Value {
        json!(self.ranges)
    }

    /// The warning about them, if there are any.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.bytes == 0 {
            return None;
        }
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable();
        let mut text = format!(
            "warning: {} could not be read when the image was made and are zeros in it, sectors ",
            units::size(self.bytes)
        );
        for (index, (first, sectors)) in ranges.iter().take(RANGES_SHOWN).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let last = first + sectors.saturating_sub(1);
            // Writing to a string cannot fail.
            let _ = match *sectors {
                1 => write!(text, "{comma}{first}"),
                _ => write!(text, "{comma}{first}-{last}"),
            };
        }
        let hidden = ranges.len().saturating_sub(RANGES_SHOWN) as u64 + self.more;
        if hidden > 0 {
            let _ = write!(text, " and {hidden} ranges more");
        }
        Some(text)
    }
}

/// What `--dry-run` says and the fields of its finish event; `total` bytes would be written, 0 if that is not known.
pub fn dry_run(title: &str, target: &Target, total: u64, held: &Held) -> (String, Value) {
    let data = match total {
        0 => "all of the image".into(),
        total => units::size(total),
    };
    let held_text = match held.count {
        0 => String::new(),
        count => format!(
            ", {} in {count} chunks are on it already",
            units::size(held.bytes)
        ),
    };
    let cut = match target.cut_bytes() {
        0 => String::new(),
        cut => format!(", {} free at its end cut off", units::size(cut)),
    };
    let line = format!(
        "{}: {title} would be installed: {data} to write{held_text}{cut}; nothing was written",
        target.path().display()
    );
    let fields = json!({
        "dry_run": true, "total_bytes": total, "kept_chunks": held.count, "kept_bytes": held.bytes,
        "destroys": target.holds_data(), "cut_bytes": target.cut_bytes(),
    });
    (line, fields)
}

impl Report {
    /// What the user has to be warned of.
    pub fn warnings(&self) -> Vec<String> {
        let refused = "warning: the device does not discard: free space was left as it was";
        let refused = self.discard_refused.then(|| refused.to_owned());
        self.unreadable
            .warning()
            .into_iter()
            .chain(refused)
            .collect()
    }

    /// The line that ends an installation, without the target's name.
    pub fn summary(&self, time: Duration) -> String {
        let free = match self.free {
            FreeSpace::Zero => " (zeroed)",
            FreeSpace::Discard if !self.discard_refused => " (discarded)",
            _ => "",
        };
        let kept = match self.kept_chunks {
            0 => String::new(),
            kept => format!(
                ", {} in {kept} chunks were on the disk",
                units::size(self.kept_bytes)
            ),
        };
        let verified = if self.verified { ", read back" } else { "" };
        format!(
            "{} of data, {} free{free}, {} chunks{kept}{verified}, {:.2} s, {}",
            units::size(self.plain_bytes),
            units::size(self.free_bytes),
            self.chunks,
            time.as_secs_f64(),
            units::throughput(self.plain_bytes, time),
        )
    }

    /// The fields of the finish event.
    pub fn fields(&self) -> Value {
        json!({
            "chunks": self.chunks, "kept_chunks": self.kept_chunks, "kept_bytes": self.kept_bytes,
            "verified": self.verified, "plain_bytes": self.plain_bytes,
            "free_bytes": self.free_bytes, "unreadable_bytes": self.unreadable.bytes,
            "unreadable": self.unreadable.ranges(), "backup_gpt": self.table.moved,
            "grown_partition": self.table.grown.map(|(number, _)| number),
        })
    }
}
