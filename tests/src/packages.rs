//! The programs that tests, demonstration and measurements call, and the Debian packages that they are in.

use std::path::PathBuf;

/// Debian's Python, for which the modules below are; another one in `PATH` does not have them.
pub const PYTHON: &str = "/usr/bin/python3";

/// What the second implementation of the image format needs (`testdata/reference`).
pub const PYTHON_CRYPTOGRAPHY: &str = "/usr/lib/python3/dist-packages/cryptography/__init__.py";

/// What the second implementation of the image format needs (`testdata/reference`).
pub const PYTHON_ZSTANDARD: &str = "/usr/lib/python3/dist-packages/zstandard/__init__.py";

/// A disk with several filesystems that others have made.
pub const SEVERAL_FILESYSTEMS: &str = "/usr/share/forensics-samples/fs.multiple.xz";

/// Program, or file with its whole path, and Debian package.
pub const TOOLS: &[(&str, &str)] = &[
    (PYTHON, "python3"),
    (PYTHON_CRYPTOGRAPHY, "python3-cryptography"),
    (PYTHON_ZSTANDARD, "python3-zstandard"),
    (SEVERAL_FILESYSTEMS, "forensics-samples-multiple"),
    (
        "/usr/share/forensics-samples/fs.exfat.xz",
        "forensics-samples-exfat",
    ),
    (
        "/usr/share/forensics-samples/fs.ntfs.xz",
        "forensics-samples-ntfs",
    ),
    (
        "/usr/share/forensics-samples/fs.vfat.xz",
        "forensics-samples-vfat",
    ),
    ("age", "age"),
    ("age-keygen", "age"),
    ("blkid", "util-linux"),
    ("blkls", "sleuthkit"),
    ("btrfs", "btrfs-progs"),
    ("bzip2", "bzip2"),
    ("debugfs", "e2fsprogs"),
    ("diff", "diffutils"),
    ("dump.exfat", "exfatprogs"),
    ("dump.f2fs", "f2fs-tools"),
    ("dumpe2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("fatlabel", "dosfstools"),
    ("fdisk", "fdisk"),
    ("fsck.exfat", "exfatprogs"),
    ("fsck.f2fs", "f2fs-tools"),
    ("fsck.fat", "dosfstools"),
    ("fsstat", "sleuthkit"),
    ("fusefat", "fusefat"),
    ("fusermount", "fuse3"),
    ("gzip", "gzip"),
    ("ip", "iproute2"),
    ("losetup", "mount"),
    ("lsblk", "util-linux"),
    ("lvm", "lvm2"),
    ("makefs", "makefs"),
    ("mcopy", "mtools"),
    ("mdel", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.exfat", "exfatprogs"),
    ("mkfs.f2fs", "f2fs-tools"),
    ("mkfs.fat", "dosfstools"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkntfs", "ntfs-3g"),
    ("mkswap", "util-linux"),
    ("mkudffs", "udftools"),
    ("mmls", "sleuthkit"),
    ("mount", "mount"),
    ("mount.exfat-fuse", "exfat-fuse"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ntfs-3g", "ntfs-3g"),
    ("ntfsfix", "ntfs-3g"),
    ("ntfsresize", "ntfs-3g"),
    ("openssl", "openssl"),
    ("partclone.btrfs", "partclone"),
    ("partclone.ext4", "partclone"),
    ("pigz", "pigz"),
    ("parted", "parted"),
    ("partx", "util-linux"),
    ("perl", "perl-base"),
    ("prlimit", "util-linux"),
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("resize.f2fs", "f2fs-tools"),
    ("resize2fs", "e2fsprogs"),
    ("script", "bsdutils"),
    ("sfdisk", "fdisk"),
    ("sgdisk", "gdisk"),
    ("sload.f2fs", "f2fs-tools"),
    ("ssh-keygen", "openssh-client"),
    ("swaplabel", "util-linux"),
    ("swapon", "mount"),
    ("time", "time"),
    ("tshark", "tshark"),
    ("tsk_recover", "sleuthkit"),
    ("tune2fs", "e2fsprogs"),
    ("xfs_db", "xfsprogs"),
    ("xfs_growfs", "xfsprogs"),
    ("xfs_io", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("xz", "xz-utils"),
];

/// What the demonstration needs beside the toolchain.
pub const DEMO_TOOLS: &[&str] = &[
    "blkls",
    "debugfs",
    "dumpe2fs",
    "e2fsck",
    "mcopy",
    "mke2fs",
    "mkfs.vfat",
    "sfdisk",
];

/// What only the measurements need.
pub const BENCH_TOOLS: &[(&str, &str)] = &[
    ("partclone.ext4", "partclone"),
    ("tc", "iproute2"),
    ("udp-receiver", "udpcast"),
    ("udp-sender", "udpcast"),
    ("uftp", "uftp"),
    ("uftpd", "uftp"),
    ("zstd", "zstd"),
];

/// Where system programs are, also for users whose `PATH` has no `sbin`.
const SYSTEM_PATHS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The path of a program, or the path itself of a file that is there.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATHS.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The package of a program; its own name if it is not in the tables.
pub fn package(program: &str) -> &str {
    let mut tables = TOOLS.iter().chain(BENCH_TOOLS);
    tables
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, package)| package)
}

/// The packages of those of `programs` that are not installed, each once.
pub fn missing<'a>(programs: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut packages: Vec<&str> = programs
        .into_iter()
        .filter(|program| find(program).is_none())
        .map(package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}
