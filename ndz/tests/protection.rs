//! Checksums, signatures, encryption and key files: what was changed is refused, and so is what is weaker than demanded.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{content_key, golden, made, public_key, restore_with};
use ndz::{
    CHUNK_SIZE, Chunk, ContentKey, Demand, Error, HEADER_SIZE, ImageId, Integrity, Place, PublicKey,
};

fn verify(index: u32, chunk: &[u8], demand: Demand<'_>) -> Result<Integrity, Error> {
    Chunk::parse(index, chunk)?.verify(demand)
}

/// Flips a bit in each of `offsets` of a chunk and demands that this is refused.
fn refuses_flips(
    index: u32,
    chunk: &[u8],
    demand: Demand<'_>,
    offsets: impl Iterator<Item = usize>,
) {
    let mut chunk = chunk.to_vec();
    for offset in offsets {
        chunk[offset] ^= 1 << (offset % 8);
        assert!(
            verify(index, &chunk, demand).is_err(),
            "a change of byte {offset} of chunk {index} is not noticed"
        );
        chunk[offset] ^= 1 << (offset % 8);
    }
    assert!(verify(index, &chunk, demand).is_ok());
}

fn covered(chunk: &[u8]) -> usize {
    HEADER_SIZE + u32::from_le_bytes(chunk[4..8].try_into().unwrap()) as usize
}

#[test]
fn every_changed_header_byte_breaks_the_signature() {
    let key = public_key("v4-signed.ndz");
    refuses_flips(
        0,
        &golden("v4-signed.ndz"),
        Demand::Signature(&key),
        0..HEADER_SIZE,
    );
}

#[test]
fn changed_data_bytes_break_the_signature() {
    let image = golden("v4-signed.ndz");
    let key = public_key("v4-signed.ndz");
    let end = covered(&image);
    let offsets = (HEADER_SIZE..end).step_by(97).chain([end - 1]);
    refuses_flips(0, &image, Demand::Signature(&key), offsets);
}

#[test]
fn changed_bytes_of_encrypted_chunks_break_the_signature() {
    let image = golden("v4-enc-signed.ndz");
    let key = public_key("v4-enc-signed.ndz");
    for (index, chunk) in (0..).zip(image.chunks(CHUNK_SIZE)) {
        let end = covered(chunk);
        let offsets = (0..HEADER_SIZE)
            .step_by(13)
            .chain((HEADER_SIZE..end).step_by(9973))
            .chain([end - 1]);
        refuses_flips(index, chunk, Demand::Signature(&key), offsets);
    }
}

#[test]
fn changed_bytes_break_the_unsigned_checksum_even_if_nothing_is_demanded() {
    let image = golden("v4-csum-unsigned.ndz");
    let end = covered(&image);
    // Without bytes 36 to 39: they name the kind of checksum, and who changes them has none to pass.
    let offsets = (0..36)
        .chain(40..HEADER_SIZE)
        .chain((HEADER_SIZE..end).step_by(97))
        .chain([end - 1]);
    refuses_flips(0, &image, Demand::Nothing, offsets);
    refuses_flips(0, &image, Demand::Checksum, 0..HEADER_SIZE);
}

#[test]
fn padding_behind_the_data_is_not_covered() {
    for name in ["v4-signed.ndz", "v4-enc-signed.ndz"] {
        let mut image = golden(name);
        let key = public_key(name);
        let end = covered(&image);
        image[end] ^= 0xFF;
        image[CHUNK_SIZE - 1] ^= 0xFF;
        assert_eq!(
            verify(0, &image[..CHUNK_SIZE], Demand::Signature(&key)).unwrap(),
            Integrity::Signature
        );
    }
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let key = public_key("v4-enc-signed.ndz");
    let answer = verify(0, &golden("v4-signed.ndz"), Demand::Signature(&key));
    assert!(
        matches!(answer, Err(Error::Signature { chunk: 0 })),
        "{answer:?}"
    );
}

#[test]
fn a_signature_not_below_the_modulus_is_refused() {
    let mut image = golden("v4-signed.ndz");
    let key = public_key("v4-signed.ndz");
    image[72..136].fill(0xFF);
    let answer = verify(0, &image, Demand::Signature(&key));
    assert!(
        matches!(answer, Err(Error::Signature { chunk: 0 })),
        "{answer:?}"
    );
}

#[test]
fn chunks_without_a_signature_are_refused_when_a_key_is_given() {
    let key = public_key("v4-signed.ndz");
    let mut made_ones = Vec::new();
    for version in [1, 2, 3, 4, 5, 68] {
        made_ones.push((made(version, (0, 9), &[(0, 9)]).bytes(), Integrity::Unknown));
    }
    made_ones.push((golden("v4-csum-unsigned.ndz"), Integrity::Checksum));
    for (chunk, without_demand) in made_ones {
        let answer = verify(0, &chunk, Demand::Signature(&key));
        assert!(
            matches!(answer, Err(Error::NotSigned { chunk: 0 })),
            "{answer:?}"
        );
        assert_eq!(verify(0, &chunk, Demand::Nothing).unwrap(), without_demand);
    }
}

#[test]
fn a_signature_that_no_key_was_given_for_does_not_count() {
    let image = golden("v4-signed.ndz");
    assert_eq!(
        verify(0, &image, Demand::Nothing).unwrap(),
        Integrity::Unknown
    );
    let answer = verify(0, &image, Demand::Checksum);
    assert!(
        matches!(answer, Err(Error::NoChecksum { chunk: 0 })),
        "{answer:?}"
    );
}

#[test]
fn unknown_ciphers_and_checksums_are_refused() {
    for (offset, field) in [(36, "enc_cipher"), (38, "csum_type")] {
        for value in [2_u16, 0x8000, 0x8002, 0x0101] {
            let mut image = golden("v4-signed.ndz");
            image[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
            let answer = Chunk::parse(0, &image).map(drop);
            assert!(
                matches!(answer, Err(Error::Field { field: found, .. }) if found == field),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn demanded_image_ids_refuse_other_images_and_versions_without_one() {
    let id: ImageId = "00112233445566778899aabbccddeeff".parse().unwrap();
    let signed = golden("v4-signed.ndz");
    assert!(
        Chunk::parse(0, &signed)
            .unwrap()
            .demand_image_id(id)
            .is_ok()
    );
    let mut others = vec![
        golden("v4-csum-unsigned.ndz"),
        golden("v1-raw.ndz"),
        golden("v3-ntfs.ndz"),
    ];
    others.push(made(5, (0, 9), &[(0, 9)]).bytes());
    for image in others {
        let answer = Chunk::parse(0, &image).unwrap().demand_image_id(id);
        assert!(matches!(answer, Err(Error::ImageId { expected, .. }) if expected == id));
        let mut reader = ndz::Reader::with_image_id(image.as_slice(), Some(id));
        assert!(matches!(
            reader.next_chunk().map(drop),
            Err(Error::ImageId { .. })
        ));
    }
}

#[test]
fn no_wrong_key_gives_data() {
    let image = golden("v4-enc-signed.ndz");
    let right = golden("test.ekey");
    let mut with_good_padding = 0;
    for wrong in 0..500 {
        let mut digits = right.clone();
        for (at, digit) in format!("{wrong:04x}").bytes().enumerate() {
            digits[60 + at - 4 * (wrong % 2)] = digit;
        }
        if digits.eq_ignore_ascii_case(&right) {
            continue;
        }
        let key = ContentKey::parse(&digits).unwrap();
        let chunk = Chunk::parse(0, &image[..CHUNK_SIZE]).unwrap();
        match chunk.data(Some(&key)) {
            Err(Error::Decrypt { chunk: 0 }) => {}
            Ok(data) => {
                with_good_padding += 1;
                assert!(matches!(
                    data.check(Place::WholeDisk).map(drop),
                    Err(Error::Stream { chunk: 0, .. })
                ));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        with_good_padding > 0,
        "some wrong keys must get as far as the zlib stream, or this tests nothing"
    );
}

#[test]
fn an_encrypted_chunk_needs_a_key_and_a_plain_one_refuses_it() {
    let answer = restore_with(
        &golden("v4-enc-signed.ndz"),
        Place::WholeDisk,
        None,
        Demand::Nothing,
    )
    .map(drop);
    assert!(matches!(answer, Err(Error::KeyNeeded { chunk: 0 })));
    let key = content_key();
    for name in ["v4-signed.ndz", "v3-ntfs.ndz", "v1-raw.ndz"] {
        let answer =
            restore_with(&golden(name), Place::WholeDisk, Some(&key), Demand::Nothing).map(drop);
        assert!(
            matches!(answer, Err(Error::NotEncrypted { chunk: 0 })),
            "{name}"
        );
    }
}

#[test]
fn ciphertext_of_a_length_that_is_no_multiple_of_8_is_refused() {
    let mut image = golden("v4-enc-signed.ndz");
    image.truncate(CHUNK_SIZE);
    let size = u32::from_le_bytes(image[4..8].try_into().unwrap());
    for size in [size - 1, size - 7, 1, 7] {
        image[4..8].copy_from_slice(&size.to_le_bytes());
        let answer = Chunk::parse(0, &image)
            .unwrap()
            .data(Some(&content_key()))
            .map(drop);
        assert!(
            matches!(answer, Err(Error::Decrypt { chunk: 0 })),
            "size {size}"
        );
    }
}

#[test]
fn changed_ciphertext_is_refused_even_without_a_signature() {
    let key = content_key();
    let image = golden("v4-enc-signed.ndz");
    let end = covered(&image[..CHUNK_SIZE]);
    // The last two blocks decide about the padding.
    for offset in [
        HEADER_SIZE,
        HEADER_SIZE + 5000,
        end - 16,
        end - 9,
        end - 8,
        end - 1,
    ] {
        let mut image = image.clone();
        image[offset] ^= 0x10;
        let answer = restore_with(&image, Place::WholeDisk, Some(&key), Demand::Nothing).map(drop);
        assert!(
            matches!(answer, Err(Error::Decrypt { .. } | Error::Stream { .. })),
            "byte {offset}: {answer:?}"
        );
    }
}

#[test]
fn keys_are_never_shown() {
    let file = golden("test.ekey");
    let digits = String::from_utf8(file.clone())
        .unwrap()
        .trim()
        .to_lowercase();
    let shown = format!("{:?}", ContentKey::parse(&file).unwrap());
    assert_eq!(shown, "ContentKey(..)");
    let mut bad = file.clone();
    bad[20] = b'x';
    let error = ContentKey::parse(&bad).unwrap_err();
    let text = format!("{error} {error:?}").to_lowercase();
    assert!(
        !(0..60).any(|at| digits
            .get(at..at + 4)
            .is_some_and(|part| text.contains(part))),
        "{text}"
    );
}

#[test]
fn content_key_files_are_exactly_64_digits() {
    let file = golden("test.ekey");
    assert!(ContentKey::parse(file.trim_ascii_end()).is_ok());
    let cut = &file[..63];
    let longer: Vec<u8> = [file.trim_ascii_end(), b"0\n"].concat();
    let two_lines = [file.as_slice(), file.as_slice()].concat();
    for bad in [
        b"".as_slice(),
        b"\n",
        cut,
        &longer,
        &two_lines,
        &[b'g'; 64],
        &[0; 64],
        &[0xC3; 64],
    ] {
        assert!(matches!(ContentKey::parse(bad), Err(Error::KeyFile { .. })));
    }
}

#[test]
fn the_public_half_of_a_signature_key_file_is_enough() {
    let file = String::from_utf8(golden("v4-signed.ndz.skey")).unwrap();
    let public: String = file
        .lines()
        .take(2)
        .map(|line| format!("{line}\n"))
        .collect();
    let key = PublicKey::parse(public.as_bytes()).unwrap();
    let image = golden("v4-signed.ndz");
    assert_eq!(
        verify(0, &image, Demand::Signature(&key)).unwrap(),
        Integrity::Signature
    );
    let shown = format!("{:?}", PublicKey::parse(file.as_bytes()).unwrap()).to_uppercase();
    for private in file.lines().skip(2) {
        assert!(
            !shown.contains(private),
            "the private half is not even kept"
        );
    }
}

#[test]
fn signature_key_files_of_another_form_are_refused() {
    let file = String::from_utf8(golden("v4-signed.ndz.skey")).unwrap();
    let lines: Vec<&str> = file.lines().collect();
    let with = |modulus: &str, exponent: &str| format!("{modulus}\n{exponent}\n");
    let mut long = file.clone();
    long.push_str(&"A".repeat(1100));
    let even = format!("{}2", &lines[0][..127]);
    for bad in [
        String::new(),
        lines[0].to_owned(),
        lines[..3].join("\n"),
        lines[..4].join("\n"),
        format!("{file}11\n"),
        long,
        with(&lines[0][..126], "11"),
        with(&"0".repeat(128), "11"),
        with(&format!("{}0", lines[0]), "11"),
        with(&even, "11"),
        with(lines[0], "0"),
        with(lines[0], "1"),
        with(lines[0], "10"),
        with(lines[0], ""),
        with(lines[0], "0x11"),
        with(lines[0], lines[0]),
        with(&lines[0].replace(&lines[0][..1], "G"), "11"),
    ] {
        assert!(
            matches!(PublicKey::parse(bad.as_bytes()), Err(Error::KeyFile { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn image_ids_are_32_digits() {
    let id: ImageId = "00112233445566778899AABBCCDDEEFF".parse().unwrap();
    assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
    for bad in [
        "",
        "0",
        "00112233445566778899aabbccddeef",
        "00112233445566778899aabbccddeefff",
        "zz112233445566778899aabbccddeeff",
    ] {
        assert!(bad.parse::<ImageId>().is_err(), "{bad}");
    }
}

/// Signatures of v4-signed.ndz made with its private key, which can be had from its key file: blocks that differ from
/// the right one in one respect.
mod forged {
    /// The 33 bytes behind the digest are A5.
    pub(super) const TAIL: &str = "9368b6d0c0006cf44c84cd3fd2ed0ac4f58757948269dbbb5cb8646f026f631c6bdf1e53a3e7957bd675ac18589bf64d5b39b6b10bcb1fb09a7d7566b9744d2c";
    /// Block type 2.
    pub(super) const TYPE_2: &str = "4e537f6aa64328c79c4631f2d37b28e569a57682f6295f1b8e3546a8c5fceec0064828aab7c6237a398128e41b5d6b4e3879e6374e83dda6e15cc321a960abd2";
    /// Seven bytes FF.
    pub(super) const SHORT_PADDING: &str = "5d9f659408f972e0d3fa6f0ba52fd6c0012830f9f234da5179b78f1b9402aaa7cae75c356e83bf678f22ca5242b346071cd0bb5e297bed69b0fe483efb9435e2";
    /// FF where the zero behind the padding should be.
    pub(super) const NO_END: &str = "9a1cbbaffd2f5f608194fa397af44b7b2164c352023fa936e907aa7553738f7b534036309095ed28810430028e20cd322d5a4a25b0876bd2f8544074b66578c3";
    /// The digest at the end of a block of zeros.
    pub(super) const BARE: &str = "03da7c607190b221c0af1e2bf52539d84c3fe020e0568f56fd0ef3160c6ffccbe1573513280facd2158c3314ef5a84fd91d1eb6cfce4fa5bed3066ae64ba4acd";
    /// The last byte of the digest is another one.
    pub(super) const WRONG_LAST: &str = "60728d929cda7ab8dd38662db5d0b06c0000c1c624016f51d4ec697c2579fb7a6bfbf94887d6da4fdd5c76e5fbebde04f204c8888e17494ea0240b6f043d8246";
}

fn with_signature(hex: &str) -> Vec<u8> {
    let mut image = golden("v4-signed.ndz");
    for (at, byte) in image[72..136].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    image
}

#[test]
fn signature_blocks_of_another_form_are_refused() {
    let key = public_key("v4-signed.ndz");
    for forged in [
        forged::TYPE_2,
        forged::SHORT_PADDING,
        forged::NO_END,
        forged::BARE,
        forged::WRONG_LAST,
    ] {
        let answer = verify(0, &with_signature(forged), Demand::Signature(&key));
        assert!(
            matches!(answer, Err(Error::Signature { chunk: 0 })),
            "{answer:?}"
        );
    }
}

#[test]
fn bytes_behind_the_digest_in_a_signature_block_are_ignored() {
    let key = public_key("v4-signed.ndz");
    let answer = verify(0, &with_signature(forged::TAIL), Demand::Signature(&key));
    assert_eq!(answer.unwrap(), Integrity::Signature);
}
