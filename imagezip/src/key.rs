//! `imagekey`: makes the keys, and shows what they are.

use std::io::Write;
use std::path::{Path, PathBuf};

use chunkfmt::{ContentKey, SigningKey};
use clap::{Parser, Subcommand};
use frisbee_cli::{Exit, Failure, exit, keys, say};

const EXAMPLES: &str = "Examples:
  imagekey sign owner.key          makes owner.key (keep it offline) and owner.pub (give it to every node)
  imagekey content content.key     makes a content key (give it to the nodes that may read the image)
  imagekey show owner.pub          shows the key's id, as imagedump does for an image's signer

Signing keys are Ed25519 in PKCS#8 PEM, as 'openssl genpkey -algorithm ed25519' makes them.";

/// Make keys for images
#[derive(Debug, Parser)]
#[command(name = "imagekey", version, after_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an owner's signing key and its public key, FILE with the extension .pub
    Sign {
        /// The private key file to make
        file: PathBuf,
    },
    /// Make a content key
    Content {
        /// The key file to make
        file: PathBuf,
    },
    /// Print the public key of a private signing key
    Public {
        /// A private key file
        file: PathBuf,
    },
    /// Show the id of a signing key, private or public
    Show {
        /// A key file
        file: PathBuf,
    },
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Sign { file } => make_signing_key(file),
            Command::Content { file } => {
                let key = ContentKey::generate()?;
                let text = zeroize_line(&key);
                keys::write_new(file, &text, 0o600)?;
                say(&format!("{}: content key (secret)", file.display()));
                Ok(())
            }
            Command::Public { file } => {
                print(&keys::load_signing_key(file)?.verifying_key().to_pem()?)
            }
            Command::Show { file } => {
                let public = keys::load_verifying_key(file);
                let key = public
                    .or_else(|_| keys::load_signing_key(file).map(|key| key.verifying_key()))?;
                print(&format!("Ed25519 {}\n", key.id()))
            }
        }
    }
}

fn zeroize_line(key: &ContentKey) -> zeroize::Zeroizing<String> {
    let mut line = key.to_hex();
    line.push('\n');
    line
}

fn make_signing_key(file: &Path) -> Result<(), Failure> {
    let key = SigningKey::generate()?;
    let public = file.with_extension("pub");
    if public == file {
        let message = format!(
            "{}: ends in .pub, as the public key will: name the secret one otherwise",
            file.display()
        );
        return Err(Failure::new(Exit::Usage, message));
    }
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

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(Exit::Io, format!("standard output: {error}")))
}
