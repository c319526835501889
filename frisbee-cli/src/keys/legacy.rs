//! The signature keys of Emulab images.

use std::path::Path;

use super::read_public;
use crate::Failure;

/// Reads the file of a key that an Emulab image is signed with (`.skey`), of which only the public half is taken.
///
/// # Errors
/// With the file's name, if it cannot be read or holds no key.
pub fn load_legacy_key(path: &Path) -> Result<ndz::PublicKey, Failure> {
    read_public(path, |text| ndz::PublicKey::parse(text.as_bytes()))
}
