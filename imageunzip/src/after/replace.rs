//! Old identifiers in text, replaced by new ones.

/// Bytes of identifiers; a run of them is one word.
fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// The text with every word that is an old identifier, in whatever case, replaced by the new one, and how many were.
/// `None` if there is none.
pub(super) fn replace(text: &[u8], ids: &[(String, String)]) -> Option<(Vec<u8>, usize)> {
    let (mut result, mut count) = (Vec::with_capacity(text.len()), 0);
    for word in text.chunk_by(|&one, &other| is_part(one) == is_part(other)) {
        let found = ids
            .iter()
            .find(|(old, _)| old.as_bytes().eq_ignore_ascii_case(word));
        match found {
            Some((_, new)) => {
                count += 1;
                result.extend_from_slice(new.as_bytes());
            }
            None => result.extend_from_slice(word),
        }
    }
    (count > 0).then_some((result, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_only() {
        let ids = [
            ("1234-ABCD".to_owned(), "5678-EF01".to_owned()),
            ("0a0b-0c".to_owned(), "x".to_owned()),
        ];
        let text =
            "UUID=1234-abcd / # 1234-ABCD0 x1234-ABCD 1234-ABCD-7 \"0A0B-0C\" \u{e4}1234-ABCD";
        let (changed, count) = replace(text.as_bytes(), &ids).unwrap();
        let expected = "UUID=5678-EF01 / # 1234-ABCD0 x1234-ABCD 1234-ABCD-7 \"x\" \u{e4}5678-EF01";
        assert_eq!(String::from_utf8(changed).unwrap(), expected);
        assert_eq!(count, 3);
        assert_eq!(replace(b"nothing of it", &ids), None);
        assert_eq!(replace(b"", &ids), None);
    }
}
