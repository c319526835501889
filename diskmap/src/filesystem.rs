//! What the parsers of filesystems and of containers find out.

use crate::error::Fault;
use crate::extent::{Extent, FreeRuns};
use crate::source::Window;

/// What there is to know of a filesystem besides its map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filesystem {
    /// Volume label.
    pub label: Option<String>,
    /// Identity as `blkid` prints it: a UUID, or a serial number in hexadecimal.
    pub uuid: Option<String>,
    /// Bytes in an allocation unit: block, cluster or page.
    pub block_size: u32,
    /// Bytes of the filesystem; its partition may be larger.
    pub size_bytes: u64,
    /// Bytes in use, metadata included: `size_bytes` without the free blocks.
    pub used_bytes: u64,
    /// Names of features and versions, as the filesystem's own tools print them.
    pub features: Vec<String>,
}

/// Contents that an image can do without, if its user agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Page and swap files of Windows.
    PageFile,
    /// Saved memory of a system that is not hibernated.
    Hibernation,
    /// Journal of a filesystem that was unmounted cleanly, behind the journal's own header.
    Journal,
}

impl Content {
    /// Whether the blocks must read as zeros after the installation. Stale blocks of an older
    /// journal, left on the target, could be replayed as if they followed the new one.
    pub(crate) fn is_zeroed(self) -> bool {
        self == Self::Journal
    }
}

/// A filesystem that was understood completely.
pub(crate) struct Mapped {
    /// As it is called in messages: `ext4`, `XFS`, `FAT32`.
    pub(crate) kind: &'static str,
    pub(crate) filesystem: Filesystem,
    /// Bytes of the unit that the runs below count in; a multiple of 512 or a part of it.
    pub(crate) unit: u64,
    /// Free runs from the start of the window. What is not in it, is saved.
    pub(crate) free: FreeRuns,
    /// Runs that are in use, but could be left out. Sorted for each content.
    pub(crate) optional: Vec<(Content, Vec<Extent>)>,
}

/// A region that holds other volumes, understood completely.
pub(crate) struct Container {
    /// As it is called in messages: `LVM`, `BSD disklabel`.
    pub(crate) kind: &'static str,
    pub(crate) filesystem: Filesystem,
    /// Bytes of the unit that `free` counts in.
    pub(crate) unit: u64,
    /// What belongs to no volume and holds nothing.
    pub(crate) free: FreeRuns,
    pub(crate) volumes: Vec<Inner>,
}

/// A volume in a container.
pub(crate) struct Inner {
    pub(crate) name: String,
    /// Where its bytes lie in the container's window, in their order; in bytes.
    pub(crate) pieces: Vec<Extent>,
    /// Why it must not be looked into.
    pub(crate) raw: Option<String>,
}

/// What a parser makes of a window.
pub(crate) enum Parsed {
    Filesystem(Mapped),
    Container(Container),
}

impl From<Mapped> for Parsed {
    fn from(mapped: Mapped) -> Self {
        Self::Filesystem(mapped)
    }
}

impl From<Container> for Parsed {
    fn from(container: Container) -> Self {
        Self::Container(container)
    }
}

/// Maps what stands in a window, or says why not. A parser that is in doubt must fail: then all
/// of the window is saved.
pub(crate) type Parser = fn(&Window<'_>) -> Result<Parsed, Fault>;

/// A UUID as text, from its bytes in the order of the text.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

/// A UTF-8 field up to its first zero byte, without trailing blanks; `None` if empty.
pub(crate) fn text_field(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}
