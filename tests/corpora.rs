//! Everything that fuzzing has kept, once more: inputs that reached new code, and those that once broke something.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The files of a target: seeds and findings by name, and those that `fuzz/run` has kept.
fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let named = fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = named.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    if let Ok(kept) = File::open(corpora.join(format!("{name}.tar.zst"))) {
        let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(kept).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                found.push((format!("{name}: {}", entry.path().unwrap().display()), bytes));
            }
        }
    }
    found
}

#[test]
fn what_fuzzing_has_kept_breaks_nothing() {
    let mut counts = Vec::new();
    for (name, target) in targets::TARGETS {
        let inputs = inputs(name);
        for (file, bytes) in &inputs {
            // The name of one that panics is the last line.
            println!("{file}");
            target(bytes);
        }
        counts.push((*name, inputs.len()));
    }
    println!("{counts:?}");
    assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
    assert!(counts.iter().map(|(_, count)| count).sum::<usize>() > 3000, "{counts:?}");
}
