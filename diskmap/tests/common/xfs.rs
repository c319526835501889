//! XFS images without mounting: mkfs.xfs fills them, xfs_db looks into them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{has_tool, run, sparse};

pub(crate) fn tools() -> bool {
    ["mkfs.xfs", "xfs_db", "xfs_repair"]
        .iter()
        .all(|tool| has_tool(tool))
}

pub(crate) fn db(path: &Path, commands: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut script = String::new();
    for command in commands {
        writeln!(script, "{command}").unwrap();
    }
    // Without -f xfs_db takes an image for a device as well; -r keeps it from writing.
    let text = run(&format!("xfs_db -r {}", path.display()), &script);
    text.replace("xfs_db> ", "")
}

/// A field that xfs_db prints as `name = value`.
pub(crate) fn field(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    line.unwrap().trim().parse().unwrap()
}

/// A tree of files, and the prototype that makes mkfs.xfs copy them.
pub(crate) fn prototype(directory: &Path) -> (PathBuf, BTreeMap<String, Vec<u8>>) {
    use std::fmt::Write as _;
    let mut files = BTreeMap::new();
    let mut text = String::from("/nothing\n0 0\nd--755 0 0\n");
    for number in 0..400_usize {
        let name = format!("file{number}");
        let byte = u8::try_from(number % 251).unwrap();
        let contents = vec![byte; (number * 7919) % 90_000 + 1];
        let source = directory.join(&name);
        std::fs::write(&source, &contents).unwrap();
        writeln!(text, "{name} ---644 0 0 {}", source.display()).unwrap();
        files.insert(name, contents);
    }
    text.push_str("$\n");
    let path = directory.join("prototype");
    std::fs::write(&path, text).unwrap();
    (path, files)
}

/// Makes a filesystem with many files. Returns their contents by name.
pub(crate) fn make(path: &Path, mib: u64, options: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = path.with_extension("files");
    std::fs::create_dir_all(&directory).unwrap();
    let (prototype, files) = prototype(&directory);
    sparse(path, mib << 20);
    let line = format!(
        "mkfs.xfs -q -f --unsupported {options} -p {} {}",
        prototype.display(),
        path.display()
    );
    run(&line, "");
    files
}

/// Removes every other file: xfs_db clears the inode, xfs_repair frees what it had.
pub(crate) fn punch(path: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    use std::fmt::Write as _;
    let gone: Vec<String> = files.keys().step_by(2).cloned().collect();
    let mut script = String::new();
    for name in &gone {
        files.remove(name);
        writeln!(script, "path /{name}\nwrite -d core.mode 0").unwrap();
    }
    run(&format!("xfs_db -x {}", path.display()), &script);
    run(&format!("xfs_repair {}", path.display()), "");
}
