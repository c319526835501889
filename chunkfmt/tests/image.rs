//! Whole images: what is written comes back, and nothing that was changed does.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::io::Cursor;
use std::sync::Arc;

use chunkfmt::{
    BLOCK_SIZE, Base, Cipher, Codec, ContentKey, Context, Error, ErrorKind, HEADER_SIZE,
    ImageHeader, ImageIndex, ImageReader, Layout, ManifestHead, Next, Opener, Part, Region, Sealer,
    SigningKey, Span, Suite, Trust, check_roots,
};
use proptest::prelude::*;

const SECTOR: u32 = 512;

struct Owner {
    signer: Option<Arc<SigningKey>>,
    key: Option<ContentKey>,
    cipher: Cipher,
}

impl Owner {
    fn new() -> Self {
        Self {
            signer: Some(Arc::new(SigningKey::generate().unwrap())),
            key: Some(ContentKey::generate().unwrap()),
            cipher: Cipher::Aes256Gcm,
        }
    }

    fn trust(&self) -> Trust {
        let keys: Vec<_> = self.signer.iter().map(|key| key.verifying_key()).collect();
        Trust::new(keys, self.signer.is_none())
    }

    /// An image of `disk`, all of whose chunks hold every other run of 8 sectors.
    fn image(&self, disk: &[u8], chunk_sectors: u64, codec: Codec) -> Vec<u8> {
        let sectors = (disk.len() / SECTOR as usize) as u64;
        let header = ImageHeader::new(
            "golden".into(),
            7,
            SECTOR,
            sectors,
            self.key.as_ref(),
            self.signer.as_deref(),
        )
        .unwrap();
        let cipher = self.key.as_ref().map_or(Cipher::None, |_| self.cipher);
        let header = header.with_codec(codec).with_cipher(cipher).unwrap();
        let mut sealer = Sealer::new(header, self.key.as_ref(), self.signer.clone(), 3).unwrap();
        let mut image = sealer.header_bytes().to_vec();
        let (mut sealed, mut chunk) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < sectors {
            let span = Span {
                first,
                sectors: chunk_sectors.min(sectors - first),
            };
            let regions = every_other(span);
            let data: Vec<u8> = regions
                .iter()
                .flat_map(|region| sectors_of(disk, region))
                .copied()
                .collect();
            let index = sealed.len() as u32;
            let layout = Layout::new(span, regions);
            sealed.push(sealer.seal(index, layout, &data, &mut chunk).unwrap());
            image.extend_from_slice(&chunk);
            first = span.end();
        }
        image.extend(sealer.finish(&sealed).unwrap());
        image
    }
}

fn every_other(span: Span) -> Vec<Region> {
    (span.first..span.end())
        .step_by(16)
        .map(|first| Region {
            first,
            sectors: 8.min(span.end() - first) as u32,
        })
        .collect()
}

fn sectors_of<'a>(disk: &'a [u8], region: &Region) -> &'a [u8] {
    &disk[region.first as usize * SECTOR as usize..region.end() as usize * SECTOR as usize]
}

/// A disk of text-like, compressible bytes.
fn disk(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR as usize)
        .map(|i| b"the quick brown fox "[(i + i / 300) % 20])
        .collect()
}

/// Installs an image from a stream: returns the disk with zeros where it is free.
fn install(image: &[u8], trust: &Trust, key: Option<&ContentKey>) -> Result<Vec<u8>, Error> {
    let key: Vec<ContentKey> = key.into_iter().cloned().collect();
    let mut reader = ImageReader::new(image, trust.clone())?;
    let context = Arc::new(Context::new(reader.header_bytes(), trust, &key)?);
    let sectors = context.header().disk_sectors;
    let mut disk = vec![0; (sectors * u64::from(SECTOR)) as usize];
    let mut opener = Opener::new(context)?;
    let (mut chunk, mut data, mut roots) = (Vec::new(), Vec::new(), Vec::new());
    let mut layout = Layout::default();
    loop {
        match reader.next(&mut chunk)? {
            Next::Chunk(index) => {
                roots.push((index, *blake3::hash(&chunk).as_bytes()));
                opener.open(index, &mut chunk, sectors, &mut layout, &mut data)?;
                let mut rest = &data[..];
                for region in &layout.regions {
                    let bytes = region.sectors as usize * SECTOR as usize;
                    let at = region.first as usize * SECTOR as usize;
                    disk[at..at + bytes].copy_from_slice(&rest[..bytes]);
                    rest = &rest[bytes..];
                }
                assert!(rest.is_empty());
            }
            Next::End(manifest) => {
                check_roots(&manifest, &roots)?;
                return Ok(disk);
            }
        }
    }
}

fn expected(disk: &[u8], chunk_sectors: u64) -> Vec<u8> {
    let sectors = (disk.len() / SECTOR as usize) as u64;
    let mut expected = vec![0; disk.len()];
    let mut first = 0;
    while first < sectors {
        let span = Span {
            first,
            sectors: chunk_sectors.min(sectors - first),
        };
        for region in every_other(span) {
            let at = region.first as usize * SECTOR as usize;
            let bytes = sectors_of(disk, &region);
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        first = span.end();
    }
    expected
}

#[test]
fn images_come_back_whatever_the_suite() {
    let disk = disk(5000);
    let ciphers = [
        Cipher::None,
        Cipher::Aes256Gcm,
        Cipher::ChaCha20Poly1305,
        Cipher::BlowfishCbc,
    ];
    for codec in [Codec::Zstd, Codec::Zlib, Codec::None] {
        for signed in [true, false] {
            for cipher in ciphers {
                let mut owner = Owner::new();
                owner.signer = owner.signer.filter(|_| signed);
                owner.key = owner.key.filter(|_| cipher != Cipher::None);
                owner.cipher = cipher;
                let image = owner.image(&disk, 1024, codec);
                let restored = install(&image, &owner.trust(), owner.key.as_ref()).unwrap();
                assert!(
                    restored == expected(&disk, 1024),
                    "{codec:?}, signed {signed}, {cipher:?}"
                );
            }
        }
    }
}

#[test]
fn the_suites_are_told_apart() {
    let header = |owner: &Owner| {
        let key = owner.key.as_ref();
        ImageHeader::new("x".into(), 1, SECTOR, 8, key, owner.signer.as_deref()).unwrap()
    };
    let owner = Owner::new();
    assert_eq!(header(&owner).suite(), Some(Suite::Modern));
    let mixed = header(&owner).with_codec(Codec::Zlib);
    assert_eq!(mixed.suite(), None);
    let open = Owner {
        signer: None,
        key: None,
        ..owner
    };
    assert!(header(&open).with_cipher(Cipher::BlowfishCbc).is_err());
    assert_eq!(
        header(&open).with_codec(Codec::Zlib).suite(),
        Some(Suite::Classic)
    );
}

/// A delta that leaves out what its base holds, and what a reader makes of it.
#[test]
fn a_delta_describes_the_whole_disk() {
    let owner = Owner::new();
    let (old, mut new) = (disk(4000), disk(4000));
    let base = owner.image(&old, 1000, Codec::Zstd);
    let base = ImageIndex::read(&mut Cursor::new(&base), Some(&owner.trust())).unwrap();
    new[2100 * 512..2101 * 512].fill(7);
    let header = ImageHeader::new(
        "golden".into(),
        8,
        SECTOR,
        4000,
        owner.key.as_ref(),
        owner.signer.as_deref(),
    );
    let header = header.unwrap().with_base(Base {
        uuid: base.header.uuid(),
        epoch: base.header.epoch(),
        manifest: base.manifest.digest,
    });
    let mut sealer = Sealer::new(header, owner.key.as_ref(), owner.signer.clone(), 3).unwrap();
    let (mut image, mut chunk, mut sealed) =
        (sealer.header_bytes().to_vec(), Vec::new(), Vec::new());
    for index in 0..4 {
        let span = Span {
            first: u64::from(index) * 1000,
            sectors: 1000,
        };
        let layout = Layout::new(
            span,
            vec![Region {
                first: span.first,
                sectors: 1000,
            }],
        );
        let data = sectors_of(&new, &layout.regions[0]);
        if data == sectors_of(&old, &layout.regions[0]) {
            sealed.push(sealer.leave_out(layout, data).unwrap());
        } else {
            sealed.push(sealer.seal(index, layout, data, &mut chunk).unwrap());
            image.extend_from_slice(&chunk);
        }
    }
    image.extend(sealer.finish(&sealed).unwrap());

    let index = ImageIndex::read(&mut Cursor::new(&image), Some(&owner.trust())).unwrap();
    assert_eq!(index.header.base.unwrap().uuid, base.header.uuid());
    let present: Vec<bool> = index
        .manifest
        .entries
        .iter()
        .map(chunkfmt::ChunkEntry::is_present)
        .collect();
    assert_eq!(present, [false, false, true, false]);
    assert_eq!(index.manifest.head.image_bytes(), image.len() as u64);
    assert!(index.chunk(1).is_none() && index.chunk(2).is_some());
    let restored = install(&image, &owner.trust(), owner.key.as_ref()).unwrap();
    assert!(restored[2000 * 512..3000 * 512] == new[2000 * 512..3000 * 512]);
    let context = Context::new(&image, &owner.trust(), owner.key.as_slice()).unwrap();
    for secret in context.secrets(&index.manifest).unwrap() {
        let data = sectors_of(&new, &secret.layout.regions[0]);
        assert_eq!(
            context.plain_hash(&secret.layout, data).unwrap(),
            secret.plain_hash
        );
    }
}

#[test]
fn only_a_delta_leaves_out_chunks() {
    let owner = Owner::new();
    let header = ImageHeader::new(
        "x".into(),
        1,
        SECTOR,
        8,
        owner.key.as_ref(),
        owner.signer.as_deref(),
    );
    let sealer = Sealer::new(header.unwrap(), owner.key.as_ref(), owner.signer.clone(), 3).unwrap();
    let layout = Layout::new(
        Span {
            first: 0,
            sectors: 8,
        },
        Vec::new(),
    );
    assert!(sealer.leave_out(layout, &[]).is_err());
}

/// Wrapped keys come and go, and no chunk, nor the digest that deltas name, changes.
#[test]
fn wrapped_keys_are_exchanged_without_touching_a_chunk() {
    let owner = Owner::new();
    let disk = disk(3000);
    let image = owner.image(&disk, 1000, Codec::Zstd);
    let index = ImageIndex::read(&mut Cursor::new(&image), Some(&owner.trust())).unwrap();
    let renewed = |wrapped: Vec<u8>| {
        let signer = owner.signer.as_deref();
        let header = index.header.clone().with_wrapped_keys(wrapped).unwrap();
        let header_bytes = header.to_bytes(signer).unwrap();
        let mut object = index.manifest_object.clone();
        object[..HEADER_SIZE].copy_from_slice(&header_bytes);
        let head = index
            .manifest
            .head
            .with_header(&header, &object, signer)
            .unwrap();
        let manifest_at = image.len() - object.len() + HEADER_SIZE - 2 * BLOCK_SIZE;
        assert!(ManifestHead::is_manifest(&image[manifest_at..]));
        let mut image = image.clone();
        image[..HEADER_SIZE].copy_from_slice(&header_bytes);
        image[manifest_at..manifest_at + BLOCK_SIZE].copy_from_slice(&head);
        image
    };
    let wrapped = renewed(vec![b'k'; chunkfmt::WRAPPED_KEYS_MAX]);
    assert!(
        install(&wrapped, &owner.trust(), owner.key.as_ref()).unwrap() == expected(&disk, 1000)
    );
    let read = ImageIndex::read(&mut Cursor::new(&wrapped), Some(&owner.trust())).unwrap();
    assert_eq!(
        read.header.wrapped_keys(),
        vec![b'k'; chunkfmt::WRAPPED_KEYS_MAX]
    );
    assert_eq!(read.manifest.digest, index.manifest.digest);
    assert_eq!(
        renewed(Vec::new()),
        image,
        "signing the same again gives the same"
    );
    let too_many = vec![0; chunkfmt::WRAPPED_KEYS_MAX + 1];
    assert!(index.header.clone().with_wrapped_keys(too_many).is_err());
}

#[test]
fn an_empty_disk_has_no_chunks() {
    let owner = Owner::new();
    let image = owner.image(&[], 1024, Codec::Zstd);
    assert_eq!(
        install(&image, &owner.trust(), owner.key.as_ref()).unwrap(),
        Vec::<u8>::new()
    );
    let index = ImageIndex::read(&mut Cursor::new(&image), Some(&owner.trust())).unwrap();
    assert_eq!(index.manifest.head.chunks, 0);
    assert_eq!(index.manifest.head.image_bytes(), image.len() as u64);
}

#[test]
fn incompressible_data_is_stored() {
    let owner = Owner::new();
    let mut disk = vec![0; 2 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut disk);
    let image = owner.image(&disk, 4096, Codec::Zstd);
    assert!(image.len() < disk.len() / 2 + 64 * 1024);
    assert!(install(&image, &owner.trust(), owner.key.as_ref()).unwrap() == expected(&disk, 4096));
}

#[test]
fn the_index_finds_every_chunk_and_its_root() {
    let owner = Owner::new();
    let disk = disk(9000);
    let image = owner.image(&disk, 1000, Codec::Zstd);
    let index = ImageIndex::read(&mut Cursor::new(&image), Some(&owner.trust())).unwrap();
    assert_eq!(index.manifest.head.chunks, 9);
    assert_eq!(index.manifest.head.image_bytes(), image.len() as u64);
    assert_eq!(index.manifest.head.plain_bytes, 9 * 504 * 512);
    for (number, entry) in (0..).zip(&index.manifest.entries) {
        let (offset, length) = index.chunk(number).unwrap();
        let chunk = &image[offset as usize..offset as usize + length];
        assert_eq!(*blake3::hash(chunk).as_bytes(), entry.root);
    }
    assert_eq!(index.chunk(9), None);

    let context = Context::new(&image, &owner.trust(), owner.key.as_slice()).unwrap();
    let secrets = context.secrets(&index.manifest).unwrap();
    assert_eq!(
        secrets
            .iter()
            .map(|secret| secret.layout.span.sectors)
            .sum::<u64>(),
        9000
    );
}

#[test]
fn the_layout_of_an_encrypted_disk_is_not_in_the_image() {
    let mut owner = Owner::new();
    let disk = disk(9000);
    let span_of_chunk_3 = [3000_u64.to_le_bytes(), 1000_u64.to_le_bytes()].concat();
    let holds = |image: &[u8]| image.windows(16).any(|window| window == span_of_chunk_3);
    assert!(!holds(&owner.image(&disk, 1000, Codec::Zstd)));
    owner.key = None;
    assert!(
        holds(&owner.image(&disk, 1000, Codec::Zstd)),
        "the same search must succeed without encryption"
    );
}

#[test]
fn wrong_keys_and_owners_are_refused_by_name() {
    let (owner, other) = (Owner::new(), Owner::new());
    let image = owner.image(&disk(3000), 1000, Codec::Zstd);
    let install = |trust: &Trust, key| install(&image, trust, key).map(|_| ()).unwrap_err();
    assert!(matches!(
        install(&owner.trust(), other.key.as_ref()),
        Error::WrongKey
    ));
    assert!(matches!(install(&owner.trust(), None), Error::KeyMissing));
    assert!(matches!(
        install(&other.trust(), owner.key.as_ref()),
        Error::UntrustedSigner { .. }
    ));
    assert!(matches!(
        install(&Trust::default(), owner.key.as_ref()),
        Error::UntrustedSigner { .. }
    ));
    let unsigned = Owner {
        signer: None,
        key: None,
        cipher: Cipher::None,
    }
    .image(&disk(100), 100, Codec::Zstd);
    assert!(matches!(
        self::install(&unsigned, &owner.trust(), None).unwrap_err(),
        Error::Unsigned
    ));
}

#[test]
fn chunks_of_other_images_and_places_are_refused() {
    let owner = Owner::new();
    let disk = disk(3000);
    // Codec none: chunks of equal length, so that they can be swapped without breaking the framing.
    let image = owner.image(&disk, 1000, Codec::None);
    let other = owner.image(&disk, 1000, Codec::None);
    let index = ImageIndex::read(&mut Cursor::new(&image), None).unwrap();
    let at = |number| {
        let (offset, length) = index.chunk(number).unwrap();
        offset as usize..offset as usize + length
    };
    let refused = |image: &[u8]| install(image, &owner.trust(), owner.key.as_ref()).unwrap_err();

    let mut pasted = image.clone();
    pasted[at(1)].copy_from_slice(&other[at(1)]);
    assert!(matches!(
        refused(&pasted),
        Error::Foreign {
            part: Part::Chunk(1),
            field: "UUID"
        }
    ));

    let mut swapped = image.clone();
    swapped[at(0)].copy_from_slice(&image[at(1)]);
    swapped[at(1)].copy_from_slice(&image[at(0)]);
    assert!(matches!(
        refused(&swapped),
        Error::Foreign {
            part: Part::Chunk(0),
            field: "index"
        }
    ));

    let missing = [&image[..at(2).start], &image[at(2).end..]].concat();
    assert!(
        matches!(
            refused(&missing),
            Error::Field {
                part: Part::Footer,
                ..
            }
        ),
        "{}",
        refused(&missing)
    );

    let foreign_end = [&image[..at(2).end], &other[at(2).end..]].concat();
    assert_eq!(refused(&foreign_end).kind(), ErrorKind::Verification);
}

#[test]
fn every_cut_is_noticed() {
    let owner = Owner::new();
    let image = owner.image(&disk(200), 100, Codec::Zstd);
    let trust = owner.trust();
    for length in 0..image.len() {
        let cut = &image[..length];
        let error = install(cut, &trust, owner.key.as_ref()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{length}: {error}");
        assert!(
            ImageIndex::read(&mut Cursor::new(cut), Some(&trust)).is_err(),
            "{length}"
        );
    }
    let longer = [&image[..], &[0]].concat();
    assert!(matches!(
        install(&longer, &trust, owner.key.as_ref()).unwrap_err(),
        Error::Trailing
    ));
    assert!(ImageIndex::read(&mut Cursor::new(&longer), Some(&trust)).is_err());
}

/// One bit in every byte of an image; the bit changes from byte to byte.
#[test]
fn every_changed_byte_is_noticed() {
    let owner = Owner::new();
    let mut image = owner.image(&disk(400), 200, Codec::Zstd);
    let trust = owner.trust();
    for at in 0..image.len() {
        let flip = 1 << (at % 8);
        image[at] ^= flip;
        assert!(
            install(&image, &trust, owner.key.as_ref()).is_err(),
            "byte {at}, bit {flip:#x}"
        );
        image[at] ^= flip;
    }
    assert!(install(&image, &trust, owner.key.as_ref()).is_ok());
}

/// The server has no key and no trust; what it checks is enough not to serve a damaged table of contents.
#[test]
fn an_index_without_trust_still_notices_changes_of_header_and_manifest() {
    let owner = Owner::new();
    let image = owner.image(&disk(400), 200, Codec::Zstd);
    let index = ImageIndex::read(&mut Cursor::new(&image), None).unwrap();
    let manifest_at =
        image.len() - (index.manifest.head.padded_body_length() as usize + 2 * BLOCK_SIZE);
    // The head's own signature area is the one place that needs a key.
    let signature = manifest_at + 512..manifest_at + 512 + 64;
    for at in (0..HEADER_SIZE)
        .chain(manifest_at..image.len())
        .filter(|at| !signature.contains(at))
    {
        let mut changed = image.clone();
        changed[at] ^= 0x10;
        let read = ImageIndex::read(&mut Cursor::new(&changed), None);
        // Without a key a changed root in the signed head shows as a body that does not fit it; fields of the head
        // that nothing else repeats are the owner's alone.
        let in_head = (manifest_at..manifest_at + BLOCK_SIZE).contains(&at);
        assert!(read.is_err() || in_head, "byte {at}");
        assert!(
            ImageIndex::read(&mut Cursor::new(&changed), Some(&owner.trust())).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn keys_survive_their_files() {
    let signer = SigningKey::generate().unwrap();
    let read = SigningKey::from_pem(&signer.to_pem().unwrap()).unwrap();
    assert_eq!(read.verifying_key(), signer.verifying_key());
    let public = signer.verifying_key();
    assert_eq!(
        chunkfmt::VerifyingKey::from_pem(&public.to_pem().unwrap()).unwrap(),
        public
    );
    let key = ContentKey::generate().unwrap();
    assert_eq!(
        *ContentKey::from_hex(&format!(" {}\n", *key.to_hex()))
            .unwrap()
            .to_hex(),
        *key.to_hex()
    );
    for bad in [
        "",
        "00",
        &"0g".repeat(32),
        &"00".repeat(33),
        &"+0".repeat(32),
    ] {
        assert!(ContentKey::from_hex(bad).is_err(), "{bad}");
    }
    assert!(!format!("{signer:?} {key:?}").contains(&key.to_hex()[..8]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"FRZIMAGE");
        }
        prop_assert!(install(&bytes, &Trust::new(Vec::new(), true), None).is_err());
        prop_assert!(ImageIndex::read(&mut Cursor::new(&bytes), None).is_err());
    }
}

/// Chunks of zeros are sealed as any others, whatever the sealer has sealed before.
#[test]
fn chunks_of_zeros() {
    let owner = Owner::new();
    for codec in [Codec::Zstd, Codec::Zlib, Codec::None] {
        let (key, signer) = (owner.key.as_ref(), owner.signer.as_deref());
        let header = ImageHeader::new("zeros".into(), 1, SECTOR, 4000, key, signer);
        let header = header.unwrap().with_codec(codec);
        let mut sealer = Sealer::new(header, key, owner.signer.clone(), 3).unwrap();
        let mut first = 0;
        for (index, (sectors, last)) in (0..).zip([
            (64, 0),
            (64, 0),
            (7, 0),
            (64, 0),
            (64, 1),
            (7, 0),
            (7, 0),
            (1, 0),
        ]) {
            let region = Region { first, sectors };
            let span = Span {
                first,
                sectors: sectors.into(),
            };
            let layout = Layout::new(span, vec![region]);
            let mut data = vec![0; sectors as usize * SECTOR as usize];
            *data.last_mut().unwrap() = last;
            let (mut ours, mut fresh) = (Vec::new(), Vec::new());
            let sealed = sealer
                .seal(index, layout.clone(), &data, &mut ours)
                .unwrap();
            let mut other = sealer.for_thread().unwrap();
            assert_eq!(
                other.seal(index, layout, &data, &mut fresh).unwrap(),
                sealed
            );
            assert!(ours == fresh, "{codec:?}, chunk {index}");
            first += u64::from(sectors);
        }
    }
}
