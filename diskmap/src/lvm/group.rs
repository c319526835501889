//! A volume group by its metadata: which extents of one physical volume are whose.
//!
//! Only a visible volume of linear segments on this one physical volume, which nothing else is
//! made from, is looked into. The blocks that a filesystem calls free in any other may be in use:
//! a snapshot reads them from its origin, a mirror keeps its log in them.
//!
//! Source: LVM2 2.03, `lib/format_text/import_vsn1.c`, `export.c` and `flags.c`.

use std::collections::HashSet;

use super::NAME;
use super::config::{Section, Value};
use super::label::{Label, SECTOR};
use crate::Cause;
use crate::error::Corrupt;
use crate::extent::Extent;
use crate::filesystem::Inner;

const METADATA: &str = "LVM metadata text";
const VOLUME: &str = "LVM logical volume";

/// Segments that name extents of physical volumes: linear ones, and stripes.
const STRIPED: &str = "striped";
/// Segments made of other volumes, or of nothing; and all whose names begin with `raid`.
const INDIRECT: [&str; 12] = [
    "error",
    "zero",
    "mirror",
    "snapshot",
    "thin-pool",
    "thin",
    "cache-pool",
    "cache",
    "writecache",
    "vdo-pool",
    "vdo",
    "integrity",
];

/// One physical volume of a group.
pub(super) struct Group {
    pub(super) name: String,
    /// Bytes.
    pub(super) extent_size: u64,
    /// All extents of the physical volume, in bytes of the window.
    pub(super) data: Extent,
    /// Those that are a volume's, in bytes of the window; sorted and disjoint.
    pub(super) used: Vec<Extent>,
    pub(super) volumes: Vec<Inner>,
}

/// The one group that a text describes, with its name.
pub(super) fn of_text<'s, 't>(text: &'s Section<'t>) -> Result<(&'t str, &'s Section<'t>), Cause> {
    let known = text.text("contents") == Some("Text Format Volume Group")
        && text.number("version") == Some(1);
    let mut sections = text.sections();
    match (known, sections.next(), sections.next()) {
        (true, Some(group), None) => Ok(group),
        _ => Err(bad("is not that of one volume group")),
    }
}

/// Reads the group `name`, for the physical volume with this label.
pub(super) fn read(name: &str, group: &Section<'_>, label: &Label) -> Result<Group, Cause> {
    let sections = [
        "physical_volumes",
        "logical_volumes",
        "historical_logical_volumes",
    ];
    if group.sections().any(|(name, _)| !sections.contains(&name)) {
        return Err(bad("has sections of an unknown kind"));
    }
    if group.text("format").is_some_and(|format| format != "lvm2") {
        return Err(unsupported("has metadata of another format"));
    }
    if group.text("lock_type").is_some_and(|kind| kind != "none") {
        return Err(unsupported("is shared between hosts"));
    }
    let only = |section: &Section<'_>, key, known: &[&str]| {
        words(section, key).is_some_and(|words| words.iter().all(|word| known.contains(word)))
    };
    if !only(group, "status", &["RESIZEABLE", "READ", "WRITE"])
        || !only(group, "flags", &["NOAUTOACTIVATE"])
    {
        return Err(unsupported(
            "is exported, clustered, or in another state that is not usual",
        ));
    }
    let empty = Section::default();
    let physical = group.section("physical_volumes").unwrap_or(&empty);
    let logical = group.section("logical_volumes").unwrap_or(&empty);
    let is_usual = |section: &Section<'_>| {
        only(section, "status", &["ALLOCATABLE"]) && only(section, "flags", &[])
    };
    if !physical.sections().all(|(_, section)| is_usual(section)) {
        return Err(unsupported(
            "has a physical volume that is missing or exported",
        ));
    }
    let uuid = label.uuid_text();
    let mut ours = physical
        .sections()
        .filter(|(_, section)| section.text("id") == Some(&uuid));
    let (Some((ours, section)), None) = (ours.next(), ours.next()) else {
        return Err(bad("does not list this physical volume once"));
    };
    let (extent_size, data) = geometry(group, section, label)?;
    let reader = Reader {
        extent_size,
        data,
        physical: physical.sections().map(|(name, _)| name).collect(),
        ours,
        logical,
        names: logical.sections().map(|(name, _)| name).collect(),
        references: references(logical),
    };
    let (used, volumes) = reader.volumes(name)?;
    Ok(Group {
        name: name.to_owned(),
        extent_size,
        data,
        used,
        volumes,
    })
}

/// Size of an extent and the place of all, in bytes.
fn geometry(
    group: &Section<'_>,
    physical: &Section<'_>,
    label: &Label,
) -> Result<(u64, Extent), Cause> {
    let bytes = |section: &Section<'_>, key| section.number(key)?.checked_mul(SECTOR);
    let size = bytes(group, "extent_size").filter(|&size| size > 0);
    let start = bytes(physical, "pe_start");
    let len = size
        .zip(physical.number("pe_count"))
        .and_then(|(size, n)| size.checked_mul(n));
    let (Some(size), Some(start), Some(len)) = (size, start, len) else {
        return Err(bad("lacks extent_size, pe_start or pe_count"));
    };
    if start != label.data_start {
        return Err(Corrupt::Field {
            structure: METADATA,
            field: "pe_start",
            value: start.div_euclid(SECTOR),
        }
        .into());
    }
    if start
        .checked_add(len)
        .is_none_or(|end| end > label.device_size)
    {
        return Err(Corrupt::Field {
            structure: METADATA,
            field: "pe_count",
            value: len.div_euclid(size),
        }
        .into());
    }
    let data = Extent {
        first: start,
        count: len,
    };
    Ok((size, data))
}

struct Reader<'s, 't> {
    extent_size: u64,
    data: Extent,
    /// Names of physical volumes, in the text.
    physical: HashSet<&'t str>,
    /// That of this one.
    ours: &'t str,
    logical: &'s Section<'t>,
    /// Names of logical volumes, in the text.
    names: HashSet<&'t str>,
    /// Names of what volumes are made from.
    references: HashSet<&'s str>,
}

/// What a segment says.
struct Segment {
    /// Extents of this physical volume, in bytes of the window.
    pieces: Vec<Extent>,
    /// One piece, with all of the segment.
    linear: bool,
}

impl Reader<'_, '_> {
    /// What volumes claim, and the volumes with pieces here.
    fn volumes(&self, group: &str) -> Result<(Vec<Extent>, Vec<Inner>), Cause> {
        let mut used = Vec::new();
        let mut volumes = Vec::new();
        for (name, volume) in self.logical.sections() {
            let segments = self.segments(volume)?;
            let linear = segments.iter().all(|segment| segment.linear);
            let pieces: Vec<Extent> = segments.into_iter().flat_map(|one| one.pieces).collect();
            used.extend_from_slice(&pieces);
            let why = self.why_raw(name, volume, linear);
            if !pieces.is_empty() {
                volumes.push(Inner {
                    name: format!("{group}/{name}"),
                    pieces,
                    raw: why.map(str::to_owned),
                });
            }
        }
        used.sort_unstable();
        let mut pairs = used.iter().zip(used.iter().skip(1));
        if let Some((_, next)) = pairs.find(|(one, next)| one.overlaps(next)) {
            let kind = Corrupt::Conflict {
                structure: VOLUME,
                block: next.first,
            };
            return Err(kind.into());
        }
        Ok((used, volumes))
    }

    fn why_raw(&self, name: &str, volume: &Section<'_>, linear: bool) -> Option<&'static str> {
        let only = |key, known: &[&str]| {
            words(volume, key).is_some_and(|words| words.iter().all(|word| known.contains(word)))
        };
        let visible = words(volume, "status").is_some_and(|words| words.contains(&"VISIBLE"));
        if !linear {
            Some("a logical volume that is not linear on this device")
        } else if self.references.contains(name) {
            Some("a part or the origin of another logical volume")
        } else if !visible {
            Some("a logical volume that is not visible")
        } else if !only("status", &["READ", "WRITE", "VISIBLE", "FIXED_MINOR"])
            || !only("flags", &["ACTIVATION_SKIP", "NOAUTOACTIVATE"])
        {
            Some("a logical volume in an unusual state")
        } else {
            None
        }
    }

    /// The segments of a volume, in its order.
    fn segments(&self, volume: &Section<'_>) -> Result<Vec<Segment>, Cause> {
        let mut segments = Vec::new();
        let mut position = 0_u64;
        // LVM writes them in order.
        for (number, (name, segment)) in (1_u64..).zip(volume.sections()) {
            if name != format!("segment{number}") {
                return Err(bad("has segments out of order"));
            }
            let start = segment.number("start_extent");
            let count = segment.number("extent_count").filter(|&count| count > 0);
            let count = count
                .filter(|_| start == Some(position))
                .ok_or_else(|| bad("has segments that do not follow one another"))?;
            position = position.saturating_add(count);
            segments.push(self.segment(segment, count)?);
        }
        let recorded = volume.number("segment_count");
        if recorded != u64::try_from(segments.len()).ok() || segments.is_empty() {
            return Err(bad("has a wrong segment_count"));
        }
        Ok(segments)
    }

    fn segment(&self, segment: &Section<'_>, count: u64) -> Result<Segment, Cause> {
        let kind = segment.text("type").unwrap_or_default();
        if kind != STRIPED {
            if !INDIRECT.contains(&kind) && !kind.starts_with("raid") {
                return Err(unsupported("has segments of an unknown type"));
            }
            // Old mirrors, and volumes being moved.
            let mut names = Vec::new();
            texts(segment, &mut names);
            if names.iter().any(|name| self.physical.contains(name)) {
                return Err(unsupported(
                    "has mirrors on bare extents, or is being moved",
                ));
            }
            return Ok(Segment {
                pieces: Vec::new(),
                linear: false,
            });
        }
        let stripes = segment.list("stripes").unwrap_or_default();
        let wanted = segment.number("stripe_count").filter(|&wanted| wanted > 0);
        let (areas, rest) = stripes.as_chunks::<2>();
        let wanted = wanted
            .filter(|_| rest.is_empty())
            .filter(|&wanted| u64::try_from(areas.len()) == Ok(wanted))
            .filter(|&wanted| count.is_multiple_of(wanted))
            .ok_or_else(|| bad("has a bad list of stripes"))?;
        let each = count.checked_div(wanted).unwrap_or(count);
        let mut pieces = Vec::new();
        for [name, first] in areas {
            let area = name.as_text().zip(first.as_number());
            let (name, first) = area.ok_or_else(|| bad("has a bad list of stripes"))?;
            if name == self.ours {
                pieces.push(self.piece(first, each)?);
            } else if !self.physical.contains(name) && !self.names.contains(name) {
                return Err(bad("has stripes on an unknown volume"));
            }
        }
        Ok(Segment {
            linear: areas.len() == 1 && pieces.len() == 1,
            pieces,
        })
    }

    /// Extents of this physical volume, in bytes of the window.
    fn piece(&self, first: u64, count: u64) -> Result<Extent, Cause> {
        let outside = || {
            Cause::from(Corrupt::Outside {
                structure: VOLUME,
                block: first,
            })
        };
        let piece = first
            .checked_mul(self.extent_size)
            .and_then(|at| self.data.first.checked_add(at))
            .zip(count.checked_mul(self.extent_size))
            .map(|(first, count)| Extent { first, count })
            .ok_or_else(outside)?;
        if piece.first.checked_add(piece.count).is_none() || !self.data.covers(&piece) {
            return Err(outside());
        }
        Ok(piece)
    }
}

/// All words that segments name, except for their own types.
fn references<'s>(logical: &'s Section<'_>) -> HashSet<&'s str> {
    let mut names = Vec::new();
    let volumes = logical.sections().flat_map(|(_, volume)| volume.sections());
    volumes.for_each(|(_, segment)| texts(segment, &mut names));
    names.into_iter().collect()
}

/// All strings in a section, except for its type.
fn texts<'s>(section: &'s Section<'_>, found: &mut Vec<&'s str>) {
    for (name, value) in section.entries() {
        match value {
            Value::Text(text) if *name != "type" => found.push(text),
            Value::List(list) => found.extend(list.iter().filter_map(Value::as_text)),
            Value::Section(section) => texts(section, found),
            _ => {}
        }
    }
}

/// A list of strings; empty if there is none, `None` if it holds something else.
fn words<'s>(section: &'s Section<'_>, key: &str) -> Option<Vec<&'s str>> {
    let list = section.list(key).unwrap_or_default();
    list.iter().map(Value::as_text).collect()
}

fn bad(problem: &'static str) -> Cause {
    let kind = Corrupt::Structure {
        structure: METADATA,
        problem,
    };
    kind.into()
}

fn unsupported(what: &'static str) -> Cause {
    Cause::unsupported(NAME, what)
}
