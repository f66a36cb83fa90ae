//! A file system of the test's own, which becomes read-only when it is told to, for all who have files open in it: ext4
//! does so after an error (`errors=remount-ro`), and has a file that makes one. A remount from outside would be refused
//! while something is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::local::PATIENCE;

/// More than the runs write.
const SIZE: u64 = 64 << 20;

pub struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// Whether this machine lets it be made.
    pub fn possible() -> bool {
        Path::new("/dev/loop-control").exists() && Path::new("/sys/fs/ext4").exists()
    }

    /// A new one at this place.
    pub fn mounted(place: &Path) -> Disk {
        fs::create_dir_all(place).unwrap();
        let disk = Disk { image: place.with_extension("ext4"), place: place.to_owned() };
        File::create(&disk.image).unwrap().set_len(SIZE).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&disk.image).status().unwrap();
        assert!(made.success());
        disk.mount();
        fs::remove_dir(place.join("lost+found")).unwrap();
        disk
    }

    fn mount(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]).arg(&self.image).arg(&self.place);
        assert!(mount.status().unwrap().success());
    }

    /// What has been prepared is on the disk: nothing that lies in memory only will come there when it is broken.
    pub fn sync(&self) {
        assert!(Command::new("sync").arg("-f").arg(&self.place).status().unwrap().success());
    }

    /// The file that breaks it.
    pub fn breaks(&self) -> PathBuf {
        let output = Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.place).output().unwrap();
        let device = String::from_utf8(output.stdout).unwrap();
        let name = Path::new(device.trim()).file_name().unwrap().to_owned();
        Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error")
    }

    /// Taken away, which nobody's open file prevents any more.
    pub fn gone(self) {
        let deadline = Instant::now() + PATIENCE;
        // A namespace that is just going away holds it for a moment.
        let unmounted = || Command::new("umount").arg(&self.place).stderr(Stdio::null()).status().unwrap().success();
        while !unmounted() {
            assert!(Instant::now() < deadline, "something holds {}", self.place.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).stderr(Stdio::null()).status();
        let _ = fs::remove_file(&self.image);
    }
}
