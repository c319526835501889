//! Wrapped keys against the age tool itself, in both directions, and what must be refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agekey::{Error, FILE_MAX, Identity, Recipient, stanzas, unwrap, wrap};
use bech32::{Bech32, Hrp};
use e2e::command::must;
use e2e::need::{Need, met};
use e2e::packages;
use proptest::prelude::*;
use tempfile::TempDir;

const TOOLS: [Need; 3] = [
    Need::Tool("age"),
    Need::Tool("age-keygen"),
    Need::Tool("ssh-keygen"),
];

/// 64 digits and a newline, as imagekey writes them.
const TEXT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

/// A key pair that the tools made: the private key file, and the recipient as they print it.
struct Pair {
    file: PathBuf,
    recipient: String,
}

impl Pair {
    fn x25519(directory: &Path, name: &str) -> Self {
        let file = directory.join(name);
        must("age-keygen", ["-o".as_ref(), file.as_os_str()]).unwrap();
        let recipient = must("age-keygen", ["-y".as_ref(), file.as_os_str()]).unwrap();
        Self {
            file,
            recipient: recipient.trim().to_owned(),
        }
    }

    fn ssh(directory: &Path, name: &str, options: &[&str]) -> Self {
        let file = directory.join(name);
        let arguments = ["-q", "-C", "node 7", "-f", file.to_str().unwrap()];
        must("ssh-keygen", arguments.iter().chain(options)).unwrap();
        let recipient = fs::read_to_string(file.with_extension("pub")).unwrap();
        Self {
            file,
            recipient: recipient.trim().to_owned(),
        }
    }

    fn ed25519(directory: &Path, name: &str) -> Self {
        Self::ssh(directory, name, &["-t", "ed25519", "-N", ""])
    }

    fn recipient(&self) -> Recipient {
        self.recipient.parse().unwrap()
    }

    fn identities(&self) -> Vec<Identity> {
        Identity::read_file(&fs::read_to_string(&self.file).unwrap()).unwrap()
    }

    /// What age gets out of a file; `None` if it refuses it.
    fn age_opens(&self, wrapped: &[u8]) -> Option<String> {
        let file = self.file.with_extension("age");
        fs::write(&file, wrapped).unwrap();
        let output = Command::new(packages::find("age").unwrap())
            .arg("-d")
            .arg("-i")
            .arg(&self.file)
            .arg(&file)
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }
}

/// What age makes for these recipients.
fn age_wraps(directory: &Path, recipients: &[&Pair]) -> Vec<u8> {
    let text = directory.join("text");
    let wrapped = directory.join("wrapped");
    fs::write(&text, TEXT).unwrap();
    let mut arguments = vec!["-o".to_owned(), wrapped.to_str().unwrap().to_owned()];
    for pair in recipients {
        arguments.extend(["-r".to_owned(), pair.recipient.clone()]);
    }
    arguments.push(text.to_str().unwrap().to_owned());
    must("age", arguments).unwrap();
    fs::read(&wrapped).unwrap()
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn keys_are_read_and_shown_as_the_tools_do() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let age = Pair::x25519(directory.path(), "age");
    let ssh = Pair::ed25519(directory.path(), "ssh");
    assert_eq!(age.recipient().to_string(), age.recipient);
    assert_eq!(format!("{} node 7", ssh.recipient()), ssh.recipient);
    for pair in [&age, &ssh] {
        let identities = pair.identities();
        assert_eq!(identities.len(), 1);
        assert_eq!(identities[0].recipient(), &pair.recipient());
        let secret = fs::read_to_string(&pair.file).unwrap();
        let secret = secret.lines().last().unwrap();
        assert!(!format!("{identities:?}").contains(secret));
    }
    let both = format!("# two\n\n{}\n  {}\n", age.recipient, ssh.recipient);
    assert_eq!(
        Recipient::read_file(&both).unwrap(),
        [age.recipient(), ssh.recipient()]
    );
}

#[test]
fn age_opens_what_is_wrapped_here() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let age = Pair::x25519(directory.path(), "age");
    let ssh = Pair::ed25519(directory.path(), "ssh");
    let stranger = Pair::x25519(directory.path(), "stranger");
    for recipients in [vec![&age], vec![&ssh], vec![&ssh, &age, &ssh]] {
        let named: Vec<_> = recipients.iter().map(|pair| pair.recipient()).collect();
        let wrapped = wrap(TEXT, &named).unwrap();
        for pair in recipients {
            assert_eq!(pair.age_opens(&wrapped).as_deref(), Some(TEXT));
            assert_eq!(*unwrap(&wrapped, &pair.identities()).unwrap(), TEXT);
        }
        assert_eq!(stranger.age_opens(&wrapped), None);
        assert!(matches!(
            unwrap(&wrapped, &stranger.identities()),
            Err(Error::NotForUs { .. })
        ));
    }
}

#[test]
fn what_age_wraps_is_opened_here() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let age = Pair::x25519(directory.path(), "age");
    let ssh = Pair::ed25519(directory.path(), "ssh");
    let rsa = Pair::ssh(
        directory.path(),
        "rsa",
        &["-t", "rsa", "-b", "2048", "-N", ""],
    );
    for recipients in [vec![&age], vec![&ssh], vec![&rsa, &ssh, &age]] {
        let wrapped = age_wraps(directory.path(), &recipients);
        for pair in recipients.iter().filter(|pair| pair.file != rsa.file) {
            assert_eq!(*unwrap(&wrapped, &pair.identities()).unwrap(), TEXT);
        }
        assert_eq!(stanzas(&wrapped).unwrap().len(), recipients.len());
    }
    let wrapped = age_wraps(directory.path(), &[&rsa, &age, &ssh]);
    assert_eq!(
        stanzas(&wrapped).unwrap(),
        ["ssh-rsa", "X25519", "ssh-ed25519"]
    );
    let strangers = Pair::ed25519(directory.path(), "stranger").identities();
    let Err(Error::NotForUs { kinds }) = unwrap(&wrapped, &strangers) else {
        panic!("a stranger opened it");
    };
    assert_eq!(kinds, "ssh-rsa, X25519, ssh-ed25519");
}

#[test]
fn no_altered_file_is_opened() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let age = Pair::x25519(directory.path(), "age");
    let ssh = Pair::ed25519(directory.path(), "ssh");
    let wrapped = age_wraps(directory.path(), &[&age, &ssh]);
    for pair in [&age, &ssh] {
        let identities = pair.identities();
        for position in 0..wrapped.len() {
            for bit in 0..8 {
                let mut altered = wrapped.clone();
                altered[position] ^= 1 << bit;
                assert!(
                    unwrap(&altered, &identities).is_err(),
                    "byte {position} bit {bit}"
                );
            }
            assert!(
                unwrap(&wrapped[..position], &identities).is_err(),
                "cut at {position}"
            );
        }
        let longer = [wrapped.as_slice(), b"\0"].concat();
        assert!(unwrap(&longer, &identities).is_err());
    }
}

#[test]
fn what_age_refuses_is_refused() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let age = Pair::x25519(directory.path(), "age");
    let wrapped = age_wraps(directory.path(), &[&age]);
    let end = wrapped
        .windows(5)
        .position(|window| window == b"\n--- ")
        .unwrap()
        + 1;
    let (header, rest) = wrapped.split_at(end);
    let header = std::str::from_utf8(header).unwrap();
    let lines: Vec<&str> = header.lines().collect();
    let [version, stanza, body] = lines[..] else {
        panic!("three lines were expected: {header}");
    };
    let share = stanza.rsplit(' ').next().unwrap();
    // Points of low order (RFC 7748 section 6.1): 0, 1.
    let zero = "A".repeat(43);
    let one = format!("AQ{}", "A".repeat(41));
    let altered = [
        format!("{version}\r\n{stanza}\r\n{body}\r\n"),
        format!("{version}\n{stanza} \n{body}\n"),
        format!("{version}\n{stanza} more\n{body}\n"),
        format!("{version}\n-> X25519\n{body}\n"),
        format!("{version}\n-> X25519 {share}=\n{body}\n"),
        format!("{version}\n-> X25519 {zero}\n{body}\n"),
        format!("{version}\n-> X25519 {one}\n{body}\n"),
        format!("{version}\n-> x25519 {share}\n{body}\n"),
        format!("{version}\n->  X25519 {share}\n{body}\n"),
        format!("{version}\n{stanza}\n{body}=\n"),
        format!("{version}\n{stanza}\n{}\n", &body[..42]),
        format!("{version}\n{stanza}\n\n"),
        format!("{version}\n{stanza}\n{body}AAAA\n"),
        format!("{version}\n{stanza}\n{body}\n\n"),
        format!("{version}\n{stanza}\n"),
        format!("{version}\n"),
        format!("{version}\n\n{stanza}\n{body}\n"),
        format!("{}\n{stanza}\n{body}\n", version.replace("v1", "v2")),
        format!("{version}\n{stanza}\n{body}\n{stanza}\n{body}\n"),
        format!("{version}\n-> other\n\n{stanza}\n{body}\n"),
        format!("{version}\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 18\n{body}\n"),
    ];
    let identities = age.identities();
    assert!(unwrap(&wrapped, &identities).is_ok());
    for header in altered {
        let file = [header.as_bytes(), rest].concat();
        assert_eq!(age.age_opens(&file), None, "{header}");
        assert!(unwrap(&file, &identities).is_err(), "{header}");
    }
}

#[test]
fn low_order_recipients_are_refused() {
    let hrp = Hrp::parse("age").unwrap();
    // 0, 1 and -1: points of low order (RFC 7748, section 6.1).
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    minus_one[0] = 0xec;
    minus_one[31] = 0x7f;
    for point in [[0; 32], one, minus_one] {
        let text = bech32::encode::<Bech32>(hrp, &point).unwrap();
        let error = text.parse::<Recipient>().unwrap_err();
        assert!(error.to_string().contains("low order"), "{error}");
    }
}

#[test]
fn what_is_no_recipient_is_refused_with_the_reason() {
    let cases = [
        ("", "neither"),
        ("age1", "mistyped"),
        (
            "age1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sj9hlhp",
            "mistyped",
        ),
        ("AGE-SECRET-KEY-1QQQ", "secret"),
        ("ssh-rsa AAAAB3NzaC1yc2E", "ssh-rsa keys cannot be used"),
        ("ecdsa-sha2-nistp256 AAAA", "cannot be used"),
        ("ssh-ed25519 AAAA", "not a ssh-ed25519 key"),
        ("ssh-ed25519 !", "base64"),
        ("somebody", "neither"),
    ];
    for (text, reason) in cases {
        let error = text.parse::<Recipient>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(matches!(
        Recipient::read_file("# nobody\n"),
        Err(Error::NoRecipients)
    ));
    let error = Recipient::read_file("# one\n\nsomebody\n").unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
}

#[test]
fn what_is_no_identity_is_refused_with_the_reason() {
    if !met(&TOOLS) {
        return;
    }
    let directory = scratch();
    let read = |pair: &Pair| {
        let text = fs::read_to_string(&pair.file).unwrap();
        Identity::read_file(&text).unwrap_err().to_string()
    };
    let locked = Pair::ssh(
        directory.path(),
        "locked",
        &["-t", "ed25519", "-N", "secret"],
    );
    assert!(read(&locked).contains("ssh-keygen -p"));
    let rsa = Pair::ssh(
        directory.path(),
        "rsa",
        &["-t", "rsa", "-b", "2048", "-N", ""],
    );
    assert!(read(&rsa).contains("another kind"));
    let good = Pair::ed25519(directory.path(), "good");
    let text = fs::read_to_string(&good.file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for cut in 0..lines.len() {
        assert!(Identity::read_file(&lines[..cut].join("\n")).is_err());
    }
    for (text, reason) in [
        ("", "none"),
        ("# a comment\n", "none"),
        (good.recipient.as_str(), "neither"),
        ("AGE-SECRET-KEY-1QQQQ", "mistyped"),
        ("AGE-PLUGIN-YUBIKEY-1QQQQ", "plugin"),
        ("-----BEGIN PRIVATE KEY-----", "OpenSSH"),
    ] {
        let error = Identity::read_file(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

/// An identity of these bytes, as age-keygen writes one.
fn identity(scalar: [u8; 32]) -> Identity {
    let hrp = Hrp::parse("AGE-SECRET-KEY-").unwrap();
    let text = bech32::encode_upper::<Bech32>(hrp, &scalar).unwrap();
    Identity::read_file(&text).unwrap().remove(0)
}

#[test]
fn too_many_recipients_for_an_image_are_refused() {
    let recipients: Vec<_> = (0..31)
        .map(|number| identity([number; 32]).recipient().clone())
        .collect();
    let wrapped = wrap(TEXT, &recipients[..30]).unwrap();
    assert!(wrapped.len() <= FILE_MAX);
    assert!(unwrap(&wrapped, &[identity([29; 32])]).is_ok());
    assert!(matches!(
        wrap(TEXT, &recipients),
        Err(Error::TooManyRecipients { count: 31, .. })
    ));
    assert!(matches!(wrap(TEXT, &[]), Err(Error::NoRecipients)));
    let long = "0".repeat(FILE_MAX);
    assert!(matches!(
        wrap(&long, &recipients[..1]),
        Err(Error::TextTooLong { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn texts_come_back(text in "\\PC{0,200}", scalars in prop::collection::vec(any::<[u8; 32]>(), 1..4)) {
        let identities: Vec<_> = scalars.iter().map(|scalar| identity(*scalar)).collect();
        let recipients: Vec<_> = identities.iter().map(|identity| identity.recipient().clone()).collect();
        let wrapped = wrap(&text, &recipients).unwrap();
        for identity in &identities {
            prop_assert_eq!(&*unwrap(&wrapped, std::slice::from_ref(identity)).unwrap(), &text);
        }
        prop_assert!(wrapped != wrap(&text, &recipients).unwrap());
    }

    #[test]
    fn arbitrary_text_is_no_key(text in "(-----BEGIN OPENSSH PRIVATE KEY-----\n)?[A-Za-z0-9+/=\n -]{0,300}") {
        prop_assert!(Identity::read_file(&text).is_err());
        prop_assert!(text.parse::<Recipient>().is_err());
    }
}
