//! On an overlay file system stat(2) and `/proc/PID/maps` may name different devices for the same file, and CRIU then refuses to save
//! any program that is mapped from there: "Failed to resolve mapping". The root of an Apptainer container is such a file system.
//!
//! An overlay without `xino=on` gives stat(2) a device of its own for each layer; what is mapped, and what
//! `/proc/self/mountinfo` says, is the device of the overlay. [`HELPER`] is preloaded into criu, never into the payload, and lets criu's
//! stat(2) answer with the overlay's. What it does is in `preload.rs`.

use std::fs;

/// Where the helper is inside the sandbox.
pub(super) const HELPER: &str = "/.condor-criu/devices.so";

/// The helper that this build of condor-criu embeds.
pub fn built_in() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/devices.so"))
}

/// Whether this mount namespace has an overlay, so that criu needs the helper.
pub(super) fn wanted() -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| text.lines().any(is_overlay))
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
