//! What is on a disk and what of it would be saved, as a table or as JSON.

use std::io::{self, Write};

use diskmap::{Contents, DiskMap, Partition, TableKind, Volume};
use frisbee_cli::{Exit, Failure, say, units};
use serde_json::{Value, json};

use super::Cli;
use super::disk::printable;
use super::types::type_name;

/// One line: a partition, a volume in one, or what lies between them.
struct Row<'a> {
    name: String,
    type_name: String,
    contents: Option<&'a Contents>,
    size: u64,
    used: u64,
    saved: u64,
}

impl Cli {
    /// Prints the map of the source.
    pub(super) fn show_info(&self) -> Result<(), Failure> {
        let (_, map) = self.selection.open(&self.source, None)?;
        let fail = |error| Failure::new(Exit::Io, error).context("standard output");
        let mut out = io::stdout().lock();
        if self.json {
            let text = self.info_json(&map).to_string();
            return writeln!(out, "{text}").map_err(fail);
        }
        for warning in &map.warnings {
            say(&format!(
                "imagezip: {}: warning: {warning}",
                self.source.display()
            ));
        }
        self.print_table(&map, &mut out).map_err(fail)
    }

    fn print_table(&self, map: &DiskMap, out: &mut impl Write) -> io::Result<()> {
        let sector = u64::from(map.sector_size);
        writeln!(
            out,
            "{}: {}, {} sectors of {sector} bytes, {}",
            self.selection.name_in(&self.source),
            units::size(map.disk_sectors * sector),
            map.disk_sectors,
            table_name(map),
        )?;
        let rows = self.rows(map);
        let mut lines = vec![
            [
                "partition",
                "type",
                "contents",
                "label",
                "size",
                "used",
                "to save",
                "why raw",
                "features",
            ]
            .map(String::from),
        ];
        for row in &rows {
            let filesystem = row
                .contents
                .and_then(|contents| contents.filesystem.as_ref());
            let or_dash = |text: Option<String>| {
                text.filter(|text| !text.is_empty())
                    .unwrap_or_else(|| "-".into())
            };
            lines.push([
                row.name.clone(),
                or_dash(Some(row.type_name.clone())),
                or_dash(row.contents.map(|contents| contents.kind.into())),
                or_dash(filesystem.and_then(|found| found.label.as_deref().map(printable))),
                units::size(row.size),
                units::size(row.used),
                units::size(row.saved),
                or_dash(row.contents.and_then(|contents| contents.raw.clone())),
                or_dash(filesystem.map(|found| found.features.join(" "))),
            ]);
        }
        let mut widths = [0; 9];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        for line in &lines {
            let mut text = String::new();
            for (index, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                // Numbers stand on the right.
                text += &match index {
                    4..=6 => format!("{cell:>width$}  "),
                    _ => format!("{cell:<width$}  "),
                };
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    /// One row for each partition and volume, one for the rest, and the total.
    fn rows<'a>(&self, map: &'a DiskMap) -> Vec<Row<'a>> {
        let sector = u64::from(map.sector_size);
        let saved: u64 = map.saved.iter().map(|extent| extent.count * sector).sum();
        let size = map.disk_sectors * sector;
        let mut rows = Vec::new();
        let (mut inside, mut inside_saved, mut used) = (0, 0, 0);
        for partition in &map.partitions {
            let row = Row {
                name: self.selection.name_of(partition.number),
                type_name: type_name(&partition.type_id),
                contents: Some(&partition.contents),
                size: partition.count * sector,
                used: used_bytes(partition, sector),
                saved: partition.saved_sectors * sector,
            };
            inside += row.size;
            inside_saved += row.saved;
            used += row.used;
            rows.push(row);
            for volume in &partition.volumes {
                rows.push(Row {
                    name: format!("  {}", printable(&volume.name)),
                    type_name: String::new(),
                    contents: Some(&volume.contents),
                    size: volume.size_bytes,
                    used: volume_used(volume),
                    saved: volume.saved_bytes,
                });
            }
        }
        // Partitions that share sectors are counted twice.
        let (gaps, gaps_saved) = (
            size.saturating_sub(inside),
            saved.saturating_sub(inside_saved),
        );
        let rest = |name: &str, size, used, saved| Row {
            name: name.into(),
            type_name: String::new(),
            contents: None,
            size,
            used,
            saved,
        };
        if map.table != TableKind::None && gaps > 0 {
            rows.push(rest("outside", gaps, gaps_saved, gaps_saved));
        }
        rows.push(rest("total", size, (used + gaps_saved).min(size), saved));
        rows
    }

    fn info_json(&self, map: &DiskMap) -> Value {
        let sector = u64::from(map.sector_size);
        let partitions: Vec<Value> = map
            .partitions
            .iter()
            .map(|partition| {
                let mut value = contents_json(&partition.contents);
                value["number"] = partition.number.into();
                value["name"] = partition.name.clone().into();
                value["type_id"] = partition.type_id.clone().into();
                value["type"] = type_name(&partition.type_id).into();
                value["first_sector"] = partition.first.into();
                value["sectors"] = partition.count.into();
                value["size_bytes"] = (partition.count * sector).into();
                value["used_bytes"] = used_bytes(partition, sector).into();
                value["saved_bytes"] = (partition.saved_sectors * sector).into();
                let volumes = partition.volumes.iter().map(|volume| {
                    let mut value = contents_json(&volume.contents);
                    value["name"] = volume.name.clone().into();
                    value["size_bytes"] = volume.size_bytes.into();
                    value["used_bytes"] = volume_used(volume).into();
                    value["saved_bytes"] = volume.saved_bytes.into();
                    value
                });
                value["volumes"] = volumes.collect();
                value
            })
            .collect();
        let rows = self.rows(map);
        let total = rows.last();
        let warnings: Vec<String> = map.warnings.iter().map(ToString::to_string).collect();
        json!({
            "source": self.source.display().to_string(), "sector_size": map.sector_size,
            "disk_sectors": map.disk_sectors, "table": table_name(map), "partitions": partitions,
            "size_bytes": total.map(|row| row.size), "used_bytes": total.map(|row| row.used),
            "saved_bytes": total.map(|row| row.saved), "warnings": warnings,
        })
    }
}

fn contents_json(contents: &Contents) -> Value {
    let filesystem = contents.filesystem.as_ref();
    json!({
        "filesystem": contents.kind, "why_raw": contents.raw,
        "label": filesystem.and_then(|found| found.label.as_deref()),
        "uuid": filesystem.and_then(|found| found.uuid.as_deref()),
        "block_size": filesystem.map(|found| found.block_size),
        "filesystem_bytes": filesystem.map(|found| found.size_bytes),
        "features": filesystem.map(|found| &found.features),
    })
}

/// The table of a disk in words.
fn table_name(map: &DiskMap) -> String {
    match map.table {
        TableKind::None => "no partition table".into(),
        kind if map.hybrid => format!("{kind} with a hybrid MBR"),
        kind => kind.to_string(),
    }
}

/// Bytes of a partition that are in use, as its filesystem counts.
fn used_bytes(partition: &Partition, sector: u64) -> u64 {
    let size = partition.count * sector;
    let Some(filesystem) = &partition.contents.filesystem else {
        return match partition.contents.raw {
            Some(_) => size,
            // Skipped.
            None => partition.saved_sectors * sector,
        };
    };
    let unused = partition.volumes.iter();
    let unused: u64 = unused
        .map(|volume| volume.size_bytes.saturating_sub(volume_used(volume)))
        .sum();
    filesystem.used_bytes.saturating_sub(unused)
}

fn volume_used(volume: &Volume) -> u64 {
    let filesystem = volume.contents.filesystem.as_ref();
    filesystem.map_or(volume.size_bytes, |found| found.used_bytes)
}
