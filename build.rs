//! Compiles the reaper (`src/sandbox/reaper/main.rs`), a freestanding program of one page, so that the library can
//! embed it. It is no cargo target of its own: it must not be linked with libc or with the target's flags.

use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/sandbox/reaper/main.rs";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");
    let Ok(out) = std::env::var("OUT_DIR") else { panic!("cargo sets OUT_DIR for build scripts") };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let reaper = Path::new(&out).join("reaper");
    let status = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", "reaper", "--crate-type", "bin"])
        .args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=sha1,-z,noseparate-code,-z,norelro"])
        .arg("-o")
        .arg(&reaper)
        .arg(SOURCE)
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("cannot compile {SOURCE}: {other:?}"),
    }
}
