//! Names of hosts: which are allowed, and where the old one stands in /etc/hosts.

/// Linux takes no longer ones (`HOST_NAME_MAX`).
const NAME_MAX: usize = 64;

/// Checks a name: labels of letters, digits and hyphens (RFC 1123, section 2.1).
pub(super) fn parse(name: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > NAME_MAX {
        return Err(format!("a host name has at most {NAME_MAX} characters"));
    }
    match name.split('.').all(is_label) {
        true => Ok(name.to_owned()),
        false => Err(
            "a host name is made of letters, digits and hyphens, in labels with dots between them"
                .into(),
        ),
    }
}

/// The text of /etc/hosts with the new name in the line of 127.0.1.1; `None` if the old one is not there.
pub(super) fn in_hosts(text: &str, old: &str, new: &str) -> Option<String> {
    let short = new.split('.').next().unwrap_or(new);
    let replace = |word: &str| {
        if word == old {
            return Some(new.to_owned());
        }
        let domain = word.strip_prefix(old)?;
        domain.starts_with('.').then(|| format!("{short}{domain}"))
    };
    let mut changed = false;
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if old.is_empty() || line.split_whitespace().next() != Some("127.0.1.1") {
            result.push_str(line);
            continue;
        }
        let (names, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        for word in names.split_inclusive(char::is_whitespace) {
            let bare = word.trim_end();
            match replace(bare) {
                Some(name) => {
                    changed = true;
                    result.push_str(&name);
                    result.push_str(word.get(bare.len()..).unwrap_or_default());
                }
                None => result.push_str(word),
            }
        }
        result.push_str(comment);
    }
    changed.then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "node-17", "7", "node.example.org", &"x".repeat(63)] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        let long = "x".repeat(64);
        let bad = [
            "", "-a", "a-", "a..b", ".a", "a.", "a b", "a\n", "a/b", "ä", "a_b", &long,
        ];
        for bad in bad {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        let text = "127.0.0.1 localhost golden\n127.0.1.1\tgolden.example.org golden # golden\n::1 golden\n";
        let expected =
            "127.0.0.1 localhost golden\n127.0.1.1\tnode7.example.org node7 # golden\n::1 golden\n";
        assert_eq!(in_hosts(text, "golden", "node7").as_deref(), Some(expected));
        assert_eq!(in_hosts(text, "other", "node7"), None);
        assert_eq!(in_hosts(text, "", "node7"), None);
        assert_eq!(
            in_hosts("127.0.1.1 a", "a", "b.c").as_deref(),
            Some("127.0.1.1 b.c")
        );
    }
}
