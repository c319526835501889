//! Names of partition types.
//!
//! Source: util-linux 2.41, `include/pt-mbr-partnames.h` and `include/pt-gpt-partnames.h`; those that are met most.

const NAMES: &[(&str, &str)] = &[
    ("0x01", "FAT12"),
    ("0x04", "FAT16 <32M"),
    ("0x06", "FAT16"),
    ("0x07", "HPFS/NTFS/exFAT"),
    ("0x0b", "W95 FAT32"),
    ("0x0c", "W95 FAT32 (LBA)"),
    ("0x0e", "W95 FAT16 (LBA)"),
    ("0x27", "Hidden NTFS WinRE"),
    ("0x82", "Linux swap"),
    ("0x83", "Linux"),
    ("0x8e", "Linux LVM"),
    ("0xa5", "FreeBSD"),
    ("0xa6", "OpenBSD"),
    ("0xa9", "NetBSD"),
    ("0xaf", "HFS / HFS+"),
    ("0xef", "EFI system"),
    ("0xfd", "Linux RAID"),
    ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"),
    ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
    ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"),
    (
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
        "Microsoft basic data",
    ),
    ("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery"),
    ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem"),
    (
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        "Linux root (x86-64)",
    ),
    ("933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"),
    ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"),
    ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"),
    ("A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID"),
    (
        "BC13C2FF-59E6-4262-A352-B275FD6F7172",
        "Linux extended boot",
    ),
    ("CA7D7CCB-63ED-4C53-861C-1742536059CC", "LUKS"),
    ("516E7CB4-6ECF-11D6-8FF8-00022D09712B", "FreeBSD data"),
    ("83BD6B9D-7F41-11DC-BE0B-001560B84F0F", "FreeBSD boot"),
    ("516E7CB5-6ECF-11D6-8FF8-00022D09712B", "FreeBSD swap"),
    ("516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"),
    ("516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"),
    ("48465300-0000-11AA-AA11-00306543ECAC", "Apple HFS/HFS+"),
    ("7C3457EF-0000-11AA-AA11-00306543ECAC", "Apple APFS"),
    ("6A898CC3-1DD2-11B2-99A6-080020736631", "ZFS"),
];

/// The name of a type as it stands in a partition table; the type itself if it has none here.
pub(super) fn type_name(type_id: &str) -> String {
    let known = NAMES.iter().find(|(id, _)| *id == type_id);
    known.map_or(type_id, |(_, name)| name).to_owned()
}
