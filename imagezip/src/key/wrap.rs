//! Content keys inside images: wrapped for other recipients without touching a chunk, and taken out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use agekey::Recipient;
use chunkfmt::{
    BLOCK_SIZE, ContentKey, Context, HEADER_SIZE, ImageHeader, ImageIndex, KeyId, SigningKey, Trust,
};
use clap::Args;
use frisbee_cli::{Exit, Failure, Interrupt, keys, say};
use tempfile::NamedTempFile;

use super::{Passphrase, key_line};

/// Bytes that are copied between two looks at whether the run was interrupted.
const STEP: u64 = 64 << 20;

/// Options of `imagekey wrap`.
#[derive(Args, Debug)]
pub(super) struct Wrap {
    /// Wrap for this recipient: age1..., an ssh-ed25519 line, or a file of them; may be repeated
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "nobody")]
    recipient: Vec<String>,
    /// Take the wrapped content key out of the image
    #[arg(long, conflicts_with_all = ["recipient", "identity"])]
    nobody: bool,
    /// The owner's private key: the image header is signed anew
    #[arg(short, long, value_name = "FILE")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// The content key of the image
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["identity", "nobody"]
    )]
    key: Option<PathBuf>,
    /// Or an identity that the content key in the image is wrapped for
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    identity: Option<PathBuf>,
    /// The image, a file
    image: PathBuf,
}

/// Options of `imagekey unwrap`.
#[derive(Args, Debug)]
pub(super) struct Unwrap {
    /// File of age or ssh-ed25519 identities, for one of which the content key is wrapped
    #[arg(long, value_name = "FILE", required = true)]
    identity: PathBuf,
    /// The image, a file
    image: PathBuf,
    /// The content key file to make
    file: PathBuf,
}

impl Unwrap {
    /// Writes the content key of an image to a file.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let name = self.image.display();
        let mut bytes = vec![0; HEADER_SIZE];
        open(&self.image)?
            .read_exact(&mut bytes)
            .or_else(|error| match error.kind() {
                // What is wrong with a short file is the header's to say.
                io::ErrorKind::UnexpectedEof => Ok(()),
                _ => Err(Failure::new(Exit::Io, format!("{name}: {error}"))),
            })?;
        let header =
            ImageHeader::parse(&bytes).map_err(|error| Failure::from(error).context(&name))?;
        let key = unwrap(&header, &self.identity).map_err(|failure| failure.context(&name))?;
        // That it is this image's key; whose image it is makes no difference to a key.
        Context::new(
            &bytes,
            &Trust::new(Vec::new(), true),
            std::slice::from_ref(&key),
        )
        .map_err(|error| Failure::from(error).context(&name))?;
        keys::write_new(&self.file, &key_line(&key), 0o600)?;
        say(&format!("{}: content key (secret)", self.file.display()));
        Ok(())
    }
}

/// The content key that a header holds for one of the identities in a file.
fn unwrap(header: &ImageHeader, identity: &Path) -> Result<ContentKey, Failure> {
    let wrapped = header.wrapped_keys();
    if wrapped.is_empty() {
        let message = "the image does not hold its content key: name the key file with --key";
        return Err(Failure::new(Exit::Verification, message));
    }
    let text = agekey::unwrap(wrapped, &keys::load_identities(identity)?)
        .map_err(|error| Failure::new(Exit::Verification, error))?;
    Ok(ContentKey::from_hex(&text)?)
}

impl Wrap {
    /// Replaces the wrapped content key in an image. The image is replaced as a whole, by a copy: who reads it at the
    /// moment, a server perhaps, goes on with the old one.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let name = self.image.display();
        let signer = self
            .sign
            .as_deref()
            .map(|path| keys::load_signing_key(path, self.passphrase.file()))
            .transpose()?;
        let recipients = keys::load_recipients(&self.recipient)?;
        let interrupt = Interrupt::watch()?;
        let file = open(&self.image)?;
        let changed = self
            .change(&file, signer.as_ref(), &recipients)
            .map_err(|failure| failure.context(&name))?;
        changed
            .write(&file, &self.image, &interrupt)
            .map_err(|failure| failure.context(&name))?;
        say(&match recipients.len() {
            0 => format!("{name}: holds no content key any more"),
            1 => format!("{name}: content key wrapped for 1 recipient"),
            count => format!("{name}: content key wrapped for {count} recipients"),
        });
        Ok(())
    }

    /// The parts of the image that change.
    fn change(
        &self,
        mut file: &File,
        signer: Option<&SigningKey>,
        recipients: &[Recipient],
    ) -> Result<Changed, Failure> {
        // Nothing is signed that this owner has not signed before.
        let trust = match signer {
            Some(signer) => Trust::new(vec![signer.verifying_key()], false),
            None => Trust::new(Vec::new(), true),
        };
        let index = ImageIndex::read(&mut file, Some(&trust))?;
        check_signer(&index.header, signer)?;
        let (old, body) = index.manifest_object.split_at(HEADER_SIZE);
        let wrapped = if self.nobody {
            Context::without_key(old, &trust, &[])?;
            Vec::new()
        } else {
            let key = match (&self.key, &self.identity) {
                (Some(path), _) => keys::load_content_key(path)?,
                (None, Some(path)) => unwrap(&index.header, path)?,
                (None, None) => return Err(chunkfmt::Error::KeyMissing.into()),
            };
            Context::new(old, &trust, std::slice::from_ref(&key))?;
            agekey::wrap(&key_line(&key), recipients)
                .map_err(|error| Failure::new(Exit::Usage, error))?
        };
        let head = &index.manifest.head;
        let header = index.header.clone().with_wrapped_keys(wrapped)?;
        let header_bytes = header.to_bytes(signer)?;
        let object = [header_bytes.as_slice(), body].concat();
        // Behind the head are the body and the footer.
        let behind = head.padded_body_length() + 2 * BLOCK_SIZE as u64;
        Ok(Changed {
            header: header_bytes,
            head: head.with_header(&header, &object, signer)?,
            behind,
        })
    }
}

fn check_signer(header: &ImageHeader, signer: Option<&SigningKey>) -> Result<(), Failure> {
    let message = match signer {
        None if header.signer() != KeyId::default() => format!(
            "the image is signed by key {}: name its private key with --sign",
            header.signer()
        ),
        Some(_) if header.signer() == KeyId::default() => {
            "the image is not signed: leave out --sign".into()
        }
        _ => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, message))
}

/// What is written over a copy of an image.
struct Changed {
    header: Vec<u8>,
    head: Vec<u8>,
    /// Bytes of the image from the manifest head to the end.
    behind: u64,
}

impl Changed {
    /// Replaces the image `path`, which is open as `old`.
    fn write(&self, mut old: &File, path: &Path, interrupt: &Interrupt) -> Result<(), Failure> {
        let io = |error: io::Error| Failure::new(Exit::Io, error);
        // Through links, to what is replaced.
        let path = fs::canonicalize(path).map_err(io)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let metadata = old.metadata().map_err(io)?;
        let mut copy = NamedTempFile::with_suffix_in(".partial", directory).map_err(io)?;
        io::Seek::rewind(&mut old).map_err(io)?;
        // Shares the blocks instead of copying them where the filesystem can.
        while io::copy(&mut old.take(STEP), copy.as_file_mut()).map_err(io)? > 0 {
            interrupt.check("the image is as it was")?;
        }
        let file = copy.as_file();
        let length = file.metadata().map_err(io)?.len();
        let head_at = length
            .checked_sub(self.behind)
            .filter(|_| length == metadata.len())
            .ok_or_else(|| Failure::new(Exit::Input, "the image changed while it was read"))?;
        file.write_all_at(&self.header, 0).map_err(io)?;
        file.write_all_at(&self.head, head_at).map_err(io)?;
        // Who is not root can give nothing away, and keeps it.
        let _ = fchown(file, Some(metadata.uid()), Some(metadata.gid()));
        file.set_permissions(metadata.permissions()).map_err(io)?;
        file.sync_all().map_err(io)?;
        interrupt.check("the image is as it was")?;
        copy.persist(&path).map_err(|error| io(error.error))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io)
    }
}

/// Opens an image that is a regular file, without waiting for anybody.
fn open(path: &Path) -> Result<File, Failure> {
    let name = path.display();
    let io = |error: io::Error| Failure::new(Exit::Input, format!("{name}: {error}"));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(io)?;
    match file.metadata().map_err(io)?.is_file() {
        true => Ok(file),
        false => Err(Failure::new(
            Exit::Usage,
            format!("{name} is not a regular file: name the file of an image"),
        )),
    }
}
