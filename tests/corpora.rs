//! Everything that fuzzing has kept, once more: inputs that reached new code, and those that once broke something.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn what_fuzzing_has_kept_breaks_nothing() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut counts = Vec::new();
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in &files {
            // The name of one that panics is the last line.
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
        counts.push((*name, files.len()));
    }
    println!("{counts:?}");
    assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
}
