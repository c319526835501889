//! Filesystems that take all of a partition that has grown.

use std::path::Path;

use frisbee_cli::Failure;

use super::Log;
use super::filesystem::Kind;
use super::mount::Mount;
use super::tool;
use super::volume::{Device, Volume};

/// The programs that grow a filesystem, and whether it has to be mounted for that.
fn tools(kind: Kind) -> Option<(&'static [&'static str], bool)> {
    match kind {
        Kind::Ext => Some((&["e2fsck", "resize2fs"], false)),
        Kind::Xfs => Some((&["xfs_growfs"], true)),
        Kind::Btrfs => Some((&["btrfs"], true)),
        Kind::Ntfs => Some((&["ntfsresize"], false)),
        Kind::F2fs => Some((&["resize.f2fs"], false)),
        Kind::Fat | Kind::ExFat | Kind::Swap => None,
    }
}

/// Grows what is in a volume. What nobody here can grow is a warning.
pub(super) fn grow(volume: &Volume<'_>, kind: Option<Kind>, log: &Log<'_>) -> Result<(), Failure> {
    let name = volume.name();
    let Some(kind) = kind else {
        let text = format!("what {name} holds was not grown: it is no filesystem that is known");
        log.warning("grow", &text);
        return Ok(());
    };
    let Some((programs, mounted)) = tools(kind) else {
        let text = format!(
            "the {} in {name} was not grown: there is no program for it",
            kind.name()
        );
        log.warning("grow", &text);
        return Ok(());
    };
    if let Some(missing) = programs.iter().find(|name| tool::find(name).is_none()) {
        let text = format!(
            "the {} filesystem in {name} was not grown: {missing} is not installed",
            kind.name()
        );
        log.warning("grow", &text);
        return Ok(());
    }
    let device = volume.attach()?;
    let grown = match mounted {
        true => grow_mounted(&device, kind),
        false => grow_unmounted(device.path(), kind),
    };
    grown.map_err(|failure| {
        failure.context(format_args!(
            "growing the {} filesystem in {name} failed",
            kind.name()
        ))
    })?;
    device.close()?;
    let checked = match kind {
        Kind::Ntfs => "; Windows will check it at its next start",
        _ => "",
    };
    let text = format!(
        "the {} filesystem in {name} has grown{checked}",
        kind.name()
    );
    log.done("grow", &text);
    Ok(())
}

fn grow_unmounted(device: &Path, kind: Kind) -> Result<(), Failure> {
    match kind {
        Kind::Ext => {
            check_ext(device)?;
            tool::run("resize2fs", [device], &[0])?;
        }
        Kind::Ntfs => {
            // Given once, it does not ask, but still refuses a filesystem that has to be checked.
            let options = [Path::new("--force"), Path::new("--no-progress-bar"), device];
            tool::run("ntfsresize", options, &[0])?;
        }
        _ => {
            tool::run("resize.f2fs", [device], &[0])?;
        }
    }
    Ok(())
}

fn grow_mounted(device: &Device, kind: Kind) -> Result<(), Failure> {
    let mount = Mount::writable(device, kind, None)?;
    let place = mount.path().to_string_lossy().into_owned();
    match kind {
        Kind::Xfs => tool::run("xfs_growfs", [&place], &[0])?,
        _ => tool::run("btrfs", ["filesystem", "resize", "max", &place], &[0])?,
    };
    mount.close()
}

/// Checks an ext filesystem, as its programs demand it before they change much. 1 means that something was mended.
pub(super) fn check_ext(device: &Path) -> Result<(), Failure> {
    tool::run(
        "e2fsck",
        [Path::new("-f"), Path::new("-p"), device],
        &[0, 1],
    )?;
    Ok(())
}
