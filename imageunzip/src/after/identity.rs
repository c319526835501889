//! What must not be the same on two machines: UUIDs of filesystems, machine-id, ssh host keys, the host's name.

use std::io;
use std::path::Path;

use diskmap::ReadAt;
use frisbee_cli::Failure;

use super::filesystem::Kind;
use super::grow::check_ext;
use super::replace::replace;
use super::root::Root;
use super::volume::Volume;
use super::{Log, failed, hostname, tool};

/// Files that name filesystems and partitions: of a system, and of /boot and the EFI partition by themselves.
const FILES: [&str; 15] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/kernel/cmdline",
    "etc/initramfs-tools/conf.d/resume",
    "boot/grub/grub.cfg",
    "boot/grub/grubenv",
    "boot/grub2/grub.cfg",
    "boot/grub2/grubenv",
    "boot/extlinux/extlinux.conf",
    "grub/grub.cfg",
    "grub/grubenv",
    "grub2/grub.cfg",
    "grub2/grubenv",
    "extlinux/extlinux.conf",
];

/// Directories of such files.
const ENTRIES: [&str; 2] = ["boot/loader/entries", "loader/entries"];

/// Directories with directories that have a grub.cfg.
const EFI: [&str; 3] = ["EFI", "efi", "boot/efi/EFI"];

/// The program that gives a filesystem a new UUID.
fn tool_for(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Ext => "tune2fs",
        Kind::Xfs => "xfs_admin",
        Kind::Btrfs => "btrfstune",
        Kind::Swap => "swaplabel",
        Kind::Fat => "fatlabel",
        Kind::Ntfs => "ntfslabel",
        Kind::ExFat => "tune.exfat",
        Kind::F2fs => return None,
    })
}

/// Gives a filesystem a new UUID. Returns the old and the new one; `None` if nobody here can do it.
pub(super) fn renew(
    volume: &Volume<'_>,
    kind: Kind,
    disk: &dyn ReadAt,
    log: &Log<'_>,
) -> Result<Option<(String, String)>, Failure> {
    let (name, kind_name) = (volume.name(), kind.name());
    let kept = |why: &str| {
        let text = format!("the {kind_name} in {name} keeps its UUID: {why}");
        log.warning("new-guids", &text);
        Ok(None)
    };
    let Some(program) = tool_for(kind) else {
        return kept("there is no program for it");
    };
    let needed = [program, "e2fsck"];
    let needed = match kind {
        Kind::Ext => &needed[..],
        _ => &needed[..1],
    };
    if let Some(missing) = needed.iter().find(|program| tool::find(program).is_none()) {
        return kept(&format!("{missing} is not installed"));
    }
    let before = kind.uuid(disk, volume.offset());
    let device = volume.attach()?;
    change(kind, program, device.path())
        .map_err(|failure| failure.context(format_args!("a new UUID for {name} failed")))?;
    device.close()?;
    let after = kind.uuid(disk, volume.offset());
    match (before, after) {
        (Some(before), Some(after)) if before != after => {
            let text = format!("the {kind_name} in {name} has a new UUID: {after}");
            log.done("new-guids", &text);
            Ok(Some((before, after)))
        }
        _ => Err(failed(format!(
            "{program} left the UUID of the {kind_name} in {name} as it was"
        ))),
    }
}

fn change(kind: Kind, program: &str, device: &Path) -> Result<(), Failure> {
    let new = uuid::Uuid::new_v4();
    let uuid = new.hyphenated().to_string();
    let serial = format!("{:08X}", new.as_fields().0);
    let device_name = device.to_string_lossy();
    let hex_serial = format!("0x{serial}");
    let arguments: &[&str] = match kind {
        Kind::Ext => {
            check_ext(device)?;
            &["-U", &uuid, &device_name]
        }
        Kind::Xfs | Kind::Swap => &["-U", &uuid, &device_name],
        Kind::Btrfs => &["-M", &uuid, &device_name],
        Kind::Fat => &["-i", &device_name, &serial],
        Kind::Ntfs => &["--new-serial", &device_name],
        Kind::ExFat | Kind::F2fs => &["-I", &hex_serial, &device_name],
    };
    tool::run(program, arguments, &[0])?;
    Ok(())
}

/// Replaces old identifiers in the files that name them. What is no regular file is passed over, with a warning.
pub(super) fn rename_in_files(
    root: &Root,
    place: &str,
    ids: &[(String, String)],
    log: &Log<'_>,
) -> Result<(), Failure> {
    let mut files: Vec<String> = FILES.iter().map(|&file| file.into()).collect();
    let listed = |directory: &str| root.names(directory).unwrap_or_default();
    for directory in ENTRIES {
        let entries = listed(directory);
        let entries = entries.iter().filter(|name| name.ends_with(".conf"));
        files.extend(entries.map(|name| format!("{directory}/{name}")));
    }
    for directory in EFI {
        let vendors = listed(directory);
        files.extend(
            vendors
                .iter()
                .map(|name| format!("{directory}/{name}/grub.cfg")),
        );
    }
    let mut seen = Vec::new();
    for file in files {
        let text = match root.read(&file) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(error) => {
                let text = format!("{place}: /{file} was not looked into: {error}");
                log.warning("new-guids", &text);
                continue;
            }
        };
        if let Some((text, count)) = replace(&text, ids) {
            root.rewrite(&file, &text)
                .map_err(|error| in_file(&file, &error))?;
            seen.push(format!("/{file} ({count})"));
        }
    }
    if !seen.is_empty() {
        let text = format!("{place}: new identifiers in {}", seen.join(", "));
        log.done("new-guids", &text);
    }
    Ok(())
}

fn in_file(file: &str, error: &io::Error) -> Failure {
    failed(format!("/{file} of the image: {error}"))
}

/// Empties /etc/machine-id, and removes what would be taken instead of it.
pub(super) fn clear_machine_id(root: &Root, log: &Log<'_>) -> Result<(), Failure> {
    let file = "etc/machine-id";
    let found = root
        .rewrite(file, b"")
        .map_err(|error| in_file(file, &error))?;
    let copy = "var/lib/dbus/machine-id";
    if root.is_file(copy) {
        root.remove("var/lib/dbus", "machine-id")
            .map_err(|error| in_file(copy, &error))?;
    }
    let text = match found {
        true => "/etc/machine-id was emptied",
        false => "there is no /etc/machine-id: nothing to empty",
    };
    log.done("clear-machine-id", text);
    Ok(())
}

/// Removes the host keys of ssh.
pub(super) fn remove_host_keys(root: &Root, log: &Log<'_>) -> Result<(), Failure> {
    let directory = "etc/ssh";
    let names = root
        .names(directory)
        .map_err(|error| in_file(directory, &error))?;
    let mut removed = 0;
    for name in names.iter().filter(|name| name.starts_with("ssh_host_")) {
        root.remove(directory, name)
            .map_err(|error| in_file(&format!("{directory}/{name}"), &error))?;
        removed += 1;
    }
    let text = match removed {
        0 => "there are no ssh host keys to remove".into(),
        _ => format!("{removed} files of ssh host keys were removed"),
    };
    log.done("remove-host-keys", &text);
    Ok(())
}

/// Writes the host's name.
pub(super) fn set_hostname(root: &Root, name: &str, log: &Log<'_>) -> Result<(), Failure> {
    let (file, hosts) = ("etc/hostname", "etc/hosts");
    let old = root.read(file).map_err(|error| in_file(file, &error))?;
    root.write(file, format!("{name}\n").as_bytes())
        .map_err(|error| in_file(file, &error))?;
    let old = String::from_utf8_lossy(&old.unwrap_or_default())
        .trim()
        .to_owned();
    let text = root.read(hosts).map_err(|error| in_file(hosts, &error))?;
    let text = text.and_then(|text| String::from_utf8(text).ok());
    let mut files = "/etc/hostname".to_owned();
    if let Some(text) = text.and_then(|text| hostname::in_hosts(&text, &old, name)) {
        root.rewrite(hosts, text.as_bytes())
            .map_err(|error| in_file(hosts, &error))?;
        files += " and /etc/hosts";
    }
    log.done("hostname", &format!("the host is called {name} in {files}"));
    Ok(())
}
