//! `imagekey`: makes the keys, and shows what they are.

mod make;
mod wrap;

use std::io::Write;
use std::path::{Path, PathBuf};

use chunkfmt::{ContentKey, SignatureAlgorithm};
use clap::{Parser, Subcommand};
use frisbee_cli::{Exit, Failure, exit, keys, say};

const EXAMPLES: &str = "Examples:
  imagekey sign owner.key             makes owner.key (keep it offline) and owner.pub (for every node)
  imagekey sign --rsa 4096 owner.key  the same with an RSA key
  imagekey content content.key        makes a content key (for the nodes that may read the image)
  imagekey show owner.pub             shows the key's id, as imagedump does for an image's signer
  imagekey wrap --key content.key --sign owner.key --recipient age1... golden.frz
  imagekey unwrap --identity id.txt golden.frz content.key

Signing keys are Ed25519, or RSA with 3072 or 4096 bits, in PEM as openssl makes them: PKCS#8 or
PKCS#1. They may be encrypted: openssl pkcs8 -topk8 -in owner.key -out locked.key

A public key file may restrict its owner by lines before the key: 'images: lab-' and, if there are
more, 'images: course-': then only images whose names begin so are accepted from this owner. To
trust several owners, use several files.

Recipients are age1... (age-keygen makes them) and ssh-ed25519 keys (ssh-keygen -t ed25519). wrap
names all of them: who was one before can open the image no more, but for a key taken out earlier.";

/// Make keys for images
#[derive(Debug, Parser)]
#[command(name = "imagekey", version, after_long_help = format!("{EXAMPLES}\n\n{}", exit::EXIT_CODES))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an owner's signing key and its public key, FILE with the extension .pub
    Sign {
        /// Make an RSA key of this many bits instead of an Ed25519 key
        #[arg(long, value_name = "BITS", value_parser = ["3072", "4096"])]
        rsa: Option<String>,
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
        #[command(flatten)]
        passphrase: Passphrase,
        /// A private key file
        file: PathBuf,
    },
    /// Show kind and id of a signing key, private or public, and for which images it is
    Show {
        #[command(flatten)]
        passphrase: Passphrase,
        /// A key file
        file: PathBuf,
    },
    /// Put the content key into an image, wrapped for recipients; no chunk is touched
    Wrap(wrap::Wrap),
    /// Take the content key out of an image
    Unwrap(wrap::Unwrap),
}

#[derive(Debug, clap::Args)]
struct Passphrase {
    /// The passphrase of an encrypted private key is the first line of this file [default: ask]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    fn file(&self) -> Option<&Path> {
        self.passphrase_file.as_deref()
    }
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// The reason as one line, with its exit code.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Sign { rsa, file } => {
                let bits = rsa.as_deref().and_then(|bits| bits.parse().ok());
                make::signing_key(file, bits)
            }
            Command::Content { file } => {
                let text = key_line(&ContentKey::generate()?);
                keys::write_new(file, &text, 0o600)?;
                say(&format!("{}: content key (secret)", file.display()));
                Ok(())
            }
            Command::Public { passphrase, file } => {
                let key = keys::load_signing_key(file, passphrase.file())?;
                print(&key.verifying_key().to_pem()?)
            }
            Command::Show { passphrase, file } => show(file, passphrase.file()),
            Command::Wrap(wrap) => wrap.run(),
            Command::Unwrap(unwrap) => unwrap.run(),
        }
    }
}

/// The text of a content key file.
fn key_line(key: &ContentKey) -> zeroize::Zeroizing<String> {
    let mut line =
        zeroize::Zeroizing::new(String::with_capacity(chunkfmt::CONTENT_KEY_HEX_LEN + 1));
    line.push_str(&key.to_hex());
    line.push('\n');
    line
}

fn show(file: &Path, passphrase_file: Option<&Path>) -> Result<(), Failure> {
    let trusted = keys::load_public_half(file, passphrase_file)?;
    let key = trusted.key();
    let kind = match key.algorithm() {
        SignatureAlgorithm::RsaPss => format!("RSA-{}", key.bits()),
        other => other.name().to_owned(),
    };
    let mut text = format!("{kind} {}\n", key.id());
    for prefix in trusted.prefixes() {
        text.push_str(&format!("images: {prefix}\n"));
    }
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(Exit::Io, format!("standard output: {error}")))
}
