//! From a stopped process tree to a committed checkpoint. Runs in a thread of its own: the supervisor goes on listening.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::checkpoint::archive::{Compression, Kind, Meta, Mtime, Summary, WriteOptions, Writer};
use crate::checkpoint::manifest::{Cost, Input};
use crate::checkpoint::{Draft, Inputs, Manifest, NotCarried, inventory};

/// Prefix of criu's images in the archive.
pub const IMAGES: &str = "images";
/// Prefix of the scratch directory's files in the archive.
pub const WORK: &str = "work";
/// Prefix of `/dev/shm` in the archive.
pub const SHM: &str = "shm";
/// The reaper's executable in the archive: CRIU wants the same file at a restore, and a later condor-criu may have another.
pub const REAPER: &str = "sandbox/reaper";

/// What is to be saved, and where it lies.
pub struct Job {
    /// The scratch directory on this host.
    pub scratch: PathBuf,
    /// Where the draft is written; in the same file system as `target`.
    pub state_dir: PathBuf,
    /// The checkpoint.
    pub target: PathBuf,
    /// A path to the sandbox's `/dev/shm`.
    pub shm: PathBuf,
    /// The reaper's executable.
    pub reaper: Vec<u8>,
    /// Which of the scratch directory's entries stay out.
    pub not_carried: NotCarried,
    /// What need not be carried.
    pub inputs: Arc<Mutex<Inputs>>,
    /// Everything of the manifest that is known before packing.
    pub manifest: Manifest,
    /// When the dump began.
    pub began: Instant,
    /// How to pack.
    pub compression: Compression,
    /// With how many threads.
    pub threads: usize,
}

/// A committed checkpoint.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its size in bytes.
    pub bytes: u64,
    /// Seconds from the dump's begin until it was durable.
    pub seconds: f64,
}

/// A checkpoint that is being written.
pub struct Saver {
    job: Job,
    draft: Draft,
    writer: Writer,
}

impl Saver {
    /// Opens the draft.
    pub fn begin(job: Job) -> Result<Saver, String> {
        let (draft, file) =
            Draft::create(&job.state_dir, &job.target).map_err(|error| format!("cannot create the draft: {error}"))?;
        let options = WriteOptions { compression: job.compression, threads: job.threads };
        let writer = Writer::create(file, options).map_err(|error| error.to_string())?;
        Ok(Saver { job, draft, writer })
    }

    /// Packs criu's images from a directory, the files and `/dev/shm`, and commits.
    pub fn pack(self, images: &Path) -> Result<Committed, String> {
        let packed = (|| {
            self.add_images(images)?;
            self.add_reaper()?;
            let inputs = self.add_work()?;
            self.add_tree(&self.job.shm, SHM, inventory::walk(&self.job.shm, &NotCarried::default())?)?;
            Ok::<_, io::Error>(inputs)
        })();
        let inputs = packed.map_err(|error| format!("cannot pack: {error}"))?;
        self.commit(inputs)
    }

    fn commit(self, inputs: Vec<Input>) -> Result<Committed, String> {
        let mut manifest = self.job.manifest;
        manifest.inputs = inputs;
        manifest.created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        manifest.cost = Cost { frozen_seconds: self.job.began.elapsed().as_secs_f64(), ..manifest.cost };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| error.to_string())?;
        let Summary { bytes_written, .. } =
            self.writer.finish(&text).map_err(|error| format!("cannot pack: {error}"))?;
        self.draft.commit().map_err(|error| format!("cannot commit: {error}"))?;
        Ok(Committed { manifest, bytes: bytes_written, seconds: self.job.began.elapsed().as_secs_f64() })
    }

    fn add_images(&self, images: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(images)?.collect::<Result<_, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                let name = Path::new(IMAGES).join(entry.file_name());
                self.writer.add_file(meta(&name, Kind::File, &metadata), &File::open(entry.path())?)?;
            }
        }
        Ok(())
    }

    fn add_reaper(&self) -> io::Result<()> {
        let meta = Meta::file(REAPER, self.job.reaper.len() as u64);
        Ok(self.writer.add(meta, Some(&mut self.job.reaper.as_slice()))?)
    }

    /// The scratch directory; returns the inputs that were left out.
    fn add_work(&self) -> io::Result<Vec<Input>> {
        let mut known = self.job.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while known.digest_one(&self.job.scratch) {}
        let mut inputs = Vec::new();
        let mut carried = Vec::new();
        for (path, metadata) in inventory::walk(&self.job.scratch, &self.job.not_carried)? {
            match known.unchanged(&path, &metadata) {
                Some(input) => inputs.push(input),
                None => carried.push((path, metadata)),
            }
        }
        drop(known);
        self.add_tree(&self.job.scratch, WORK, carried)?;
        Ok(inputs)
    }

    fn add_tree(&self, base: &Path, prefix: &str, entries: Vec<(PathBuf, Metadata)>) -> io::Result<()> {
        let mut linked: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for (path, metadata) in entries {
            let name = Path::new(prefix).join(&path);
            let full = base.join(&path);
            let kind = metadata.file_type();
            if kind.is_dir() {
                self.writer.add(meta(&name, Kind::Dir, &metadata), None)?;
            } else if kind.is_symlink() {
                let mut meta = meta(&name, Kind::Symlink, &metadata);
                meta.link = Some(crate::checkpoint::archive::name::Name::new(fs::read_link(&full)?.as_os_str()));
                self.writer.add(meta, None)?;
            } else if kind.is_fifo() {
                self.writer.add(meta(&name, Kind::Fifo, &metadata), None)?;
            } else if kind.is_file() {
                let first = (metadata.nlink() > 1)
                    .then(|| linked.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone()).clone());
                match first {
                    Some(first) if first != name => {
                        let mut meta = meta(&name, Kind::Hardlink, &metadata);
                        meta.link = Some(crate::checkpoint::archive::name::Name::new(first.as_os_str()));
                        self.writer.add(meta, None)?;
                    }
                    _ => {
                        // Not through a link that took its place since: only what was listed is carried.
                        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&full);
                        let file = file.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
                        self.writer.add_file(meta(&name, Kind::File, &metadata), &file)?;
                    }
                }
            }
            // Sockets are made again by criu; devices cannot be made without privilege, so there are none.
        }
        Ok(())
    }
}

fn meta(name: &Path, kind: Kind, metadata: &Metadata) -> Meta {
    let size = if kind == Kind::File { metadata.len() } else { 0 };
    let mut meta = Meta::file(name.as_os_str(), size);
    meta.kind = kind;
    meta.mode = metadata.mode() & 0o7777;
    meta.mtime = Mtime { s: metadata.mtime(), ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) };
    meta
}

/// Removes the hard links that criu left beside deleted files when a dump succeeded but the payload goes on.
pub fn remove_link_remaps(scratch: &Path, not_carried: &NotCarried) {
    let is_remap = |path: &Path| {
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        name.strip_prefix(b"link_remap.")
            .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    for (path, metadata) in inventory::walk(scratch, not_carried).unwrap_or_default() {
        if metadata.is_file() && is_remap(&path) {
            let _ = fs::remove_file(scratch.join(path));
        }
    }
}
