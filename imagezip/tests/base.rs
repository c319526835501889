//! A base that says that it is the right one, but is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use chunkfmt::{ImageHeader, Layout, Region, Sealer, SigningKey, Span};
use clap::Parser;
use frisbee_cli::{Exit, Failure};

const SECTORS: u32 = 4096;

/// An image with this header, of a disk with this data.
fn image(header: &ImageHeader, signer: &Arc<SigningKey>, disk: &[u8]) -> Vec<u8> {
    let mut sealer = Sealer::new(header.clone(), None, Some(Arc::clone(signer)), 3).unwrap();
    let span = Span {
        first: 0,
        sectors: SECTORS.into(),
    };
    let region = Region {
        first: 0,
        sectors: SECTORS,
    };
    let mut chunk = Vec::new();
    let layout = Layout::new(span, vec![region]);
    let sealed = sealer.seal(0, layout, disk, &mut chunk).unwrap();
    let end = sealer.finish(&[sealed]).unwrap();
    [sealer.header_bytes(), &chunk, &end].concat()
}

/// An owner who makes two images with the same UUID and epoch can have made a delta to one of them only.
#[test]
fn a_delta_knows_its_base_by_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let signer = Arc::new(SigningKey::generate().unwrap());
    fs::write(path("owner.key"), signer.to_pem().unwrap().as_bytes()).unwrap();
    fs::set_permissions(path("owner.key"), Permissions::from_mode(0o600)).unwrap();
    let header = ImageHeader::new("x".into(), 7, 512, SECTORS.into(), None, Some(&signer)).unwrap();
    let disk = vec![1; SECTORS as usize * 512];
    let mut other = disk.clone();
    other[5] = 2;
    fs::write(path("disk"), &disk).unwrap();
    fs::write(path("base.frz"), image(&header, &signer, &disk)).unwrap();
    fs::write(path("other.frz"), image(&header, &signer, &other)).unwrap();

    let imagezip = |bases: &[&str], out: &str| -> Result<(), Failure> {
        let (owner, disk, out) = (path("owner.key"), path("disk"), path(out));
        let mut arguments = vec!["imagezip".into(), "--raw".into(), "--unencrypted".into()];
        arguments.extend(["--sign".into(), owner]);
        for base in bases {
            arguments.extend(["--base".into(), path(base)]);
        }
        arguments.extend([disk, out]);
        imagezip::zip::Cli::try_parse_from(arguments).unwrap().run()
    };
    imagezip(&["base.frz"], "delta.frz").unwrap();
    // A header, a manifest and a footer: all of the data is left out.
    assert!(fs::metadata(path("delta.frz")).unwrap().len() <= 4096 + 3 * 1024);
    imagezip(&["base.frz", "delta.frz"], "second.frz").unwrap();
    let failure = imagezip(&["other.frz", "delta.frz"], "never.frz").unwrap_err();
    assert_eq!(failure.exit, Exit::Verification, "{failure}");
    assert!(failure.message.contains("manifest digest"), "{failure}");
    assert!(!directory.path().join("never.frz").exists());
    // Nor does one image's chunk pass with the other's manifest.
    let [base, other] = ["base.frz", "other.frz"].map(|name| fs::read(path(name)).unwrap());
    let body = other.len() - 3 * 1024;
    assert_eq!(base.len(), other.len());
    assert!(other[body..].starts_with(b"FRZMANIF"));
    fs::write(path("mixed.frz"), [&base[..body], &other[body..]].concat()).unwrap();
    let (owner, mixed, out) = (path("owner.key"), path("mixed.frz"), path("never.frz"));
    let arguments = [
        "imagezip",
        "--unencrypted",
        "--sign",
        &owner,
        "--from",
        &mixed,
        &out,
    ];
    let cli = imagezip::zip::Cli::try_parse_from(arguments).unwrap();
    let failure = cli.run().unwrap_err();
    assert_eq!(failure.exit, Exit::Verification, "{failure}");
    assert!(failure.message.contains("manifest"), "{failure}");
    assert!(!directory.path().join("never.frz").exists());
    // The other one is a base of its own: the disk differs from it in one chunk.
    imagezip(&["other.frz"], "changed.frz").unwrap();
    assert!(fs::metadata(path("changed.frz")).unwrap().len() > 4096 + 3 * 1024);
}
