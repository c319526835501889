//! The order in which filesystems are changed: identities, sizes, files, hooks.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::thread;

use diskmap::edit::{Edited, Place, identify};
use frisbee_cli::{Failure, Interrupt};

use super::filesystem::Kind;
use super::mount::{Mount, isolate};
use super::root::Root;
use super::volume::{Device, Disk, Volume};
use super::{AfterArgs, Installed, Log, failed, grow, hooks, identity, table};

/// Where distributions put the root in a Btrfs.
const SUBVOLUMES: [Option<&str>; 4] = [None, Some("@"), Some("root"), Some("@rootfs")];

/// What is to be done, and where.
pub(super) struct Steps<'a> {
    pub(super) args: &'a AfterArgs,
    pub(super) installed: &'a Installed<'a>,
    pub(super) table: &'a Edited,
    pub(super) log: &'a Log<'a>,
    pub(super) interrupt: &'a Interrupt,
}

/// A root filesystem that was found.
struct Found<'a> {
    volume: Volume<'a>,
    kind: Kind,
    subvolume: Option<&'static str>,
}

impl Steps<'_> {
    /// Does everything, in a thread whose mounts nobody else sees.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let all = || {
            isolate()?;
            self.run_isolated()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("after".into())
                .spawn_scoped(scope, all)
                .map_err(failed)?;
            thread.join().map_err(|_| failed("a thread panicked"))?
        })
    }

    fn check(&self) -> Result<(), Failure> {
        self.interrupt.check("not everything was done")
    }

    fn run_isolated(&self) -> Result<(), Failure> {
        let target = self.installed.target;
        let opened = File::options().read(true).write(true).open(target);
        let opened = opened.and_then(|mut file| {
            let bytes = file.seek(SeekFrom::End(0))?;
            Ok(Disk { file, bytes })
        });
        let disk = opened.map_err(|error| failed(format!("it cannot be opened again: {error}")))?;
        if self.args.new_guids {
            self.renew(&disk)?;
        }
        if let Some((number, before)) = self.table.grown {
            self.grow(&disk, number, before)?;
        }
        if self.args.needs_root_filesystem() {
            self.change_root(&self.find_root(&disk)?)?;
        } else if self.args.new_guids {
            match self.find_root(&disk) {
                Ok(found) => self.change_root(&found)?,
                Err(failure) => {
                    let text =
                        format!("machine-id and ssh host keys were not looked for: {failure}");
                    self.log.warning("new-guids", &text);
                }
            }
        }
        disk.file
            .sync_all()
            .map_err(|error| failed(format!("flushing: {error}")))
    }

    fn volumes(&self) -> impl Iterator<Item = Volume<'_>> {
        self.table.partitions.iter().map(|place| self.volume(place))
    }

    fn volume<'a>(&'a self, place: &'a Place) -> Volume<'a> {
        Volume {
            target: self.installed.target,
            place,
            sector_size: self.installed.sector_size,
        }
    }

    /// What is in a volume.
    fn kind(&self, volume: &Volume<'_>, disk: &Disk) -> Result<Option<Kind>, Failure> {
        let found = identify(disk, volume.offset(), volume.bytes());
        Ok(found.map_err(failed)?.and_then(Kind::of))
    }

    /// Gives filesystems new UUIDs, and follows them in files.
    fn renew(&self, disk: &Disk) -> Result<(), Failure> {
        let mut ids = self.table.ids.clone();
        for volume in self.volumes() {
            self.check()?;
            if let Some(kind) = self.kind(&volume, disk)? {
                ids.extend(identity::renew(&volume, kind, disk, self.log)?);
                if kind == Kind::Ntfs && !self.table.ids.is_empty() {
                    let text = "Windows finds its disk by identifiers that are new now, and may need a repair of its boot data (bcdboot)";
                    self.log.warning("new-guids", text);
                }
            }
        }
        for volume in self.volumes() {
            self.check()?;
            let Some(kind) = self.kind(&volume, disk)? else {
                continue;
            };
            if kind.mount().is_none() {
                continue;
            }
            let place = volume.name();
            let subvolumes = match kind {
                Kind::Btrfs => &SUBVOLUMES[..],
                _ => &SUBVOLUMES[..1],
            };
            let device = volume.attach()?;
            for (index, subvolume) in subvolumes.iter().enumerate() {
                let mount = match Mount::writable(&device, kind, *subvolume) {
                    Ok(mount) => mount,
                    Err(_) if index > 0 => continue,
                    Err(failure) => {
                        let text = format!(
                            "files on {place} that name old identifiers were not looked for: {failure}"
                        );
                        self.log.warning("new-guids", &text);
                        continue;
                    }
                };
                let root = Root::new(mount.path()).map_err(failed)?;
                identity::rename_in_files(&root, &place, &ids, self.log)?;
                drop(root);
                mount.close()?;
            }
            device.close()?;
        }
        Ok(())
    }

    fn grow(&self, disk: &Disk, number: u32, before: u64) -> Result<(), Failure> {
        self.check()?;
        let Some(volume) = self.volumes().find(|volume| volume.place.number == number) else {
            return Ok(());
        };
        let size = self.installed.sector_size;
        if number > 0 {
            let text = format!(
                "{} has grown from {} to {}",
                volume.name(),
                table::size(before, size),
                table::size(volume.place.extent.count, size)
            );
            self.log.done("grow", &text);
        }
        let kind = self.kind(&volume, disk)?;
        grow::grow(&volume, kind, self.log)
    }

    /// Changes files of the root filesystem, and runs hooks.
    fn change_root(&self, found: &Found<'_>) -> Result<(), Failure> {
        self.check()?;
        let device = found.volume.attach()?;
        let mount = Mount::writable(&device, found.kind, found.subvolume)
            .map_err(|failure| failure.context(found.volume.name()))?;
        let root = Root::new(mount.path()).map_err(failed)?;
        if self.args.clear_machine_id || self.args.new_guids {
            identity::clear_machine_id(&root, self.log)?;
        }
        if self.args.remove_host_keys || self.args.new_guids {
            identity::remove_host_keys(&root, self.log)?;
        }
        if let Some(name) = &self.args.hostname {
            identity::set_hostname(&root, name, self.log)?;
        }
        drop(root);
        if let Some(directory) = &self.args.hooks {
            for hook in hooks::list(directory)? {
                self.check()?;
                hooks::run(&hook, mount.path(), self.installed)?;
                let text = format!("the hook {} is done", hook.display());
                self.log.done("hooks", &text);
            }
        }
        mount.close()?;
        device.close()
    }

    /// The partition that has the root filesystem: with an os-release, or at least /etc and /usr.
    fn find_root(&self, disk: &Disk) -> Result<Found<'_>, Failure> {
        let mut reasons = Vec::new();
        for volume in self.volumes() {
            let number = volume.place.number;
            if self
                .args
                .root_partition
                .is_some_and(|wanted| wanted != number)
            {
                continue;
            }
            let Some(kind) = self.kind(&volume, disk)?.filter(|kind| kind.can_be_root()) else {
                reasons.push(format!("{} has none", volume.name()));
                continue;
            };
            let device = volume.attach()?;
            match subvolume(&device, kind) {
                Ok(Some(subvolume)) => {
                    return Ok(Found {
                        volume,
                        kind,
                        subvolume,
                    });
                }
                Ok(None) => reasons.push(format!("{} has no /etc", volume.name())),
                Err(failure) => reasons.push(format!("{}: {failure}", volume.name())),
            }
        }
        let reasons = match reasons.is_empty() {
            true => "there is no such partition".into(),
            false => reasons.join(", "),
        };
        Err(failed(format!("no root filesystem was found: {reasons}")))
    }
}

/// The subvolume that has the root of a system; `Some(None)` for the default one.
fn subvolume(device: &Device, kind: Kind) -> Result<Option<Option<&'static str>>, Failure> {
    let subvolumes = match kind {
        Kind::Btrfs => &SUBVOLUMES[..],
        _ => &SUBVOLUMES[..1],
    };
    for (index, &subvolume) in subvolumes.iter().enumerate() {
        let mount = match Mount::read_only(device, kind, subvolume) {
            Ok(mount) => mount,
            Err(_) if index > 0 => continue,
            Err(failure) => return Err(failure),
        };
        let root = Root::new(mount.path()).map_err(failed)?;
        let is_root = root.has("etc/os-release") || (root.has("etc") && root.has("usr"));
        drop(root);
        mount.close()?;
        if is_root {
            return Ok(Some(subvolume));
        }
    }
    Ok(None)
}
