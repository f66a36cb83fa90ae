//! The compatibility helper's place: when it is preloaded, how, and what it leaves behind. What it does is in
//! `preload/`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use elf::ElfStream;
use elf::abi::{DT_NEEDED, EM_X86_64, PT_INTERP};
use elf::endian::AnyEndian;
use elf::file::Class;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Where the helper is inside the sandbox; `preload/exec.rs` knows this name too.
pub const COMPAT: &str = "/.condor-criu/compat.so";
/// How the names begin that it hides files under in `/dev/shm`; `preload/hide.rs` knows it too.
const HIDDEN: &[u8] = b".condor-criu.";
/// The variable by which the dynamic linker takes it.
const VARIABLE: &str = "LD_PRELOAD";
/// The dynamic linker of glibc on x86-64; another one has a libc of its own beside it.
const GLIBC_LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2";
/// Since this version all that the helper needs is in libc.so.6 itself (glibc's NEWS).
const GLIBC: &[u8] = b"GLIBC_2.34";
/// Names of sanitizers' libraries begin so, of gcc and of clang.
const RUNTIMES: [&str; 6] = ["libasan.", "libtsan.", "liblsan.", "libhwasan.", "libclang_rt.asan", "libclang_rt.tsan"];
/// What a program that has one in itself has as a symbol for libraries.
const RUNTIME_SYMBOLS: [&str; 4] = ["__asan_init", "__tsan_init", "__msan_init", "__lsan_init"];
/// Where libc.so.6 is on Debian-like and EL-like systems.
const LIBC: [&str; 3] = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
/// fcntl(2); libc has no name for it.
const F_SETSIG: i32 = 10;
/// A script may be interpreted by a script, but not for ever; the kernel's own limit.
const SCRIPTS: usize = 5;

/// Whether the helper is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Compat {
    /// For programs that it is made for
    #[default]
    Auto,
    /// For every program
    On,
    /// For none
    Off,
}

/// The helper that this build of condor-criu embeds.
pub fn built_in() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/compat.so"))
}

/// Why the helper is not for `program`, if so: it is for dynamically linked programs of x86-64 with a glibc that has
/// all in one library, and for scripts whose interpreter is one.
pub fn refusal(program: &Path) -> Option<String> {
    let mut program = program.to_path_buf();
    for _ in 0..SCRIPTS {
        match interpreter(&program) {
            Ok(Some(next)) => program = next,
            Ok(None) => break,
            Err(error) => return Some(format!("{}: {error}", program.display())),
        }
    }
    let name = program.display();
    match loader(&program) {
        Ok(Some(loader)) if loader == GLIBC_LOADER => {}
        Ok(Some(_)) => return Some(format!("{name} has a dynamic linker of its own")),
        Ok(None) => return Some(format!("{name} is not linked dynamically for x86-64")),
        Err(error) => return Some(format!("{name}: {error}")),
    }
    if let Some(runtime) = sanitizer(&program).unwrap_or(None) {
        return Some(format!("{name} has {runtime}, which wants to be the first"));
    }
    let new = |path: &str| fs::read(path).is_ok_and(|bytes| bytes.windows(GLIBC.len()).any(|part| part == GLIBC));
    (!LIBC.into_iter().any(new)).then(|| "this host's glibc is older than 2.34".to_owned())
}

/// The program that interprets a script: the one that `#!` names, or for `env` the one behind it.
fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    let mut line = Vec::new();
    BufReader::new(io::Read::take(File::open(program)?, 256)).read_until(b'\n', &mut line)?;
    let Some(words) = line.strip_prefix(b"#!") else { return Ok(None) };
    let mut words = words.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(words.next().map(|word| PathBuf::from(OsStr::from_bytes(word))))
}

/// What PT_INTERP of an x86-64 program says.
fn loader(program: &Path) -> Result<Option<Vec<u8>>, elf::ParseError> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(File::open(program)?)?;
    if file.ehdr.class != Class::ELF64 || file.ehdr.e_machine != EM_X86_64 {
        return Ok(None);
    }
    let Some(segment) = file.segments().iter().find(|segment| segment.p_type == PT_INTERP).copied() else {
        return Ok(None);
    };
    Ok(file.segment_data(&segment)?.split(|byte| *byte == 0).next().map(<[u8]>::to_vec))
}

/// The runtime of a sanitizer of gcc's or clang's that the program needs or has in itself: it ends the program if
/// another library comes before it.
fn sanitizer(program: &Path) -> Result<Option<String>, elf::ParseError> {
    let mut file = ElfStream::<AnyEndian, _>::open_stream(File::open(program)?)?;
    let needed: Vec<u64> = match file.dynamic()? {
        Some(dynamic) => dynamic.iter().filter(|entry| entry.d_tag == DT_NEEDED).map(|entry| entry.d_val()).collect(),
        None => return Ok(None),
    };
    let Some((symbols, strings)) = file.dynamic_symbol_table()? else { return Ok(None) };
    let library = needed.into_iter().filter_map(|at| strings.get(usize::try_from(at).ok()?).ok());
    let runtime = |name: &&str| RUNTIMES.iter().any(|runtime| name.starts_with(runtime));
    if let Some(library) = library.into_iter().find(runtime) {
        return Ok(Some(library.to_owned()));
    }
    let mut names = symbols.iter().filter_map(|symbol| strings.get(symbol.st_name as usize).ok());
    Ok(names.find(|name| RUNTIME_SYMBOLS.contains(name)).map(|name| format!("a sanitizer's runtime ({name})")))
}

/// Puts the helper before whatever the environment preloads.
pub fn preload(environment: &mut Vec<(OsString, OsString)>) {
    match environment.iter_mut().find(|(name, _)| name == VARIABLE) {
        Some((_, theirs)) => {
            let mut all = COMPAT.as_bytes().to_vec();
            all.push(b':');
            all.extend_from_slice(theirs.as_bytes());
            *theirs = OsString::from_vec(all);
        }
        None => environment.push((VARIABLE.into(), COMPAT.into())),
    }
}

/// Removes what the helper has hidden in `shm` and nobody uses any more: the kernel gives a write lease only on a file
/// that nobody else has open or mapped (fcntl(2)).
pub fn sweep(shm: BorrowedFd<'_>) {
    let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", shm.as_raw_fd())) else { return };
    for name in entries.flatten().map(|entry| entry.file_name()).filter(|name| name.as_bytes().starts_with(HIDDEN)) {
        let how = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let Ok(name) = CString::new(name.as_bytes()) else { continue };
        let Ok(file) = openat(shm, name.as_c_str(), how, Mode::empty()) else { continue };
        // SAFETY: fcntl(2) with two numbers touches no memory. The signal is for the case that somebody opens the file
        // in this very moment; SIGURG does nothing to a process that has no handler for it.
        let unused = unsafe {
            libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
        };
        if unused {
            let _ = unlinkat(shm, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn it_is_for_dynamic_programs_and_their_scripts() {
        assert_eq!(refusal(Path::new("/bin/sh")), None);
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#! /bin/sh -e\nexit\n").unwrap();
        assert_eq!(refusal(&script), None);
        fs::write(&script, "#!/nonexistent/x\n").unwrap();
        assert!(refusal(&script).unwrap().contains("/nonexistent/x"));
        let fixed = dir.path().join("reaper");
        fs::write(&fixed, super::super::plan::Plan::built_in_reaper()).unwrap();
        assert!(refusal(&fixed).unwrap().contains("not linked dynamically"));
        fs::write(&script, "nothing").unwrap();
        assert!(refusal(&script).is_some());
    }

    #[test]
    fn what_is_preloaded_already_stays() {
        let mut environment = vec![("A".into(), "b".into())];
        preload(&mut environment);
        assert_eq!(environment[1], ("LD_PRELOAD".into(), COMPAT.into()));
        environment[1].1 = "/x/y.so".into();
        preload(&mut environment);
        assert_eq!(environment[1].1, "/.condor-criu/compat.so:/x/y.so");
    }

    #[test]
    fn only_what_nobody_uses_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".condor-criu.300.1", ".condor-criu.300.2", "mine"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let held = File::open(dir.path().join(".condor-criu.300.1")).unwrap();
        let shm = File::open(dir.path()).unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        sweep(shm.as_fd());
        assert_eq!(names(), [".condor-criu.300.1", "mine"]);
        drop(held);
        sweep(shm.as_fd());
        assert_eq!(names(), ["mine"]);
    }
}
