//! Writes the seeds of all fuzz targets into a directory: `cargo run -p fuzz-harness --example seeds -- testdata/fuzz`

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    for (target, name, bytes) in fuzz_harness::seeds::all() {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("seed-{name}")), bytes)?;
    }
    Ok(())
}
