//! Target `age`: wrapped content keys, and the recipients and identities that they are wrapped for.

use std::sync::OnceLock;

use agekey::{Identity, Recipient, stanzas, unwrap};

/// What the seeds hold.
pub(crate) const TEXT: &str = "0707070707070707070707070707070707070707070707070707070707070707\n";

/// An identity that was made for this.
pub(crate) const IDENTITY: &str =
    "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n";

pub(crate) fn identities() -> &'static [Identity] {
    static IDENTITIES: OnceLock<Vec<Identity>> = OnceLock::new();
    IDENTITIES.get_or_init(|| Identity::read_file(IDENTITY).unwrap())
}

/// First byte: 0 for an age file, 1 for an identity file, otherwise recipients.
pub fn feed(data: &[u8]) -> bool {
    match data.split_first() {
        Some((0, file)) => age_file(file),
        Some((1, text)) => identity_file(&String::from_utf8_lossy(text)),
        Some((_, text)) => recipients(&String::from_utf8_lossy(text)),
        None => false,
    }
}

fn age_file(file: &[u8]) -> bool {
    let kinds = stanzas(file);
    if let Ok(kinds) = &kinds {
        assert!(!kinds.is_empty() && kinds.len() <= 64 && file.len() <= agekey::FILE_MAX);
        let printable = |kind: &String| kind.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(kinds.iter().all(printable), "{kinds:?}");
    }
    if let Ok(text) = unwrap(file, identities()) {
        // Who cannot compute with the recipient has nothing but the seeds.
        assert_eq!(*text, TEXT);
        assert!(kinds.is_ok());
        return true;
    }
    false
}

fn identity_file(text: &str) -> bool {
    let Ok(identities) = Identity::read_file(text) else {
        return false;
    };
    assert!((1..=64).contains(&identities.len()));
    for identity in &identities {
        let recipient = identity.recipient();
        assert_eq!(
            &recipient.to_string().parse::<Recipient>().unwrap(),
            recipient
        );
    }
    let own = identities.first().unwrap();
    let file = agekey::wrap(TEXT, &[own.recipient().clone()]).unwrap();
    assert_eq!(*unwrap(&file, &identities).unwrap(), TEXT);
    true
}

fn recipients(text: &str) -> bool {
    let Ok(recipients) = Recipient::read_file(text) else {
        return false;
    };
    for recipient in &recipients {
        let again: Recipient = recipient.to_string().parse().unwrap();
        assert_eq!(&again, recipient);
    }
    match agekey::wrap(TEXT, &recipients) {
        Ok(file) => assert!(!stanzas(&file).unwrap().is_empty()),
        Err(error) => assert!(recipients.len() > 27, "{error}"),
    }
    true
}
