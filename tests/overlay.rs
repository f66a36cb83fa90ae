//! criu's helper for overlays: what stat(2) answers with it is what the kernel says of a mapping, on an overlay and
//! elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::path::Path;
use std::process::Command;

use condor_criu::sandbox::criu_preload;

/// For each file: the device by stat(2) of its name, by fstat(2), and by /proc/self/maps, and whether the inodes agree.
const PROGRAM: &str = r#"
import mmap, os, sys
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        line = next(line for line in open("/proc/self/maps") if line.rstrip().endswith(name))
        major, minor = (int(number, 16) for number in line.split()[3].split(":"))
        stat = os.fstat(file.fileno())
        print(name, os.stat(name).st_dev, stat.st_dev, os.makedev(major, minor), stat.st_ino == int(line.split()[4]))
"#;

/// A lower directory on a disk and an upper one in memory, as a read-only image and what is written over it.
const OVERLAY: &str = "set -e
mount --make-rprivate /
mkdir lower memory merged
mount -t tmpfs none memory
mkdir memory/upper memory/work
echo lower >lower/below; echo x >beside
mount -t overlay -o lowerdir=lower,upperdir=memory/upper,workdir=memory/work,xino=off none merged
echo upper >merged/above
exec env LD_PRELOAD=\"$1\" python3 -c \"$2\" \"$PWD/merged/below\" \"$PWD/merged/above\" \"$PWD/beside\"
";

/// The lines of the program: name, stat(2), fstat(2), mapping, inodes equal.
fn devices(helper: &str) -> Vec<(u64, u64, u64, bool)> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", OVERLAY, "sh", helper, PROGRAM])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().unwrap();
        (number(1), number(2), number(3), words[4] == "True")
    };
    String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
}

#[test]
fn stat_names_the_device_of_the_mapping() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), criu_preload::overlay_device()).unwrap();
    let path: &Path = file.path();
    let with = devices(path.to_str().unwrap());
    assert_eq!(with.len(), 3);
    for (by_name, by_descriptor, mapped, inodes) in with {
        assert_eq!((by_name, by_descriptor, inodes), (mapped, mapped, true));
    }
    // Without it they differ on this kernel, or the test would show nothing.
    let without = devices("");
    assert!(without[..2].iter().all(|(by_name, _, mapped, _)| by_name != mapped), "{without:?}");
    assert_eq!(without[2].0, without[2].2, "{without:?}");
}
