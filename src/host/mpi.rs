//! Whether a program will speak MPI. Its processes then hold TCP connections to each other, which CRIU carries without
//! privilege only in a network namespace of their own; so this must be known before the first process starts.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use elf::ElfStream;
use elf::abi::{DT_NEEDED, DT_STRTAB};
use elf::endian::AnyEndian;

/// Programs that start MPI processes: Open MPI's, MPICH's and PRRTE's.
const LAUNCHERS: [&str; 6] = ["mpirun", "mpiexec", "mpiexec.hydra", "mpiexec.mpich", "orterun", "prterun"];
/// How the libraries of Open MPI, MPICH and Intel MPI are called, followed by a version or a language.
const LIBRARY: &str = "libmpi";
/// Where the dynamic linker looks on Debian-like and EL-like systems.
const LIBRARY_PLACES: [&str; 5] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"];
/// Libraries that are looked into; a program with more is taken for one without MPI.
const LIBRARIES_MAX: usize = 500;

/// Why `program` is thought to use MPI, if it is.
pub fn uses_mpi(program: &Path, library_path: Option<&std::ffi::OsStr>) -> Option<String> {
    let name = program.file_name()?.to_string_lossy();
    // Debian has mpirun.openmpi and mpirun.mpich.
    if LAUNCHERS.iter().any(|launcher| name == *launcher || name.starts_with(&format!("{launcher}."))) {
        return Some(format!("{name} starts MPI processes"));
    }
    let mut places: Vec<PathBuf> = library_path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    places.extend(LIBRARY_PLACES.map(PathBuf::from));
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([program.to_path_buf()]);
    while let Some(file) = open.pop_front() {
        for library in needed(&file).unwrap_or_default() {
            if library.starts_with(LIBRARY) {
                return Some(format!("{name} is linked with {library}"));
            }
            if seen.len() < LIBRARIES_MAX && seen.insert(library.clone()) {
                open.extend(places.iter().map(|place| place.join(&library)).find(|path| path.is_file()));
            }
        }
    }
    None
}

/// The DT_NEEDED entries of an ELF file; an error or nothing for everything else.
fn needed(path: &Path) -> Result<Vec<String>, elf::ParseError> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(File::open(path)?)?;
    let Some(dynamic) = file.dynamic()? else { return Ok(Vec::new()) };
    let entries: Vec<(i64, u64)> = dynamic.iter().map(|entry| (entry.d_tag, entry.d_val())).collect();
    let Some((_, strings_at)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(Vec::new()) };
    let names: Vec<u64> = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED).map(|(_, at)| *at).collect();
    // DT_STRTAB is an address in memory; .dynstr is the same table by section.
    let section = file.section_headers().iter().find(|section| section.sh_addr == *strings_at).copied();
    let Some(section) = section else { return Ok(Vec::new()) };
    let strings = file.section_data_as_strtab(&section)?;
    names.into_iter().map(|at| strings.get(at as usize).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_name_and_other_programs_are_not_taken_for_them() {
        assert!(uses_mpi(Path::new("/usr/bin/mpirun"), None).is_some());
        assert!(uses_mpi(Path::new("mpiexec.openmpi"), None).is_some());
        assert!(uses_mpi(Path::new("/bin/sh"), None).is_none());
        assert!(uses_mpi(Path::new("/etc/passwd"), None).is_none());
        assert!(uses_mpi(Path::new("/no/such/program"), None).is_none());
    }

    #[test]
    fn the_libraries_of_a_program_are_found() {
        let libraries = needed(Path::new("/bin/sh")).unwrap();
        assert!(libraries.iter().any(|library| library.starts_with("libc.so")), "{libraries:?}");
    }
}
