//! Compiles the seven freestanding pieces that the library embeds: the reaper (`src/sandbox/reaper/main.rs`), a program
//! of one page, and six shared objects, the compatibility helper (`src/sandbox/compat/preload`) and criu's five helpers
//! (`src/sandbox/criu_preload`). They are no cargo targets of their own: they must not be linked with libc or with the
//! target's flags.

use std::path::Path;
use std::process::Command;

const REAPER: &str = "src/sandbox/reaper/main.rs";
const COMPAT: &str = "src/sandbox/compat/preload";
const CRIU_PRELOAD: &str = "src/sandbox/criu_preload";
const FREESTANDING: &str = "src/sandbox/freestanding.rs";

fn main() {
    println!("cargo:rerun-if-changed={REAPER}");
    println!("cargo:rerun-if-changed={COMPAT}");
    println!("cargo:rerun-if-changed={CRIU_PRELOAD}");
    println!("cargo:rerun-if-changed={FREESTANDING}");
    println!("cargo:rerun-if-changed=build.rs");
    let reaper = ["-C", "relocation-model=static", "-C", "target-feature=+crt-static", "-C", "link-arg=-static"];
    let layout = "-Wl,--build-id=sha1,-z,noseparate-code,-z,norelro";
    compile(REAPER, "reaper", "bin", "reaper", &reaper, layout);
    let shared = |name: &str| format!("-Wl,--build-id=sha1,-z,noseparate-code,-z,now,-soname,{name}");
    compile(&format!("{COMPAT}/lib.rs"), "compat", "cdylib", "compat.so", &[], &shared("compat.so"));
    for name in ["overlay_device", "drain_pipes", "held", "detach_dead", "mark_modified"] {
        let output = format!("{name}.so");
        compile(&format!("{CRIU_PRELOAD}/{name}.rs"), name, "cdylib", &output, &[], &shared(&output));
    }
}

fn compile(source: &str, name: &str, kind: &str, output: &str, more: &[&str], layout: &str) {
    let Ok(out) = std::env::var("OUT_DIR") else { panic!("cargo sets OUT_DIR for build scripts") };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", name, "--crate-type", kind])
        .args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args(more)
        .arg("-C")
        .arg(format!("link-arg={layout}"))
        .arg("-o")
        .arg(Path::new(&out).join(output))
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("cannot compile {source}: {other:?}"),
    }
}
