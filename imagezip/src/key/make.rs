//! Making signing keys.

use std::path::Path;

use chunkfmt::SigningKey;
use frisbee_cli::{Exit, Failure, keys, say};
use getrandom::SysRng;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use zeroize::Zeroizing;

/// Makes a key pair: the private key in `file`, the public one beside it; RSA with this many bits, or else Ed25519.
pub(super) fn signing_key(file: &Path, rsa_bits: Option<usize>) -> Result<(), Failure> {
    let public = file.with_extension("pub");
    if public == file {
        let message = format!(
            "{}: ends in .pub, as the public key will: name the secret one otherwise",
            file.display()
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let key = match rsa_bits {
        Some(bits) => SigningKey::from_pem(&rsa_key(bits)?)?,
        None => SigningKey::generate()?,
    };
    // The public key first: it costs nothing if the private one then cannot be written.
    keys::write_new(&public, &key.verifying_key().to_pem()?, 0o644)?;
    if let Err(failure) = keys::write_new(file, &key.to_pem()?, 0o600) {
        let _ = std::fs::remove_file(&public);
        return Err(failure);
    }
    say(&format!(
        "{}: signing key (secret), id {}",
        file.display(),
        key.verifying_key().id()
    ));
    say(&format!(
        "{}: public key, for imageunzip --trust and frisbee-client --trust",
        public.display()
    ));
    Ok(())
}

/// A new RSA key with the exponent 65537, as PKCS#8 PEM.
fn rsa_key(bits: usize) -> Result<Zeroizing<String>, Failure> {
    let internal = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Internal, format!("making an RSA key: {error}"))
    };
    rsa::PrivateKey::new(&mut SysRng, bits)
        .map_err(|error| internal(&error))?
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| internal(&error))
}
