//! One executable that is condor-criu and carries CRIU with its libraries: what a submit file transfers.
//!
//! It is this executable with a compressed tar behind its end, and 64 bytes behind that which say where it begins. ELF
//! loaders do not look there. At its start it unpacks the tar into the job's own directory; condor-criu itself is
//! linked statically and CRIU comes with its own loader, so that the host's libc does not matter.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::closure::{self, Part};
use super::executable::Criu;

/// The last 64 bytes of a bundle begin with this.
const MAGIC: &[u8; 16] = b"condor-criu-bndl";
/// Bytes: magic, offset and length of the tar as little-endian u64, its blake3.
const TRAILER: usize = 64;
/// zstd's default is 3; a bundle is packed once and unpacked at each start, where the level does not matter.
const LEVEL: i32 = 19;
/// Bytes that a bundle may unpack to: CRIU with its libraries is 14 MB.
const UNPACKED_MAX: u64 = 256 * 1024 * 1024;

/// CRIU's licence.
const GPL: &str = include_str!("../../LICENSES/GPL-2.0.txt");
/// The folder, in a bundle and in a folder with CRIU, of what the licences ask for.
const LICENCES: &str = "licences";
/// [`GPL`] in it.
const LICENCE: &str = "GPL-2.0.txt";
/// Which package each file is from: lines of a file's name, a tab, and a package's name and version.
const SOURCE: &str = "SOURCE.txt";

/// Where the tar is in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    length: u64,
    digest: [u8; 32],
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Files of CRIU in it.
    pub parts: usize,
}

/// Writes `output`: this executable (without a bundle that it may carry already) and `criu` with all it needs.
pub fn make(criu: &Criu, output: &Path) -> io::Result<Made> {
    let parts = closure::of(criu)?;
    let mut me = File::open("/proc/self/exe")?;
    let own = find(&mut me)?.map_or(me.metadata()?.len(), |place| place.offset);
    let packed = pack(criu, &parts)?;
    let digest = blake3::hash(&packed);

    // Beside it, then renamed: a bundle is whole or not there.
    let name = output.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    let draft = output.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let mut write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o755).open(&draft)?;
        me.seek(SeekFrom::Start(0))?;
        if io::copy(&mut (&me).take(own), &mut file)? != own {
            return Err(io::Error::other("this executable cannot be read whole"));
        }
        file.write_all(&packed)?;
        file.write_all(MAGIC)?;
        file.write_all(&own.to_le_bytes())?;
        file.write_all(&(packed.len() as u64).to_le_bytes())?;
        file.write_all(digest.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        fs::rename(&draft, output)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    Ok(Made { bytes: own + packed.len() as u64 + TRAILER as u64, parts: parts.len() })
}

fn pack(criu: &Criu, parts: &[Part]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), LEVEL)?);
    let mut add = |name: &Path, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        tar.append_data(&mut header, name, content)
    };
    for part in parts {
        add(&part.name, 0o755, &fs::read(&part.source)?)?;
    }
    let packages = packages(criu, parts);
    add(&Path::new(LICENCES).join(LICENCE), 0o644, GPL.as_bytes())?;
    add(&Path::new(LICENCES).join(SOURCE), 0o644, source_reference(criu, parts, &packages).as_bytes())?;
    for (name, text) in copyrights(criu, &packages) {
        add(&Path::new(LICENCES).join(name), 0o644, &text)?;
    }
    tar.into_inner()?.finish()
}

/// What the licence asks for: where the source of what is carried can be had.
fn source_reference(criu: &Criu, parts: &[Part], packages: &BTreeMap<PathBuf, String>) -> String {
    let version = criu.version;
    let mut text = format!(
        "This file carries CRIU {version}, which is free software under the GNU General Public License, version 2 ({LICENCE} beside \
         this), and the libraries that it is linked with, each under the licence in the file with its package's name.\n\n\
         CRIU's source: https://github.com/checkpoint-restore/criu, tag v{version}\n\
         condor-criu is a program of its own under the Apache License 2.0; it starts CRIU as a separate process.\n\n\
         Files, and the distribution's packages that they were taken from (their sources are where the distribution\n\
         keeps its source packages):\n\n"
    );
    for part in parts {
        let package = packages.get(&part.name).map_or("not from a package", String::as_str);
        text.push_str(&format!("{}\t{package}\n", part.name.display()));
    }
    text
}

/// The packages, with their versions, that parts come from. A folder that carries CRIU notes it; of installed files
/// this host knows it.
fn packages(criu: &Criu, parts: &[Part]) -> BTreeMap<PathBuf, String> {
    if criu.bundled {
        let noted = fs::read_to_string(criu.directory.join(LICENCES).join(SOURCE)).unwrap_or_default();
        let lines = noted.lines().filter_map(|line| line.split_once('\t'));
        return lines.map(|(name, package)| (name.into(), package.to_owned())).collect();
    }
    parts.iter().filter_map(|part| Some((part.name.clone(), package_of(&part.source)?))).collect()
}

/// The Debian or RPM package, with its version, that a file belongs to.
fn package_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let said = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let owner = said(Command::new("dpkg-query").arg("-S").arg(&path))
        // Before the merge of /usr, packages knew their files by the shorter path.
        .or_else(|| {
            said(Command::new("dpkg-query").arg("-S").arg(Path::new("/").join(path.strip_prefix("/usr").ok()?)))
        });
    match owner.as_deref().and_then(|line| line.split_once(": ")) {
        Some((package, _)) => said(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", package])),
        None => said(Command::new("rpm").args(["-qf", "--qf", "%{NAME} %{VERSION}-%{RELEASE}"]).arg(&path)),
    }
}

/// The copyright files of these packages, from the folder that carries CRIU, or from where the distribution installs
/// them.
fn copyrights(criu: &Criu, packages: &BTreeMap<PathBuf, String>) -> BTreeMap<String, Vec<u8>> {
    let text = |package: &String| {
        let package = package.split(' ').next()?;
        let name = format!("{package}.txt");
        let place = match criu.bundled {
            true => criu.directory.join(LICENCES).join(&name),
            false => Path::new("/usr/share/doc").join(package).join("copyright"),
        };
        let text = fs::read(place).ok()?;
        Some((name, text))
    };
    packages.values().filter_map(text).collect()
}

/// The tar that this executable carries, if it carries one.
fn find(file: &mut File) -> io::Result<Option<Place>> {
    let size = file.metadata()?.len();
    if size < TRAILER as u64 {
        return Ok(None);
    }
    let mut trailer = [0; TRAILER];
    file.seek(SeekFrom::End(-(TRAILER as i64)))?;
    file.read_exact(&mut trailer)?;
    Ok(place(&trailer, size))
}

fn place(trailer: &[u8; TRAILER], size: u64) -> Option<Place> {
    let (magic, rest) = trailer.split_first_chunk::<16>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (length, digest) = rest.split_first_chunk::<8>()?;
    let (offset, length) = (u64::from_le_bytes(*offset), u64::from_le_bytes(*length));
    let fits = offset.checked_add(length)?.checked_add(TRAILER as u64)? == size;
    (magic == MAGIC && fits).then_some(Place { offset, length, digest: digest.try_into().ok()? })
}

/// Whether this executable is a bundle.
pub fn carried() -> bool {
    File::open("/proc/self/exe").and_then(|mut me| find(&mut me)).is_ok_and(|place| place.is_some())
}

/// Unpacks what this executable carries into the new directory `into`; `None` if it carries nothing.
pub fn unpack(into: &Path) -> io::Result<Option<PathBuf>> {
    let mut me = File::open("/proc/self/exe")?;
    let Some(place) = find(&mut me)? else { return Ok(None) };
    me.seek(SeekFrom::Start(place.offset))?;
    let mut packed = Vec::new();
    me.take(place.length).read_to_end(&mut packed)?;
    if *blake3::hash(&packed).as_bytes() != place.digest {
        return Err(io::Error::other("the CRIU that this executable carries is damaged: transfer it again"));
    }
    let mut archive = tar::Archive::new(zstd::Decoder::new(packed.as_slice())?.take(UNPACKED_MAX));
    archive.set_preserve_permissions(true);
    archive.unpack(into).map_err(with_cause)?;
    Ok(Some(into.to_path_buf()))
}

/// tar's errors name the file and keep the cause, without which they say nothing.
fn with_cause(error: io::Error) -> io::Error {
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    io::Error::other(causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trailer_that_agrees_with_the_file_counts() {
        let mut trailer = [0; TRAILER];
        trailer[..16].copy_from_slice(MAGIC);
        trailer[16..24].copy_from_slice(&1000_u64.to_le_bytes());
        trailer[24..32].copy_from_slice(&500_u64.to_le_bytes());
        assert_eq!(place(&trailer, 1564), Some(Place { offset: 1000, length: 500, digest: [0; 32] }));
        assert_eq!(place(&trailer, 1565), None);
        trailer[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(place(&trailer, 1564), None);
        assert_eq!(place(&[0; TRAILER], 64), None);
    }
}
