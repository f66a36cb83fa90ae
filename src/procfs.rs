//! What proc(5) tells, read as bytes. A process may call itself anything (prctl(2)), and so may a directory that
//! something is mounted on: a name that is not UTF-8 must not hide the lines around it. What has ended meanwhile tells
//! nothing, and is no error.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Everything that a file of procfs says; nothing if it is gone.
pub fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// The processes that `proc`, a mounted procfs, shows, each with its directory.
pub fn processes(proc: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// What a process calls itself, for people.
pub fn name(process: &Path) -> String {
    text(&process.join("comm")).trim().to_owned()
}

/// The value in the line `KEY: value`, of `status` (proc_pid_status(5)), `fdinfo/N` or `arch_status`.
pub fn field(file: &Path, key: &str) -> Option<String> {
    value(&text(file), key).map(str::to_owned)
}

/// The same of a file that has been read, for whoever wants more than one.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// The number there.
pub fn number(file: &Path, key: &str) -> Option<u64> {
    field(file, key)?.parse().ok()
}

/// proc_pid_stat(5), of a process or a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it calls itself, for people.
    pub name: String,
    /// R, S, D, Z, T, t, …
    pub state: char,
    /// The pid of its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// When it began, in clock ticks since the host's start.
    pub started: Option<u64>,
    /// As wait(2) has it; 0 where the kernel does not tell.
    pub exit_code: i32,
}

impl Stat {
    /// Of the process or thread with this directory; `None` if it is gone.
    pub fn read(process: &Path) -> Option<Stat> {
        Stat::parse(&text(&process.join("stat")))
    }

    /// `pid (name) state parent …`; the 22nd field is the begin, and the 52nd and last the exit code.
    fn parse(text: &str) -> Option<Stat> {
        // The name may have parentheses and blanks; what follows has none.
        let (head, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.trim_end().split(' ').collect();
        Some(Stat {
            name: head.split_once(" (")?.1.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19).and_then(|ticks| ticks.parse().ok()),
            exit_code: fields.get(49).and_then(|code| code.parse().ok()).unwrap_or(0),
        })
    }
}

/// Where something is mounted, as this process sees it.
pub fn mount_points() -> Vec<PathBuf> {
    points(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// proc_pid_mountinfo(5): the fifth field is the mount point.
fn points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(OsStr::from_bytes(&unescaped(field)))).collect()
}

/// `\040` is a blank: three octal digits. A backslash is escaped, too.
fn unescaped(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(plain)
}

/// A line of proc_pid_maps(5): address, permissions, offset, device, inode, path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// Changes are seen by others.
    pub shared: bool,
    /// 0 without a file.
    pub inode: u64,
    /// Empty, a name in brackets, or a path, which may have blanks; a line end in it is `\012`.
    pub path: &'a [u8],
}

/// `/proc/PID/maps` of the process with this directory; empty if it is gone.
pub fn maps(process: &Path) -> Vec<u8> {
    fs::read(process.join("maps")).unwrap_or_default()
}

/// Its lines.
pub fn mappings(maps: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    maps.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let permissions = fields.nth(1)?;
        let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        Some(Mapping { shared: permissions.ends_with(b"s"), inode, path: fields.next()?.trim_ascii_start() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_any_name_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let zeros = "0 ".repeat(17);
        let more = "0 ".repeat(29);
        let mut stat = b"301 (a) Z \xff) Z 302 ".to_vec();
        stat.extend(format!("{zeros}1000 {more}51200\n").into_bytes());
        fs::write(dir.path().join("stat"), stat).unwrap();
        fs::write(dir.path().join("comm"), b"a) Z \xff\n").unwrap();
        fs::write(dir.path().join("status"), b"Name:\ta) Z \xff\nTracerPid:\t7\nVmSize:\t  12 kB\n").unwrap();
        let name = "a) Z \u{fffd}".to_owned();
        let (parent, session) = (302, 0);
        let expected = Stat { name: name.clone(), state: 'Z', parent, session, started: Some(1000), exit_code: 51200 };
        assert_eq!(Stat::read(dir.path()), Some(expected));
        assert_eq!(self::name(dir.path()), name);
        let status = dir.path().join("status");
        assert_eq!((number(&status, "TracerPid"), field(&status, "VmSize").as_deref()), (Some(7), Some("12 kB")));
        assert_eq!((number(&status, "Tracer"), Stat::read(Path::new("/nonexistent"))), (None, None));
        let own = Stat::read(Path::new("/proc/self")).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert!(own.started.is_some());
    }

    #[test]
    fn a_mount_point_of_any_name_is_read() {
        let text = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:5 / /a\\040b\\134c\xff rw - proc proc rw\n";
        let found = points(text);
        assert_eq!(found, [Path::new("/"), Path::new(OsStr::from_bytes(b"/a b\\c\xff"))]);
        assert!(mount_points().contains(&PathBuf::from("/")));
    }

    #[test]
    fn mappings_have_paths_or_none() {
        let maps = b"1-2 r--p 0 fe:00 1    /usr/lib/a b\n3-4 rw-s 0 00:00 0 \n4-5 rw-p 0 00:00 0\nnonsense\n";
        let found: Vec<_> = mappings(maps).map(|one| (one.shared, one.inode, one.path)).collect();
        assert_eq!(found, [(false, 1, &b"/usr/lib/a b"[..]), (true, 0, b"")]);
    }
}
