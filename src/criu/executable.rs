//! A criu on this host: where it is, how it is started, and which version it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A criu that answered with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    /// The folder that holds it, to be bound into the sandbox.
    pub directory: PathBuf,
    /// The name of the executable in that folder.
    pub name: OsString,
    /// Whether it is a bundle, started through its own dynamic loader in `lib/`.
    pub bundled: bool,
    /// What `criu --version` said.
    pub version: Version,
}

/// A version, compared part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The first version that works on kernels from 6.13 and knows `--unprivileged` well enough.
pub const OLDEST: Version = Version(4, 1, 0);
/// The version that we ship and test.
pub const TESTED: Version = Version(4, 2, 0);

/// The dynamic loader in a bundle's `lib/`.
pub(super) const LOADER: &str = "lib/ld-linux-x86-64.so.2";
impl Criu {
    /// The command that runs it when its folder is at `directory`, without arguments. A bundle needs its own loader:
    /// the host's libc may be older than criu's.
    pub fn command(&self, directory: &Path) -> Vec<OsString> {
        let executable = directory.join(&self.name).into_os_string();
        if !self.bundled {
            return vec![executable];
        }
        let library_path = directory.join("lib").into_os_string();
        vec![directory.join(LOADER).into_os_string(), "--library-path".into(), library_path, executable]
    }
}

/// `4.2.1`, `4.2`
pub fn number(text: &str) -> Option<Version> {
    let mut parts = text.trim().split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    Some(Version(parts.next()??, parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0)))
}
