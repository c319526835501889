//! The text that LVM keeps its metadata in: sections, numbers, strings and lists.
//!
//! Strict: what LVM itself would not write is refused, as are duplicate names.
//! Source: LVM2 2.03, `libdm/libdm-config.c`.

use std::borrow::Cow;
use std::collections::HashSet;

/// Sections in sections; LVM writes four.
const MAX_DEPTH: u32 = 8;

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'t> {
    Number(i64),
    Text(Cow<'t, str>),
    List(Vec<Self>),
    Section(Section<'t>),
}

/// Names and what they stand for, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Section<'t> {
    entries: Vec<(&'t str, Value<'t>)>,
}

impl<'t> Section<'t> {
    pub(super) fn entries(&self) -> &[(&'t str, Value<'t>)] {
        &self.entries
    }

    fn get(&self, name: &str) -> Option<&Value<'t>> {
        let mut entries = self.entries.iter();
        entries.find(|entry| entry.0 == name).map(|entry| &entry.1)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list; a lone value counts as one.
    pub(super) fn list(&self, name: &str) -> Option<&[Value<'t>]> {
        match self.get(name)? {
            Value::List(list) => Some(list),
            Value::Section(_) => None,
            value => Some(std::slice::from_ref(value)),
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&'t str, &Self)> {
        self.entries.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((*name, section)),
            _ => None,
        })
    }
}

impl Value<'_> {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}

/// Parses a whole text; `None` if it is not well-formed.
pub(super) fn parse(text: &str) -> Option<Section<'_>> {
    let mut parser = Parser { rest: text };
    let section = parser.section(0)?;
    parser.rest.is_empty().then_some(section)
}

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| self.from(end));
        }
    }

    fn from(&self, at: usize) -> &'t str {
        self.rest.get(at..).unwrap_or_default()
    }

    fn take(&mut self, token: char) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Takes the characters that `is_part` accepts; at least one.
    fn word(&mut self, is_part: fn(char) -> bool) -> Option<&'t str> {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// Entries up to a closing brace or the end of the text, which are left.
    fn section(&mut self, depth: u32) -> Option<Section<'t>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        loop {
            self.skip_blanks();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Some(Section { entries });
            }
            let name = self.word(|c| c.is_ascii_alphanumeric() || "_-.+".contains(c))?;
            let value = if self.take('{') {
                let section = self.section(depth.saturating_add(1))?;
                if !self.take('}') {
                    return None;
                }
                Value::Section(section)
            } else if self.take('=') {
                self.value()?
            } else {
                return None;
            };
            if !names.insert(name) {
                return None;
            }
            entries.push((name, value));
        }
    }

    fn value(&mut self) -> Option<Value<'t>> {
        if !self.take('[') {
            return self.scalar();
        }
        let mut list = Vec::new();
        if self.take(']') {
            return Some(Value::List(list));
        }
        loop {
            list.push(self.scalar()?);
            if self.take(']') {
                return Some(Value::List(list));
            }
            if !self.take(',') {
                return None;
            }
        }
    }

    fn scalar(&mut self) -> Option<Value<'t>> {
        if self.take('"') {
            return self.text().map(Value::Text);
        }
        let word = self.word(|c| c.is_ascii_digit() || c == '-')?;
        word.parse().ok().map(Value::Number)
    }

    /// A string behind its opening quote. Backslashes stand before quotes and backslashes.
    fn text(&mut self) -> Option<Cow<'t, str>> {
        let end = self.rest.find(['"', '\\'])?;
        let (plain, rest) = self.rest.split_at_checked(end)?;
        if let Some(rest) = rest.strip_prefix('"') {
            self.rest = rest;
            return Some(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        let mut chars = rest.chars();
        loop {
            match chars.next()? {
                '"' => {
                    self.rest = chars.as_str();
                    return Some(Cow::Owned(text));
                }
                '\\' => text.push(chars.next().filter(|c| "\"\\".contains(*c))?),
                other => text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lvm_writes_is_read() {
        let text = "vg-1.a {\nid = \"x\"\nstatus = [\"READ\", \"WRITE\"]\nflags = []\nn = 12 # 6k\n\
                    pv0 {\nq = \"a \\\"b\\\\\"\n}\n}\n# comment\nversion = -1\n";
        let section = parse(text).unwrap();
        let group = section.section("vg-1.a").unwrap();
        assert_eq!(group.text("id"), Some("x"));
        assert_eq!(group.number("n"), Some(12));
        assert_eq!(group.list("flags"), Some(&[][..]));
        assert_eq!(group.list("status").unwrap()[1].as_text(), Some("WRITE"));
        assert_eq!(group.section("pv0").unwrap().text("q"), Some("a \"b\\"));
        assert_eq!(section.number("version"), None);
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in [
            "a",
            "a =",
            "a = [",
            "a = [1",
            "a = [1,]",
            "a = \"",
            "a = \"\\n\"",
            "a {",
            "}",
            "a = 1 }",
            "= 1",
            "a = 1\na = 2",
            "a = 1.5",
            "a = 99999999999999999999",
            "a = b",
            "a { b { } b { } }",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        let deep = "a { ".repeat(100_000);
        assert_eq!(parse(&deep), None);
    }
}
