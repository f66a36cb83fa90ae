//! The packages, as `packaging/build` makes them of the binary under test. Not a part of `common`: only two test files
//! want the manual too.

#![allow(dead_code, clippy::unwrap_used, reason = "a test that cannot go on stops, and not each uses all")]

#[path = "../../packaging/manual.rs"]
mod manual;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::common::local::real_criu;

/// The Debian package and the RPM.
pub struct Packages {
    pub deb: PathBuf,
    pub rpm: PathBuf,
}

/// Made once in a test program.
pub fn packages() -> &'static Packages {
    static MADE: OnceLock<Packages> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/packages-of-the-test");
        let _ = fs::remove_dir_all(&folder);
        let pages = folder.join("manual");
        manual::write(&pages).unwrap();
        let mut build = Command::new(root.join("packaging/build"));
        build.arg(folder.join("out")).env("BINARY", env!("CARGO_BIN_EXE_condor-criu"));
        build.env("MANUAL", &pages).env("CRIU", real_criu()).stderr(Stdio::inherit());
        let output = build.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "packaging/build: {}\n{said}", output.status);
        let files: Vec<PathBuf> = said.lines().rev().take(2).map(PathBuf::from).collect();
        assert!(files.iter().all(|file| file.exists()), "{said}");
        Packages { rpm: files[0].clone(), deb: files[1].clone() }
    })
}
