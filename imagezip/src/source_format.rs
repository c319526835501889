//! In which format a source holds its disk: told by its first bytes, and which other files it names.
//!
//! Whoever writes to a raw disk can make it begin as a virtual one. So a source is never opened as a virtual disk that
//! leads to other files, unless that is allowed, and its format is never left to qemu to guess.

use clap::ValueEnum;

/// Bytes at the beginning of a source that tell its format: for VMDK, its description is among them (qemu looks for
/// the parent's name in the 20 sectors behind the first).
pub(crate) const PROBE: usize = 21 * 512;

/// How the disk stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceFormat {
    /// Its bytes as they are
    Raw,
    /// QEMU's
    Qcow2,
    /// VMware's, in one file
    Vmdk,
    /// VirtualBox's
    Vdi,
    /// Hyper-V's
    Vhdx,
}

impl SourceFormat {
    /// The format of a file that begins with these bytes.
    pub(crate) fn detect(begin: &[u8]) -> Self {
        let at = |offset: usize, magic: &[u8]| {
            begin
                .get(offset..)
                .is_some_and(|rest| rest.starts_with(magic))
        };
        // The offsets of version and signature keep text files and boot sectors apart.
        if at(0, b"QFI\xfb\0\0\0\x02") || at(0, b"QFI\xfb\0\0\0\x03") {
            Self::Qcow2
        } else if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
            Self::Vmdk
        } else if at(64, &0xbeda_107f_u32.to_le_bytes()) && at(0, b"<<< ") {
            Self::Vdi
        } else if at(0, b"vhdxfile") {
            Self::Vhdx
        } else {
            Self::Raw
        }
    }

    /// What qemu calls it.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
        }
    }

    /// What everybody calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "VMDK",
            Self::Vdi => "VDI",
            Self::Vhdx => "VHDX",
        }
    }

    /// Which other files a disk that begins with these bytes leads to.
    pub(crate) fn others(self, begin: &[u8]) -> Others {
        match self {
            Self::Qcow2 => qcow2(begin),
            Self::Vmdk => vmdk(begin),
            // qemu opens no VDI or VHDX that has a parent.
            Self::Raw | Self::Vdi | Self::Vhdx => Others::None,
        }
    }
}

/// Which other files a virtual disk leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// None.
    None,
    /// The one below it, with the data that it does not have itself.
    Backing,
    /// Those with its data.
    Data,
}

fn number<const N: usize>(begin: &[u8], offset: usize) -> Option<[u8; N]> {
    begin.get(offset..)?.first_chunk().copied()
}

/// QEMU's docs/interop/qcow2.txt, "Header".
fn qcow2(begin: &[u8]) -> Others {
    let field = |offset| number(begin, offset).map_or(0, u64::from_be_bytes);
    let version = number(begin, 4).map_or(0, u32::from_be_bytes);
    let has_data_file = version >= 3 && field(72) & (1 << 2) != 0;
    if has_data_file {
        Others::Data
    } else if field(8) != 0 {
        Others::Backing
    } else {
        Others::None
    }
}

/// VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extent Header" and "The Disk Descriptor File".
fn vmdk(begin: &[u8]) -> Others {
    let capacity = number(begin, 12).map_or(0, u64::from_le_bytes);
    if begin.starts_with(b"#") || (begin.starts_with(b"KDMV") && capacity == 0) {
        return Others::Data;
    }
    let hint = b"parentFileNameHint";
    match begin.windows(hint.len()).any(|window| window == hint) {
        true => Others::Backing,
        false => Others::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_only_looks_alike_is_raw() {
        for begin in [
            &b""[..],
            b"QFI",
            b"QFI\xfb\0\0\0\x01",
            b"<<< Oracle VM VirtualBox Disk Image >>>\n",
            b"vhdx",
            b"conectix",
            &[0; PROBE],
        ] {
            assert_eq!(SourceFormat::detect(begin), SourceFormat::Raw);
        }
    }

    proptest! {
        /// No bytes are too few or too odd.
        #[test]
        fn any_bytes(begin in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in SourceFormat::value_variants() {
                format.others(&begin);
            }
            SourceFormat::detect(&begin);
        }
    }
}
