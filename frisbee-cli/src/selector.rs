//! Which disk of a machine is meant, for machines that nobody sits at: `serial=S3Z8`, `nvme,smallest`.
//!
//! A selector names one disk or none. Where it could mean two, nothing is guessed.

use std::fmt;
use std::str::FromStr;

use crate::disks::{Disk, Kind, plain_wwn};
use crate::{Exit, Failure};

/// What a disk must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Criterion {
    Serial(String),
    Wwn(String),
    Id(String),
    Model(String),
    Name(String),
    Nvme,
    Ssd,
    Hdd,
    Removable,
    Only,
    Smallest,
    Largest,
}

use Criterion::{Hdd, Id, Largest, Model, Name, Nvme, Only, Removable, Serial, Smallest, Ssd, Wwn};

/// Words without a value.
const WORDS: [(&str, Criterion); 7] = [
    ("nvme", Nvme),
    ("ssd", Ssd),
    ("hdd", Hdd),
    ("removable", Removable),
    ("only", Only),
    ("smallest", Smallest),
    ("largest", Largest),
];

/// Criteria that all have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Criterion>);

impl FromStr for Selector {
    type Err = String;

    /// Reads criteria with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let criteria: Vec<Criterion> = text.split(',').map(criterion).collect::<Result<_, _>>()?;
        let extremes = criteria
            .iter()
            .filter(|criterion| matches!(criterion, Smallest | Largest | Only));
        if extremes.count() > 1 {
            return Err("of smallest, largest and only, one can be meant".into());
        }
        if criteria.contains(&Ssd) && criteria.contains(&Hdd) {
            return Err("no disk is both ssd and hdd".into());
        }
        Ok(Self(criteria))
    }
}

fn criterion(text: &str) -> Result<Criterion, String> {
    let text = text.trim();
    if let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == text) {
        return Ok(word.clone());
    }
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let value = value.trim().to_owned();
    let known: fn(String) -> Criterion = match key.trim() {
        "serial" => Serial,
        "wwn" => Wwn,
        "by-id" => Id,
        "model" => Model,
        "name" => Name,
        _ => {
            return Err(format!(
                "'{text}' is none of serial=, wwn=, by-id=, model=, name=, nvme, ssd, hdd, removable, only, smallest, \
                 largest"
            ));
        }
    };
    if value.is_empty() || (key.trim() == "wwn" && plain_wwn(&value).is_none()) {
        return Err(format!(
            "'{text}': a value must follow, as in serial=S3Z8NB0K"
        ));
    }
    Ok(known(value))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, criterion) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match criterion {
                Serial(value) => write!(f, "serial={value}")?,
                Wwn(value) => write!(f, "wwn={value}")?,
                Id(value) => write!(f, "by-id={value}")?,
                Model(value) => write!(f, "model={value}")?,
                Name(value) => write!(f, "name={value}")?,
                word => {
                    let found = WORDS.iter().find(|(_, known)| known == word);
                    f.write_str(found.map_or("", |(name, _)| name))?;
                }
            }
        }
        Ok(())
    }
}

impl Criterion {
    /// Whether a disk is so; of smallest and largest only all disks together tell.
    fn holds(&self, disk: &Disk) -> bool {
        match self {
            Serial(wanted) => disk.serial.as_ref() == Some(wanted),
            Wwn(wanted) => disk.wwn.is_some() && disk.wwn == plain_wwn(wanted),
            Id(wanted) => disk.ids.iter().any(|id| matches(wanted, id)),
            Model(wanted) => {
                let lower = |text: &str| text.to_lowercase();
                let model = disk.model.as_deref().map(lower);
                model.is_some_and(|model| matches(&lower(wanted), &model))
            }
            Name(wanted) => matches(wanted, &disk.name),
            Nvme => disk.is_nvme(),
            Ssd => disk.kind == Kind::Disk && !disk.is_rotational,
            Hdd => disk.kind == Kind::Disk && disk.is_rotational,
            Removable => disk.is_removable,
            Only | Smallest | Largest => true,
        }
    }

    /// Whether it says which disk is meant, rather than of which kind.
    fn identifies(&self) -> bool {
        match self {
            Serial(_) | Wwn(_) => true,
            Id(pattern) | Name(pattern) => !pattern.starts_with(['*', '?']),
            _ => false,
        }
    }
}

impl Selector {
    /// Why a disk is not meant or must not be written, if so.
    fn refusal(&self, disk: &Disk) -> Option<String> {
        if let Some(failed) = self.0.iter().find(|criterion| !criterion.holds(disk)) {
            return Some(format!("is not {}", Self(vec![failed.clone()])));
        }
        let is_named = self.0.iter().any(Criterion::identifies);
        if let (Kind::Special(what), false) = (disk.kind, is_named) {
            return Some(format!("is no disk ({what})"));
        }
        if disk.is_removable && !is_named && !self.0.contains(&Removable) {
            return Some("is removable".into());
        }
        disk.refusal()
    }

    /// The disk that is meant.
    ///
    /// # Errors
    /// [`Exit::Target`] if there is none, with the reason for each disk that there is; or if several could be meant.
    pub fn choose<'a>(&self, disks: &'a [Disk]) -> Result<&'a Disk, Failure> {
        let fail = |message: String| {
            let message = format!("--disk {self}: {message}");
            Err(Failure::new(Exit::Target, message))
        };
        let mut fit: Vec<&Disk> = disks
            .iter()
            .filter(|disk| self.refusal(disk).is_none())
            .collect();
        let sizes = || fit.iter().map(|disk| disk.size);
        let wanted = match self.0.iter().find(|one| matches!(one, Smallest | Largest)) {
            Some(Smallest) => sizes().min(),
            Some(_) => sizes().max(),
            None => None,
        };
        if let Some(wanted) = wanted {
            fit.retain(|disk| disk.size == wanted);
        }
        match fit.as_slice() {
            [disk] => Ok(disk),
            [] => {
                let reasons: Vec<String> = disks
                    .iter()
                    // Loop devices without a file, drives without a medium.
                    .filter(|disk| disk.size > 0 || disk.kind == Kind::Disk)
                    .filter_map(|disk| Some(format!("{disk} {}", self.refusal(disk)?)))
                    .collect();
                match reasons.is_empty() {
                    true => fail("there is no disk".into()),
                    false => fail(format!("no disk is meant: {}", reasons.join("; "))),
                }
            }
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                fail(format!(
                    "could mean {}: say more, such as serial=",
                    names.join(", ")
                ))
            }
        }
    }
}

/// Whether a text is what a pattern with `*` and `?` describes.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut place) = (0, 0);
    // Where the last star is, and how far its text reaches at least.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(place) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(p) if p == c || *p == '?' => {
                at += 1;
                place += 1;
            }
            _ => match &mut star {
                Some((from, reach)) => {
                    *reach += 1;
                    (at, place) = (*from + 1, *reach);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(name: &str, size: u64) -> Disk {
        Disk {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            kind: Kind::Disk,
            size,
            model: None,
            serial: None,
            wwn: None,
            ids: Vec::new(),
            is_removable: false,
            is_rotational: false,
            is_read_only: false,
            partitions: 0,
            users: Vec::new(),
        }
    }

    /// As the definition reads.
    fn simple_match(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => simple_match(rest, text),
            (Some(('*', rest)), Some((_, behind))) => {
                simple_match(rest, text) || simple_match(pattern, behind)
            }
            (Some((p, rest)), Some((c, behind))) => {
                (p == c || *p == '?') && simple_match(rest, behind)
            }
            _ => false,
        }
    }

    fn value() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.*?-][A-Za-z0-9 _.=*?-]{0,10}[A-Za-z0-9]"
    }

    fn any_criterion() -> impl Strategy<Value = Criterion> {
        let words = WORDS.map(|(_, word)| word);
        prop_oneof![
            value().prop_map(Serial),
            value().prop_map(Wwn),
            value().prop_map(Id),
            value().prop_map(Model),
            value().prop_map(Name),
            prop::sample::select(words.to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn patterns(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            let expected = simple_match(&chars(&pattern), &chars(&text));
            prop_assert_eq!(matches(&pattern, &text), expected);
        }

        /// What is shown is read as the same.
        #[test]
        fn shown_and_read(criteria in prop::collection::vec(any_criterion(), 1..5)) {
            let selector = Selector(criteria);
            if let Ok(read) = selector.to_string().parse::<Selector>() {
                prop_assert_eq!(read, selector);
            } else {
                let extremes = selector.0.iter().filter(|one| matches!(one, Smallest | Largest | Only)).count();
                let both = selector.0.contains(&Ssd) && selector.0.contains(&Hdd);
                let wwn = selector.0.iter().any(|one| matches!(one, Wwn(text) if plain_wwn(text).is_none()));
                prop_assert!(extremes > 1 || both || wwn);
            }
        }

        #[test]
        fn any_text(text in ".{0,40}") {
            let _ = text.parse::<Selector>();
        }

        /// Whatever is asked for, nothing is chosen that must not be written, and never one of two that both fit.
        #[test]
        fn never_what_must_not_be(
            criteria in prop::collection::vec(any_criterion(), 1..3),
            shapes in prop::collection::vec((0_u64..3, any::<[bool; 5]>()), 0..6),
        ) {
            let disks: Vec<Disk> = shapes
                .iter()
                .enumerate()
                .map(|(index, (size, [removable, read_only, used, rotational, special]))| {
                    let mut disk = disk(&format!("sd{index}"), size << 30);
                    disk.is_removable = *removable;
                    disk.is_read_only = *read_only;
                    disk.is_rotational = *rotational;
                    if *used {
                        disk.users.push("it is mounted".into());
                    }
                    if *special {
                        disk.kind = Kind::Special("loop device");
                    }
                    disk
                })
                .collect();
            let selector = Selector(criteria);
            if let Ok(chosen) = selector.choose(&disks) {
                prop_assert!(chosen.refusal().is_none());
                let named = selector.0.iter().any(Criterion::identifies);
                prop_assert!(named || (chosen.kind == Kind::Disk));
                prop_assert!(named || !chosen.is_removable || selector.0.contains(&Removable));
                let rest: Vec<Disk> = disks.iter().filter(|disk| disk.name != chosen.name).cloned().collect();
                let twin = rest.iter().any(|disk| selector.refusal(disk).is_none() && disk.size == chosen.size);
                prop_assert!(!twin, "another would do as well");
            }
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            "biggest",
            "serial",
            "serial=",
            "smallest,",
            "smallest,largest",
            "ssd,hdd",
            "wwn=0x",
            "model",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
