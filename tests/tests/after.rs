//! What is done with a disk when the image is on it: judged by sgdisk, sfdisk, the kernel, and the filesystems' own
//! programs.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::background::Background;
use e2e::class::{Class, GROUP};
use e2e::command::{LIMIT, Outcome, must, run, system, tool};
use e2e::disk::{Recipe, Table};
use e2e::events;
use e2e::ext::Mount;
use e2e::image::Keys;
use e2e::loop_device::LoopDevice;
use e2e::need::{self, Need};
use e2e::room::INTERFACE;
use e2e::scene::Scene;
use e2e::scratch;
use nix::mount::MsFlags;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Checks that nobody has anything to say against the GPT of a disk.
fn is_sound(disk: &Path) -> Result<()> {
    let text = must("sgdisk", [Path::new("-v"), disk])?;
    ensure!(text.contains("No problems found"), "{text}");
    for arguments in ["--verify", "--list"] {
        let mut sfdisk = system("sfdisk")?;
        sfdisk.arg(arguments).arg(disk).env("LC_ALL", "C");
        let outcome = run(sfdisk)?.success()?;
        ensure!(outcome.stderr.is_empty(), "{outcome}");
        let text = outcome.stdout_text();
        ensure!(
            !text.contains("mismatch") && !text.contains("not on the end"),
            "{text}"
        );
    }
    let mut parted = system("parted")?;
    parted
        .arg("--script")
        .arg(disk)
        .args(["unit", "s", "print"]);
    let outcome = run(parted)?.success()?;
    ensure!(outcome.stderr.is_empty(), "{outcome}");
    let mut fdisk = system("fdisk")?;
    fdisk.arg("--list").arg(disk).env("LC_ALL", "C");
    let outcome = run(fdisk)?.success()?;
    ensure!(outcome.stderr.is_empty(), "{outcome}");
    Ok(())
}

/// Number, start and size of each partition by sfdisk, in sectors, with types and names.
fn partitions(disk: &Path) -> Result<Vec<String>> {
    let text = must("sfdisk", [Path::new("--dump"), disk])?;
    let lines = text.lines().filter(|line| line.contains("start="));
    let of_disk = |line: &str| line.split_once(" : ").map(|(_, rest)| rest.to_owned());
    Ok(lines.filter_map(of_disk).collect())
}

/// Installs with options.
fn unzip(scene: &Scene, target: &Path, options: &[&str]) -> Result<Outcome> {
    let mut command = scene.imageunzip(target)?;
    command.args(options);
    run(command)
}

#[test]
fn the_backup_gpt_is_at_the_end_of_a_larger_file() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    // One sector, less than a table, and more.
    for more in [512, 20 * 512, 5 * MIB, 300 * MIB] {
        let target = scene.path("used");
        File::create(&target)?.set_len(scene.disk.bytes + more)?;
        unzip(&scene, &target, &[])?.success()?;
        is_sound(&target)?;
        ensure!(partitions(&target)? == partitions(&scene.disk.path)?);
        scene.disk.ext.on(&target).holds(&scene.disk.content)?;
    }
    Ok(())
}

#[test]
fn on_a_larger_device_with_sectors_of_4096_bytes() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let recipe = Recipe {
        sector_size: 4096,
        ..Recipe::SMALL
    };
    let golden = recipe.cached()?;
    let directory = scratch::directory()?;
    let keys = Keys::make(directory.path())?;
    let image = directory.path().join("device.frz");
    let source = LoopDevice::attach(&golden.path, 4096)?;
    keys.zip(source.path(), &image)?;
    let before = partitions(source.path())?;
    drop(source);
    for (more, grow) in [(4096, false), (40 * MIB, false), (40 * MIB, true)] {
        let file = directory.path().join("used");
        File::create(&file)?.set_len(golden.bytes + more)?;
        let target = LoopDevice::attach(&file, 4096)?;
        let mut command = keys.imageunzip()?;
        command.arg(&image).arg(target.path());
        if grow {
            command.arg("--grow");
        }
        run(command)?.success()?;
        is_sound(target.path())?;
        if !grow {
            ensure!(partitions(target.path())? == before);
        }
        drop(target);
        golden.ext.on(&file).holds(&golden.content)?;
    }
    Ok(())
}

#[test]
fn other_disks_do_not_change_with_the_size() -> Result<()> {
    for table in [Table::Mbr, Table::None] {
        let scene = Scene::new(&Recipe {
            table,
            ..Recipe::SMALL
        })?;
        let target = scene.used_disk_of("used", scene.disk.bytes + 5 * MIB)?;
        let outcome = unzip(&scene, &target, &[])?.success()?;
        ensure!(!outcome.stderr.contains("warning"), "{outcome}");
        scene.installed_on(&target)?;
    }
    Ok(())
}

#[test]
fn a_damaged_table_is_left_alone_with_a_warning() -> Result<()> {
    let golden = Recipe::SMALL.cached()?;
    let directory = scratch::directory()?;
    let path = directory.path().join("disk");
    fs::copy(&golden.path, &path)?;
    // The backup's header.
    let file = File::options().write(true).open(&path)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", golden.bytes - 500)?;
    let scene = Scene::of(golden.at(path))?;
    let target = scene.used_disk_of("used", scene.disk.bytes + 5 * MIB)?;
    let outcome = unzip(&scene, &target, &[])?.success()?;
    ensure!(
        outcome
            .stderr
            .contains("warning: the partition table was left as it is"),
        "{outcome}"
    );
    scene.same_data(&target)
}

/// Sizes of the filesystem's blocks, in bytes.
fn ext_bytes(volume: &str) -> Result<u64> {
    let text = must("dumpe2fs", ["-h", volume])?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok::<u64, anyhow::Error>(line.context("no such field")?.trim().parse()?)
    };
    Ok(field("Block count:")? * field("Block size:")?)
}

#[test]
fn ext_grows_with_the_last_partition_of_every_table() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    for table in [Table::Gpt, Table::Mbr, Table::None] {
        let scene = Scene::new(&Recipe {
            table,
            ..Recipe::SMALL
        })?;
        let target = scene.used_disk_of("used", scene.disk.bytes + 100 * MIB)?;
        let outcome = unzip(&scene, &target, &["--grow"])?.success()?;
        match table {
            Table::Gpt => is_sound(&target)?,
            Table::Mbr => drop(must("sfdisk", [Path::new("--verify"), &target])?),
            Table::None => {}
        }
        let bytes = ext_bytes(&scene.disk.ext.on(&target).name())?;
        let expected = scene.disk.bytes + 100 * MIB - scene.disk.ext.offset;
        ensure!(
            bytes <= expected && bytes + 2 * MIB >= expected,
            "{table:?}: {bytes} of {expected}: {outcome}"
        );
        scene.disk.ext.on(&target).holds(&scene.disk.content)?;
    }
    Ok(())
}

/// The moved GPT is no difference: neither to a comparison, nor to a delta that is installed on the disk alone.
#[test]
fn a_larger_disk_still_holds_its_image() -> Result<()> {
    let scene = Scene::new(&Recipe::SMALL)?;
    let keys = &scene.keys;
    let target = scene.used_disk_of("target", scene.disk.bytes + 5 * MIB)?;
    unzip(&scene, &target, &[])?.success()?;
    let same = |image: &Path| {
        let mut dump = tool("imagedump")?;
        dump.arg("--against").arg(&target).arg("--trust");
        dump.arg(&keys.public).arg("--key").arg(&keys.content);
        dump.arg(image);
        run(dump)
    };
    same(&scene.image)?.success()?;

    let (newer, delta) = (scene.path("newer"), scene.path("delta.frz"));
    fs::copy(&scene.disk.path, &newer)?;
    let ext = scene.disk.ext.on(&newer);
    let file = scene.path("file");
    fs::write(&file, vec![7; 100_000])?;
    let line = format!("write {} /new-file", file.display());
    must("debugfs", ["-w", "-R", &line, &ext.name()])?;
    let mut zip = keys.imagezip()?;
    zip.arg("--base").arg(&scene.image).arg(&newer).arg(&delta);
    run(zip)?.success()?;
    ensure!(same(&delta)?.code() == Some(4));
    keys.unzip(&delta, &target)?;
    same(&delta)?.success()?;
    is_sound(&target)?;
    scene.disk.ext.on(&target).check()?;
    let list = must(
        "debugfs",
        ["-R", "ls -p /", &scene.disk.ext.on(&target).name()],
    )?;
    ensure!(list.contains("/new-file/"), "{list}");
    Ok(())
}

#[test]
fn a_node_on_the_network_does_the_same() -> Result<()> {
    if !need::met(&[Need::Loop, Need::Netns]) {
        return Ok(());
    }
    let scene = Scene::new(&Recipe::SMALL)?;
    let class = Class::new(1)?;
    let _server = class.serve(&scene, "200M")?;
    let target = scene.used_disk_of("target", scene.disk.bytes + 50 * MIB)?;
    let mut command = scene.client(&target, GROUP, INTERFACE)?;
    command.args(["--grow", "--new-guids"]);
    let client = Background::start(class.clients[0].netns.command(&command)?)?;
    let outcome = client.wait(LIMIT)?.success()?;
    let finish = events::last(&outcome, "finish")?;
    ensure!(finish["grown_partition"] == 2, "{outcome}");
    let grown = "\"done\":true,\"event\":\"after\"";
    let is_grown = |line: &str| line.contains(grown) && line.contains("\"step\":\"grow\"");
    ensure!(outcome.stdout_text().lines().any(is_grown), "{outcome}");
    is_sound(&target)?;
    ensure!(ext_bytes(&scene.disk.ext.on(&target).name())? > scene.disk.bytes + 30 * MIB);
    scene.disk.ext.on(&target).holds(&scene.disk.content)
}

/// A disk with one partition, or several, made by programs.
struct Made {
    directory: TempDir,
    keys: Keys,
    disk: PathBuf,
    image: PathBuf,
}

impl Made {
    /// A GPT with partitions of these sizes in MiB, one behind the other from 1 MiB on; `fill` makes the filesystem of
    /// one that is a device now.
    fn new(sizes: &[u64], fill: impl Fn(usize, &Path) -> Result<()>) -> Result<Self> {
        let directory = scratch::directory()?;
        let disk = directory.path().join("golden");
        let total = sizes.iter().sum::<u64>() + 2;
        File::create(&disk)?.set_len(total * MIB)?;
        let mut sgdisk = system("sgdisk")?;
        for (number, size) in (1..).zip(sizes) {
            sgdisk.arg(format!("--new={number}:0:+{size}M"));
        }
        run({
            sgdisk.arg(&disk);
            sgdisk
        })?
        .success()?;
        let mut offset = MIB;
        for (index, size) in sizes.iter().enumerate() {
            let device = LoopDevice::part(&disk, (offset, size * MIB), 512, false)?;
            fill(index, device.path())?;
            drop(device);
            offset += size * MIB;
        }
        let keys = Keys::make(directory.path())?;
        let image = directory.path().join("golden.frz");
        keys.zip(&disk, &image)?;
        Ok(Self {
            directory,
            keys,
            disk,
            image,
        })
    }

    fn target(&self, more: u64) -> Result<PathBuf> {
        let path = self.directory.path().join("target");
        File::create(&path)?.set_len(fs::metadata(&self.disk)?.len() + more)?;
        Ok(path)
    }

    fn command(&self, target: &Path, options: &[&str]) -> Result<Command> {
        let mut command = self.keys.imageunzip()?;
        command.args(options).arg(&self.image).arg(target);
        Ok(command)
    }

    fn unzip(&self, target: &Path, options: &[&str]) -> Result<Outcome> {
        run(self.command(target, options)?)
    }
}

/// A device for a partition of a disk that was installed.
fn partition(disk: &Path, number: usize) -> Result<LoopDevice> {
    let text = must("sfdisk", [Path::new("--dump"), disk])?;
    let line = text.lines().filter(|line| line.contains("start="));
    let line = line.clone().nth(number - 1).context("no such partition")?;
    let number = |name: &str| -> Result<u64> {
        let rest = line.split(name).nth(1).context("no such field")?;
        Ok(rest.split(',').next().unwrap_or_default().trim().parse()?)
    };
    let (start, size) = (number("start=")?, number("size=")?);
    LoopDevice::part(disk, (start * 512, size * 512), 512, false)
}

/// Makes a filesystem by the line of its program, and puts a file in it if the kernel can mount it as `kind`.
fn make(line: &str, kind: Option<&str>, device: &Path) -> Result<()> {
    let mut words = line.split_whitespace();
    let mut command = system(words.next().unwrap_or_default())?;
    command.args(words).arg(device);
    run(command)?.success()?;
    if let Some(kind) = kind {
        let mount = Mount::of(kind, device, MsFlags::empty(), "")?;
        fs::write(mount.path().join("file"), vec![7; 1 << 20])?;
    }
    Ok(())
}

/// Bytes of a mounted filesystem.
fn mounted_bytes(device: &Path, kind: &str) -> Result<u64> {
    let options = if kind == "xfs" { "nouuid" } else { "" };
    let mount = Mount::of(kind, device, MsFlags::empty(), options)?;
    ensure!(fs::read(mount.path().join("file"))? == vec![7; 1 << 20]);
    let statistics = nix::sys::statvfs::statvfs(mount.path())?;
    Ok(statistics.blocks() * statistics.fragment_size())
}

#[test]
fn xfs_and_btrfs_grow() -> Result<()> {
    if !need::met(&[Need::Loop, Need::Tool("mkfs.xfs"), Need::Tool("mkfs.btrfs")]) {
        return Ok(());
    }
    for (line, kind) in [("mkfs.xfs -q", "xfs"), ("mkfs.btrfs -q", "btrfs")] {
        let made = Made::new(&[320], |_, device| make(line, Some(kind), device))?;
        let target = made.target(200 * MIB)?;
        made.unzip(&target, &["--grow"])?.success()?;
        is_sound(&target)?;
        let device = partition(&target, 1)?;
        let bytes = mounted_bytes(device.path(), kind)?;
        ensure!(bytes > 420 * MIB, "{kind}: {bytes}");
    }
    Ok(())
}

#[test]
fn ntfs_and_f2fs_grow() -> Result<()> {
    let tools = [
        "mkntfs",
        "ntfsresize",
        "mkfs.f2fs",
        "resize.f2fs",
        "fsck.f2fs",
    ];
    if !need::met(&[Need::Loop]) || !need::met(&tools.map(Need::Tool)) {
        return Ok(());
    }
    let made = Made::new(&[64], |_, device| make("mkntfs -Q -q -F", None, device))?;
    let target = made.target(64 * MIB)?;
    made.unzip(&target, &["--grow"])?.success()?;
    let device = partition(&target, 1)?;
    let text = must(
        "ntfsresize",
        ["--info", "--force", &device.path().to_string_lossy()],
    )?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Current volume size"));
    let bytes: u64 = line
        .and_then(|line| line.split_whitespace().nth(3))
        .context("no size")?
        .parse()?;
    ensure!(bytes > 126 * MIB, "{text}");
    drop(device);

    let made = Made::new(&[128], |_, device| make("mkfs.f2fs -q -f", None, device))?;
    let target = made.target(128 * MIB)?;
    made.unzip(&target, &["--grow"])?.success()?;
    let device = partition(&target, 1)?;
    let text = must("fsck.f2fs", [device.path()])?;
    let line = text.lines().find(|line| line.contains("total FS sectors"));
    let text = line.context("no size")?;
    let sectors = text
        .split('=')
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    ensure!(
        sectors.context("no size")?.parse::<u64>()? * 512 > 250 * MIB,
        "{text}"
    );
    Ok(())
}

#[test]
fn what_cannot_grow_is_said() -> Result<()> {
    if !need::met(&[Need::Loop]) {
        return Ok(());
    }
    let made = Made::new(&[20], |_, device| make("mkswap -q", None, device))?;
    let target = made.target(20 * MIB)?;
    let outcome = made.unzip(&target, &["--grow"])?.success()?;
    ensure!(
        outcome
            .stderr
            .contains("warning: the swap in partition 1 was not grown"),
        "{outcome}"
    );
    is_sound(&target)?;
    // On a disk that is no larger there is nothing to do.
    let target = made.target(0)?;
    let outcome = made.unzip(&target, &["--grow"])?.success()?;
    ensure!(outcome.stderr.contains("nothing to grow"), "{outcome}");
    ensure!(fs::read(&target)? == fs::read(&made.disk)?);
    let made = Made::new(&[20], |_, device| {
        make("mke2fs -q -t ext4", Some("ext4"), device)
    })?;
    let target = made.target(20 * MIB)?;
    // A filesystem that its program refuses: the disk is complete all the same.
    let tools = made.directory.path().join("tools");
    fs::create_dir(&tools)?;
    script(
        &tools.join("resize2fs"),
        "echo one >&2; echo no room for more >&2; exit 3",
    )?;
    let mut command = made.command(&target, &["--grow"])?;
    command.env("PATH", &tools);
    let outcome = run(command)?;
    ensure!(outcome.code() == Some(8), "{outcome}");
    let line = outcome.stderr.lines().last().unwrap_or_default();
    for part in ["installed and verified, but", "resize2fs: no room for more"] {
        ensure!(line.contains(part), "{line}");
    }
    is_sound(&target)?;
    let device = partition(&target, 1)?;
    mounted_bytes(device.path(), "ext4")?;
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What blkid says of a device.
fn uuid(device: &Path) -> Result<String> {
    let device = device.to_string_lossy();
    Ok(must("blkid", ["-p", "-o", "value", "-s", "UUID", &device])?
        .trim()
        .to_owned())
}

const FSTAB: &str = "UUID=OLD1 /boot/efi vfat\nUUID=OLD2 / ext4\nUUID=OLD3 none swap\n# OLD2x\n";

/// A disk with an EFI partition, a root filesystem with the usual files, and swap.
fn system_disk(etc: impl Fn(&Path) -> Result<()>) -> Result<Made> {
    let found: std::cell::RefCell<Vec<String>> = std::cell::RefCell::default();
    let fill = |index: usize, device: &Path| {
        let line = ["mkfs.fat", "mke2fs -q -t ext4", "mkswap -q"][index];
        make(line, None, device)?;
        found.borrow_mut().push(uuid(device)?);
        Ok(())
    };
    let mut made = Made::new(&[8, 40, 8], fill)?;
    let names = found.borrow();
    let device = LoopDevice::part(&made.disk, (9 * MIB, 40 * MIB), 512, false)?;
    let mount = Mount::of("ext4", device.path(), MsFlags::empty(), "")?;
    let root = mount.path();
    for directory in [
        "etc/ssh",
        "usr/lib",
        "boot/grub",
        "boot/loader/entries",
        "var/lib/dbus",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    let mut text = FSTAB.to_owned();
    for (number, name) in (1..).zip(names.iter()) {
        text = text.replace(&format!("OLD{number}"), name);
    }
    fs::write(root.join("etc/fstab"), &text)?;
    fs::write(
        root.join("boot/grub/grub.cfg"),
        format!("search --fs-uuid --set=root {}\n", names[1]),
    )?;
    fs::write(
        root.join("boot/loader/entries/a.conf"),
        format!("options root=UUID={}\n", names[1]),
    )?;
    fs::write(root.join("etc/os-release"), "ID=test\n")?;
    fs::write(
        root.join("etc/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )?;
    fs::write(
        root.join("var/lib/dbus/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )?;
    fs::write(root.join("etc/hostname"), "golden\n")?;
    fs::write(
        root.join("etc/hosts"),
        "127.0.0.1 localhost\n127.0.1.1 golden.example.org golden\n",
    )?;
    for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config"] {
        fs::write(root.join("etc/ssh").join(name), "x")?;
    }
    etc(root)?;
    drop(mount);
    drop(device);
    drop(names);
    made.image = made.directory.path().join("system.frz");
    made.keys.zip(&made.disk, &made.image)?;
    Ok(made)
}

const TOOLS: [&str; 4] = ["mkfs.fat", "fatlabel", "tune2fs", "swaplabel"];

#[test]
fn a_node_gets_an_identity_of_its_own() -> Result<()> {
    if !need::met(&[Need::Loop]) || !need::met(&TOOLS.map(Need::Tool)) {
        return Ok(());
    }
    let made = system_disk(|_| Ok(()))?;
    let target = made.target(10 * MIB)?;
    let hooks = made.directory.path().join("hooks");
    fs::create_dir(&hooks)?;
    script(
        &hooks.join("20-second"),
        "cat \"$FRISBEE_ROOT/first\" > \"$FRISBEE_ROOT/second\"",
    )?;
    script(
        &hooks.join("10-first"),
        "echo \"$FRISBEE_TARGET $FRISBEE_IMAGE ${#FRISBEE_UUID} ${FRISBEE_EPOCH:?}\" > \"$FRISBEE_ROOT/first\"; echo hello",
    )?;
    fs::write(hooks.join("README"), "not executable")?;
    let hooks = hooks.to_string_lossy();
    let options = [
        "--new-guids",
        "--hostname",
        "node7.example.net",
        "--hooks",
        &hooks,
    ];
    let outcome = made.unzip(&target, &options)?.success()?;
    ensure!(
        outcome.stderr.lines().any(|line| line == "hello"),
        "{outcome}"
    );
    is_sound(&target)?;
    let identifiers = |disk: &Path| -> Result<Vec<String>> {
        let text = must("sfdisk", [Path::new("--dump"), disk])?;
        let found = text
            .split("uuid=")
            .skip(1)
            .map(|rest| rest.chars().take(36).collect());
        let disk = text
            .lines()
            .find_map(|line| line.strip_prefix("label-id: ").map(Into::into));
        Ok(found.chain(disk).collect())
    };
    let (old, new) = (identifiers(&made.disk)?, identifiers(&target)?);
    ensure!(old.len() == 4 && new.len() == 4);
    ensure!(!new.iter().any(|id| old.contains(id)), "{old:?} {new:?}");

    let (mut old, mut new) = (Vec::new(), Vec::new());
    for number in 1..=3 {
        old.push(uuid(partition(&made.disk, number)?.path())?);
        new.push(uuid(partition(&target, number)?.path())?);
        ensure!(old.last() != new.last(), "{new:?}");
    }
    must(
        "fsck.fat",
        ["-n", &partition(&target, 1)?.path().to_string_lossy()],
    )?;
    let device = partition(&target, 2)?;
    must("e2fsck", ["-f", "-n", &device.path().to_string_lossy()])?;
    let mount = Mount::of("ext4", device.path(), MsFlags::empty(), "")?;
    let text = |name: &str| fs::read_to_string(mount.path().join(name));
    let mut fstab = FSTAB.replace("OLD2x", &format!("{}x", old[1]));
    for (number, name) in (1..).zip(&new) {
        fstab = fstab.replace(&format!("OLD{number}"), name);
    }
    ensure!(text("etc/fstab")? == fstab, "{}", text("etc/fstab")?);
    ensure!(text("boot/grub/grub.cfg")?.trim().ends_with(&new[1]));
    ensure!(
        text("boot/loader/entries/a.conf")?
            .trim()
            .ends_with(&new[1])
    );
    ensure!(text("etc/machine-id")?.is_empty());
    ensure!(!mount.path().join("var/lib/dbus/machine-id").exists());
    ensure!(text("etc/hostname")? == "node7.example.net\n");
    ensure!(
        text("etc/hosts")?
            == "127.0.0.1 localhost\n127.0.1.1 node7.example.org node7.example.net\n"
    );
    let mut keys = fs::read_dir(mount.path().join("etc/ssh"))?.flatten();
    ensure!(keys.next().context("nothing")?.file_name() == "sshd_config" && keys.next().is_none());
    let line = text("second")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(
        words[0] == fs::canonicalize(&target)?.to_string_lossy() && words[2] == "36",
        "{line}"
    );
    drop(mount);
    // Nothing stays behind.
    let loops = must(
        "losetup",
        ["--list", "--noheadings", "--output", "NAME,BACK-FILE"],
    )?;
    let mine = loops
        .lines()
        .filter(|line| line.contains(&*target.to_string_lossy()));
    ensure!(
        mine.clone()
            .all(|line| line.starts_with(&*device.path().to_string_lossy())),
        "{loops}"
    );
    ensure!(!fs::read_to_string("/proc/mounts")?.contains("frisbee-root-"));
    Ok(())
}

#[test]
fn a_hook_that_fails_is_named() -> Result<()> {
    if !need::met(&[Need::Loop]) || !need::met(&TOOLS.map(Need::Tool)) {
        return Ok(());
    }
    let made = system_disk(|_| Ok(()))?;
    let target = made.target(0)?;
    let hooks = made.directory.path().join("hooks");
    fs::create_dir(&hooks)?;
    let name = hooks.to_string_lossy();
    // An empty directory is told before the target is touched.
    let before = fs::read(&target)?;
    made.unzip(&target, &["--hooks", &name])?.failure(2)?;
    made.unzip(&target, &["--hooks", "/nonexistent"])?
        .failure(2)?;
    ensure!(fs::read(&target)? == before);
    script(&hooks.join("fails"), "exit 3")?;
    let outcome = made.unzip(&target, &["--hooks", &name])?;
    let line = outcome.failure(8)?;
    ensure!(
        line.contains("fails") && line.contains("exit status: 3"),
        "{line}"
    );
    ensure!(!fs::read_to_string("/proc/mounts")?.contains("frisbee-root-"));
    Ok(())
}

#[test]
fn an_image_cannot_lead_out_of_itself() -> Result<()> {
    if !need::met(&[Need::Loop]) || !need::met(&TOOLS.map(Need::Tool)) {
        return Ok(());
    }
    let host = scratch::directory()?;
    let victim = host.path().join("etc");
    fs::create_dir_all(victim.join("ssh"))?;
    for name in [
        "hostname",
        "machine-id",
        "fstab",
        "hosts",
        "ssh/ssh_host_rsa_key",
    ] {
        fs::write(victim.join(name), "host")?;
    }
    let all = [
        "--new-guids",
        "--clear-machine-id",
        "--remove-host-keys",
        "--hostname",
        "evil",
    ];
    let file_link = |root: &Path| {
        for name in ["hostname", "machine-id", "fstab"] {
            fs::remove_file(root.join("etc").join(name))?;
            symlink(victim.join(name), root.join("etc").join(name))?;
        }
        Ok(())
    };
    let directory_link = |root: &Path| {
        fs::remove_dir_all(root.join("etc"))?;
        symlink(&victim, root.join("etc"))?;
        Ok(())
    };
    for links in [&file_link as &dyn Fn(&Path) -> Result<()>, &directory_link] {
        let made = system_disk(links)?;
        let target = made.target(0)?;
        for option in all {
            let options = match option {
                "--hostname" => &["--hostname", "evil", "--root-partition", "2"][..],
                "evil" => continue,
                other => &[other][..],
            };
            let outcome = made.unzip(&target, options)?;
            ensure!(matches!(outcome.code(), Some(0 | 8)), "{outcome}");
            for name in [
                "hostname",
                "machine-id",
                "fstab",
                "hosts",
                "ssh/ssh_host_rsa_key",
            ] {
                ensure!(
                    fs::read(victim.join(name))? == b"host",
                    "{option} changed {name}"
                );
            }
        }
    }
    Ok(())
}
