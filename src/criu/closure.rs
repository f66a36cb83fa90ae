//! criu's executable, its libraries and their loader: what must be carried so that it runs on any host.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use elf::ElfStream;
use elf::abi::PT_INTERP;
use elf::endian::AnyEndian;

use super::executable::{Criu, LOADER};

/// A file of a bundle: its name in it, and where it is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `criu`, `lib/libc.so.6`, …
    pub name: PathBuf,
    /// On this host.
    pub source: PathBuf,
}

/// All that `criu` needs to run, itself included.
///
/// # Errors
/// It is no ELF executable, or its loader does not list its libraries.
pub fn of(criu: &Criu) -> io::Result<Vec<Part>> {
    let executable = criu.directory.join(&criu.name);
    let mut parts = vec![Part { name: "criu".into(), source: executable.clone() }];
    if criu.bundled {
        for entry in std::fs::read_dir(criu.directory.join("lib"))? {
            let entry = entry?;
            if entry.metadata()?.is_file() {
                parts.push(Part { name: Path::new("lib").join(entry.file_name()), source: entry.path() });
            }
        }
        // A directory's order is its file system's, and two bundles of the same files are to be the same bytes.
        parts[1..].sort_by(|one, other| one.name.cmp(&other.name));
        return Ok(parts);
    }
    let loader = interpreter(&executable)?;
    let output = Command::new(&loader).arg("--list").arg(&executable).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{} --list: {}", loader.display(), said.trim())));
    }
    for library in listed(&String::from_utf8_lossy(&output.stdout)) {
        let (soname, path) = library.map_err(io::Error::other)?;
        parts.push(Part { name: Path::new("lib").join(soname), source: path });
    }
    parts.push(Part { name: LOADER.into(), source: loader });
    Ok(parts)
}

/// A copy of `criu` with all it needs in the new directory `into`, which runs whatever this host's libraries become.
pub fn copy(criu: &Criu, into: &Path) -> io::Result<Criu> {
    std::fs::create_dir_all(into.join("lib"))?;
    for part in of(criu)? {
        std::fs::copy(&part.source, into.join(&part.name))?;
    }
    Ok(Criu { directory: into.to_path_buf(), name: "criu".into(), bundled: true, version: criu.version })
}

/// The lines `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`; the loader itself and the vDSO have no arrow or no
/// path.
fn listed(text: &str) -> impl Iterator<Item = Result<(OsString, PathBuf), String>> + '_ {
    text.lines().filter_map(|line| {
        let (soname, rest) = line.trim().split_once(" => ")?;
        // A loader under its soname's own path is not a library.
        if soname.contains('/') {
            return None;
        }
        match rest.split(" (").next() {
            Some(path) if path.starts_with('/') => Some(Ok((soname.into(), path.into()))),
            _ => Some(Err(format!("the library {soname} is not found"))),
        }
    })
}

/// The dynamic loader that an executable names.
fn interpreter(path: &Path) -> io::Result<PathBuf> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(File::open(path)?)
        .map_err(|error| io::Error::other(format!("{} is no executable: {error}", path.display())))?;
    let segment = file.segments().iter().find(|segment| segment.p_type == PT_INTERP).copied();
    let segment = segment.ok_or_else(|| io::Error::other(format!("{} is not dynamically linked", path.display())))?;
    let bytes = file.segment_data(&segment).map_err(io::Error::other)?;
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibnl-3.so.200 => /lib/libnl-3.so.200 (0x7f)\n\t/lib64/ld.so => /lib64/ld.so (0x7f)\n";
        let found: Vec<_> = listed(text).collect();
        assert_eq!(found, [Ok(("libnl-3.so.200".into(), "/lib/libnl-3.so.200".into()))]);
        assert!(listed("libx.so => not found\n").next().unwrap().is_err());
    }

    #[test]
    fn the_closure_of_a_program_has_its_libraries_and_its_loader() {
        let sh = Criu {
            directory: "/bin".into(),
            name: "sh".into(),
            bundled: false,
            version: crate::criu::executable::OLDEST,
        };
        let names: Vec<PathBuf> = of(&sh).unwrap().into_iter().map(|part| part.name).collect();
        assert_eq!(names[0], Path::new("criu"));
        assert!(
            names.iter().any(|name| name.starts_with("lib") && name.to_string_lossy().contains("libc.so")),
            "{names:?}"
        );
        assert_eq!(names.last().unwrap(), Path::new(LOADER));
    }
}
