//! A golden disk, its owner's keys and its image, in a directory that goes when the test ends.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::canary::Canary;
use crate::command::{run, system, tool};
use crate::disk::{Disk, Recipe};
use crate::image::Keys;
use crate::{ranges, scratch};

/// What a test begins with.
#[derive(Debug)]
pub struct Scene {
    /// The golden disk. It is shared by tests: nobody writes to it.
    pub disk: Disk,
    /// The owner's keys.
    pub keys: Keys,
    /// Its image, encrypted and signed.
    pub image: PathBuf,
    directory: TempDir,
}

impl Scene {
    /// Makes keys, and an image of the disk of this recipe.
    ///
    /// # Errors
    /// What one of the tools says.
    pub fn new(recipe: &Recipe) -> Result<Self> {
        Self::of(recipe.cached()?)
    }

    /// Makes keys, and an image of a disk.
    ///
    /// # Errors
    /// What one of the tools says.
    pub fn of(disk: Disk) -> Result<Self> {
        let directory = scratch::directory()?;
        let keys = Keys::make(directory.path())?;
        let image = directory.path().join("golden.frz");
        keys.zip(&disk.path, &image)?;
        Ok(Self {
            disk,
            keys,
            image,
            directory,
        })
    }

    /// A path in the directory of this test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file as large as the golden disk, full of the dirt of another owner.
    ///
    /// # Errors
    /// What the system says.
    pub fn used_disk(&self, name: &str) -> Result<PathBuf> {
        self.used_disk_of(name, self.disk.bytes)
    }

    /// As [`Scene::used_disk`], of this many bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn used_disk_of(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.path(name);
        last_owner().fill(&File::create(&path)?, 0..bytes)?;
        Ok(path)
    }

    /// `imageunzip` of the image onto `target`.
    ///
    /// # Errors
    /// If it was not built.
    pub fn imageunzip(&self, target: &Path) -> Result<Command> {
        let mut command = self.keys.imageunzip()?;
        command.arg(&self.image).arg(target);
        Ok(command)
    }

    /// `frisbeed` serving `image` with JSON events.
    ///
    /// # Errors
    /// If it was not built.
    pub fn server(
        &self,
        image: &Path,
        group: impl Display,
        interface: &str,
        rate: &str,
    ) -> Result<Command> {
        let mut command = tool("frisbeed")?;
        command.args([
            "--json",
            "--group",
            &group.to_string(),
            "--interface",
            interface,
            "--rate",
            rate,
        ]);
        command.arg(image);
        Ok(command)
    }

    /// `frisbee-client` writing to `target`, with JSON events. It gives up when nothing comes for long.
    ///
    /// # Errors
    /// If it was not built.
    pub fn client(&self, target: &Path, group: impl Display, interface: &str) -> Result<Command> {
        let mut command = self.keys.client()?;
        command.args([
            "--json",
            "--timeout",
            "60",
            "--group",
            &group.to_string(),
            "--interface",
            interface,
        ]);
        command.arg(target);
        Ok(command)
    }

    /// Checks that a target has all data of the golden disk, a sound filesystem, and the same files.
    ///
    /// # Errors
    /// What is wrong.
    pub fn installed_on(&self, target: &Path) -> Result<()> {
        self.same_data(target)?;
        self.disk.ext.on(target).holds(&self.disk.content)
    }

    /// Checks that an installation that failed has left a used disk as it was or without anything to boot, and has
    /// written to it nothing but zeros, the golden disk's data, and at the beginning a note of what has happened.
    ///
    /// # Errors
    /// What is wrong.
    pub fn spoiled_safely(&self, target: &Path) -> Result<()> {
        let (golden, found) = (fs::read(&self.disk.path)?, fs::read(target)?);
        let dirt = last_owner().dirt(512);
        ensure!(golden.len() == found.len(), "the size has changed");
        let note = b"frisbee: this disk is incomplete: the installation of image ";
        for (number, (golden, found)) in golden.chunks(512).zip(found.chunks(512)).enumerate() {
            let is_note = number == 0 && found.starts_with(note) && found.ends_with(&[0; 256]);
            let is_zero = found.iter().all(|&byte| byte == 0);
            let expected = found == golden || found == dirt || is_zero || is_note;
            ensure!(
                expected,
                "sector {number} of {} holds something else",
                target.display()
            );
        }
        nothing_to_boot(target)
    }

    /// Checks that a target has all data of the golden disk, byte by byte.
    ///
    /// # Errors
    /// Where it differs.
    pub fn same_data(&self, target: &Path) -> Result<()> {
        ranges::same(&self.disk.path, target, &self.disk.allocated()?)
            .context("after the installation")
    }
}

/// The dirt on disks that were in use before.
pub fn last_owner() -> Canary {
    Canary::new("the last owner")
}

/// Checks that neither a partition table nor a filesystem is found on a disk.
///
/// # Errors
/// What is found.
pub fn nothing_to_boot(disk: &Path) -> Result<()> {
    let mut blkid = system("blkid")?;
    blkid.arg("--probe").arg(disk);
    let outcome = run(blkid)?;
    // blkid(8): 2 if nothing was found.
    ensure!(
        outcome.code() == Some(2),
        "something is found on {}: {outcome}",
        disk.display()
    );
    Ok(())
}
