//! Keys and images, made by the tools under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::command::{Outcome, run, tool};

/// An owner's keys and a content key, in files.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Secret key of the owner.
    pub owner: PathBuf,
    /// Public key of the owner.
    pub public: PathBuf,
    /// Content key.
    pub content: PathBuf,
}

impl Keys {
    /// Makes new keys with `imagekey` in an existing directory.
    ///
    /// # Errors
    /// What `imagekey` says.
    pub fn make(directory: &Path) -> Result<Self> {
        let keys = Self {
            owner: directory.join("owner.key"),
            public: directory.join("owner.pub"),
            content: directory.join("content.key"),
        };
        let mut sign = tool("imagekey")?;
        sign.arg("sign").arg(&keys.owner);
        run(sign)?.success()?;
        let mut content = tool("imagekey")?;
        content.arg("content").arg(&keys.content);
        run(content)?.success()?;
        Ok(keys)
    }

    /// `imagezip`, signing and encrypting. Source and image are still to be named.
    ///
    /// # Errors
    /// If it was not built.
    pub fn imagezip(&self) -> Result<Command> {
        let mut command = tool("imagezip")?;
        command
            .arg("--sign")
            .arg(&self.owner)
            .arg("--key")
            .arg(&self.content);
        Ok(command)
    }

    /// `imageunzip` that trusts the owner and has the content key. Image and target are still to be named.
    ///
    /// # Errors
    /// If it was not built.
    pub fn imageunzip(&self) -> Result<Command> {
        self.receiver("imageunzip")
    }

    /// As [`Keys::imageunzip`], for `frisbee-client`.
    ///
    /// # Errors
    /// If it was not built.
    pub fn client(&self) -> Result<Command> {
        self.receiver("frisbee-client")
    }

    fn receiver(&self, name: &str) -> Result<Command> {
        let mut command = tool(name)?;
        command
            .arg("--trust")
            .arg(&self.public)
            .arg("--key")
            .arg(&self.content)
            .arg("--yes");
        Ok(command)
    }

    /// Images a disk, encrypted and signed.
    ///
    /// # Errors
    /// What `imagezip` says.
    pub fn zip(&self, disk: &Path, image: &Path) -> Result<Outcome> {
        let mut command = self.imagezip()?;
        command.arg(disk).arg(image);
        run(command)?.success()
    }

    /// Installs an image.
    ///
    /// # Errors
    /// What `imageunzip` says.
    pub fn unzip(&self, image: &Path, target: &Path) -> Result<Outcome> {
        let mut command = self.imageunzip()?;
        command.arg(image).arg(target);
        run(command)?.success()
    }
}
