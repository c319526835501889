//! Target `header`: the image header, and what is made ready from it.

use chunkfmt::{ChunkFormat, Cipher, ContentKey, Context, Error, HEADER_SIZE, ImageHeader, Trust};

use crate::forge;

/// First byte: bit 0 has the key check put right and the signature taken off. The rest is the header.
pub fn feed(data: &[u8]) -> bool {
    let Some((&how, rest)) = data.split_first() else {
        return false;
    };
    let mut bytes = rest.to_vec();
    if how & 1 == 1 {
        forge::repair_header(&mut bytes);
    }
    let Ok(header) = ImageHeader::parse(&bytes) else {
        assert!(Context::without_key(&bytes, &Trust::new(Vec::new(), true), &[]).is_err());
        return false;
    };
    assert!(matches!(header.sector_size, 512 | 1024 | 2048 | 4096));
    assert!((65_536..=2_097_152).contains(&header.chunk_size));
    assert_eq!(header.chunk_size % header.sector_size, 0);
    let disk_bytes = u128::from(header.disk_sectors) * u128::from(header.sector_size);
    assert!(u128::from(header.disk_bytes()) == disk_bytes && disk_bytes < 1 << 63);
    assert!(header.name.len() <= 255 && !header.name.chars().any(char::is_control));
    assert!(header.wrapped_keys().is_empty() || header.cipher() != Cipher::None);
    assert!(header.base.is_none_or(|base| !base.uuid.is_nil()));

    // Written again it is the same, but for the signature, which needs its key.
    forge::put(&mut bytes, 10, &[0]);
    forge::put(&mut bytes, 40, &[0; 16]);
    bytes.truncate(HEADER_SIZE);
    bytes[HEADER_SIZE - 512..].fill(0);
    let unsigned = ImageHeader::parse(&bytes).unwrap();
    assert_eq!(unsigned.to_bytes(None).unwrap(), bytes);

    // Nobody is trusted: an unsigned image is refused, and one of an unknown owner.
    assert!(matches!(
        Context::new(&bytes, &Trust::default(), &[]),
        Err(Error::Unsigned)
    ));
    assert!(
        matches!(
            Context::new(rest, &Trust::default(), &[]),
            Err(Error::Unsigned | Error::UntrustedSigner { .. })
        ) || how & 1 == 1
    );
    let unsigned_allowed = Trust::new(Vec::new(), true);
    let key = ContentKey::from_hex(&"07".repeat(32)).unwrap();
    match Context::new(&bytes, &unsigned_allowed, &[key]) {
        Ok(context) => {
            assert!(!context.is_verified());
            assert_eq!(context.header(), &unsigned);
        }
        Err(error) => assert!(matches!(error, Error::WrongKey), "{error}"),
    }
    if header.cipher() == Cipher::None {
        forge::repair_header(&mut bytes);
        assert!(Context::new(&bytes, &unsigned_allowed, &[]).is_ok());
    }
    if header.chunk_format == ChunkFormat::Ndz {
        assert!(header.base.is_none() && header.cipher() == Cipher::None);
    }
    true
}
