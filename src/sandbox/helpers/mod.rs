//! Five small shared objects that are preloaded into criu, never into the payload.
//!
//! [`DRAINED`]: criu moves the payload's memory into our pipes with splice(2), which copies nothing: what waits in a pipe are the very pages
//! of the stopped process. criu then goes on, and to clean up it runs system calls inside that process, for which it writes the
//! instruction at the begin of the first executable mapping and takes it away again. A page that we read from the pipe at such a moment has that
//! instruction in it: a restore found no ELF header in a vdso, and a just-in-time compiler's code would have been damaged without a word. So an image is
//! closed only when its pipe is empty; criu waits for that before it goes on. What it does is in `drained.rs`.
//!
//! [`DEVICES`], only where there is an overlay: on an overlay file system stat(2) and `/proc/PID/maps` may name different devices for the same
//! file, and CRIU then refuses to save any program that is mapped from there: "Failed to resolve mapping". The root of an Apptainer container is
//! such a file system. An overlay without `xino=on` gives stat(2) a device of its own for each layer; what is mapped, and what
//! `/proc/self/mountinfo` says, is the device of the overlay. The helper lets criu's stat(2) answer with the overlay's. What it does is in
//! `devices.rs`.
//!
//! [`HELD`]: criu runs an action script when every image has been written and the tasks are still held, and lets them go on if that fails. The helper stands for the script: it connects to a socket of ours and waits until we close it: meanwhile the archive is
//! written and committed. So no task is ever stopped by a signal, which its parent would see. At a restore it waits in the same way before the
//! tasks run, until their files have the times and modes that they had. What it does is in `held.rs`.
//!
//! [`RELEASED`], only for a restore: criu lets the restored tasks go one after the other (its `finalize_restore_detach`), and each runs from then on. One that was about to end
//! its children, or all threads of its process, may do so before criu comes to them, and criu's restore would fail: "Unable to detach". Such a task has been
//! restored and has ended since; the helper says so to criu. What it does is in `released.rs`.
//!
//! [`TOUCHING`], only for a dump: a criu that is killed while it works inside a process leaves that damaged, with another instruction or with other
//! registers than its own. The helper says when that is so ([`touching`]). What it does is in `touching.rs`.
//!
//! Both [`TOUCHING`] and [`RELEASED`] see to it that what a dump interrupts goes on: criu lets sleeps and waits with a timeout return EINTR, because only the
//! kernel has what it takes to start them again. The helpers note which call a task was in and when its time is over, and have the kernel start it again when the
//! task is let go, after the dump or in a restore. What they do is in `calls/mod.rs`.

use std::fs;
use std::path::Path;

use super::message::CriuJob;
use super::step::StepFailed;

const DRAINED: &str = "/.condor-criu/drained.so";
const DEVICES: &str = "/.condor-criu/devices.so";
const HELD: &str = "/.condor-criu/held.so";
const RELEASED: &str = "/.condor-criu/released.so";
const TOUCHING: &str = "/.condor-criu/touching.so";
/// Made by [`TOUCHING`] before criu changes a process, in a place that only criu and the init write to. Removed when criu has put
/// everything back.
const TOUCHED: &str = "/.condor-criu/run/touching";

/// The helper for overlays that this build of condor-criu embeds.
pub fn devices() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/devices.so"))
}

/// The helper for pipes that this build of condor-criu embeds.
pub fn drained() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/drained.so"))
}

fn released() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/released.so"))
}

/// Puts them where criu will find them, by `write(path in the sandbox, what it is, content)`.
pub(super) fn install(write: impl Fn(&str, &str, &[u8]) -> Result<(), StepFailed>) -> Result<(), StepFailed> {
    write(DRAINED, "criu's helper for pipes", drained())?;
    write(DEVICES, "criu's helper for overlays", devices())?;
    write(HELD, "criu's helper for the commit", include_bytes!(concat!(env!("OUT_DIR"), "/held.so")))?;
    write(RELEASED, "criu's helper for a restore's end", released())?;
    write(TOUCHING, "criu's helper for a dump", include_bytes!(concat!(env!("OUT_DIR"), "/touching.so")))
}

/// What criu gets in its environment.
pub(super) fn preload(job: CriuJob) -> String {
    let overlay = fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| text.lines().any(is_overlay));
    let more = [
        (overlay, DEVICES),
        (job == CriuJob::Restore, RELEASED),
        (job == CriuJob::Dump, TOUCHING),
        (job == CriuJob::Dump, HELD),
    ];
    let more = more.into_iter().filter_map(|(wanted, name)| wanted.then_some(name));
    format!("LD_PRELOAD={}", [DRAINED, HELD].into_iter().chain(more).collect::<Vec<_>>().join(":"))
}

/// Forgets what an earlier criu has left.
pub(super) fn forget() {
    let _ = fs::remove_file(TOUCHED);
}

/// Whether criu has changed something in a process that it has not put back.
pub(super) fn touching() -> bool {
    Path::new(TOUCHED).exists()
}

/// proc_pid_mountinfo(5): the file system's type follows the field that is a hyphen.
fn is_overlay(line: &str) -> bool {
    line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some("overlay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_told_by_its_type() {
        assert!(is_overlay("112 62 0:49 / / rw,nodev,relatime unbindable - overlay overlay ro,lowerdir=/a:/b"));
        assert!(is_overlay("112 62 0:49 /usr /usr rw shared:1 master:2 - overlay none rw"));
        assert!(!is_overlay("78 76 254:0 /overlay /overlay rw,relatime - ext4 overlay rw"));
        assert!(!is_overlay(""));
    }
}
