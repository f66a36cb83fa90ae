//! From a stopped process tree to a committed checkpoint. Runs in a thread of its own: the supervisor goes on listening.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::wall_clock;
use crate::checkpoint::archive::{Kind, Meta, Mtime, Summary, WriteOptions, Writer};
use crate::checkpoint::manifest::Input;
use crate::checkpoint::streaming::ArchiveSink;
use crate::checkpoint::{Draft, Inputs, Manifest, NotCarried, Place, inventory};
use crate::criu::stream::{Cancel, Capture, Captured, Held, StreamError};
use crate::host::files;

/// Prefix of the scratch directory's files in the archive.
pub const WORK: &str = "work";
/// Prefix of `/dev/shm` in the archive.
pub const SHM: &str = "shm";
/// Prefix of the host's files in the archive.
pub const HOST: &str = "host";
/// The reaper's executable in the archive: CRIU wants the same file at a restore, and a later condor-criu may have another.
pub const REAPER: &str = "sandbox/reaper";
/// The compatibility helper in the archive, for the same reason.
pub const COMPAT: &str = "sandbox/compat.so";

/// What must be known before criu begins.
pub struct Target {
    /// Where the draft is written; in the same file system as `place`.
    pub state_dir: PathBuf,
    /// Where criu finds our socket.
    pub images: PathBuf,
    /// Where the checkpoint goes.
    pub place: Place,
    /// When the dump began.
    pub began: Instant,
    /// How to pack.
    pub options: WriteOptions,
}

/// What is saved when the tree is stopped.
pub struct Stopped {
    /// The scratch directory on this host.
    pub scratch: PathBuf,
    /// A path to the sandbox's `/dev/shm`.
    pub shm: PathBuf,
    /// A path to the sandbox's root.
    pub root: PathBuf,
    /// The reaper's executable.
    pub reaper: Vec<u8>,
    /// The compatibility helper, if the payload has it.
    pub compat: Option<Vec<u8>>,
    /// Which of the scratch directory's entries stay out.
    pub not_carried: NotCarried,
    /// What need not be carried.
    pub inputs: Arc<Mutex<Inputs>>,
    /// Everything of the manifest that is known before packing.
    pub manifest: Manifest,
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

/// Saves the files of a payload that has ended, with its status in the manifest: there are no images.
pub fn finished(
    target: Target,
    stopped: Stopped,
    done: impl FnOnce(Result<Committed, String>) + Send + 'static,
) -> io::Result<()> {
    let (draft, file) = Draft::create(&target.state_dir, target.place.clone())?;
    let options = target.options;
    let writer = Writer::create(file, options)?;
    let work = move || {
        done(
            Packer { stopped, draft, writer, began: target.began, unpacked: Cell::new(0), still: Box::new(|| true) }
                .pack(),
        )
    };
    std::thread::Builder::new().name("save".into()).spawn(work).map(drop)
}

/// A checkpoint that is being taken: a thread that takes criu's images as they come, says when criu waits with the tree held, and
/// then packs the rest.
pub struct Saving {
    go: Option<Sender<Stopped>>,
    cancel: Cancel,
    /// What criu waits for, as soon as it does.
    held: Arc<Mutex<Option<Arc<Held>>>>,
    has_held: Arc<AtomicBool>,
    /// The archive must not be committed any more.
    off: Arc<AtomicBool>,
    /// Why the images could not be taken.
    why: Receiver<String>,
    thread: JoinHandle<()>,
}

/// What a [`Saving`] tells.
pub enum Told {
    /// Every image is there, and criu holds the tree.
    Held,
    /// The checkpoint is committed, or why not.
    Packed(Result<Box<Committed>, String>),
}

impl Saving {
    /// Opens the draft and listens for criu, which may be started after this. `told` is called with [`Told::Held`], and after
    /// [`Saving::go_on`] with [`Told::Packed`].
    pub fn begin(target: Target, told: impl Fn(Told) + Send + 'static) -> Result<Saving, String> {
        let (draft, file) = Draft::create(&target.state_dir, target.place.clone())
            .map_err(|error| format!("cannot create the draft: {error}"))?;
        let options = target.options;
        let writer = Writer::create(file, options).map_err(|error| error.to_string())?;
        let capture = Capture::listen(&target.images).map_err(|error| error.to_string())?;
        let cancel = capture.cancel_handle();
        let (go, stopped) = crossbeam_channel::bounded::<Stopped>(1);
        let (say_why, why) = crossbeam_channel::bounded(1);
        let began = target.began;
        let held = Arc::new(Mutex::new(None));
        let off = Arc::new(AtomicBool::new(false));
        let has_held = Arc::new(AtomicBool::new(false));
        let (held_there, has_held_there, off_there) = (Arc::clone(&held), Arc::clone(&has_held), Arc::clone(&off));
        let thread = std::thread::Builder::new().name("save".into()).spawn(move || {
            let sink = ArchiveSink::new(&writer);
            let criu = match capture.run(&sink) {
                Ok(Captured { held: Some(held), .. }) => Arc::new(held),
                // It has failed, and says why when it ends.
                Ok(Captured { held: None, .. }) | Err(StreamError::Cancelled) => return,
                Err(error) => {
                    let _ = say_why.send(error.to_string());
                    return;
                }
            };
            *held_there.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&criu));
            has_held_there.store(true, Ordering::Release);
            let features = sink.features();
            told(Told::Held);
            // Without a word it is not to be.
            let Ok(mut stopped) = stopped.recv() else { return };
            stopped.manifest.kernel_features = features;
            let still = move || criu.holds() && !off_there.load(Ordering::Acquire);
            let packer = Packer { stopped, draft, writer, began, unpacked: Cell::new(0), still: Box::new(still) };
            told(Told::Packed(packer.pack().map(Box::new)));
        });
        Ok(Saving {
            go: Some(go),
            cancel,
            held,
            has_held,
            off,
            why,
            thread: thread.map_err(|error| error.to_string())?,
        })
    }

    /// criu finds its pipes closed, fails, and puts everything back in the payload, which no signal would let it do.
    pub fn give_up(&self) {
        self.cancel.cancel();
    }

    /// criu waits: pack the rest and commit.
    pub fn go_on(&mut self, stopped: Stopped) -> Result<(), String> {
        let go = self.go.take().ok_or("it is packed already")?;
        go.send(stopped).map_err(|_| "the images are not whole".to_owned())
    }

    /// Nothing of this is committed from now on.
    pub fn call_off(&mut self) {
        self.off.store(true, Ordering::Release);
        self.go = None;
    }

    /// criu lets the tree go on.
    pub fn let_go(&mut self) {
        self.go = None;
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).take() {
            held.release();
        }
    }

    /// Whether criu has waited: then it has not failed.
    pub fn has_held(&self) -> bool {
        self.has_held.load(Ordering::Acquire)
    }

    /// Whether its thread still works: on a disk that hangs, say.
    pub fn works(&self) -> bool {
        !self.thread.is_finished()
    }

    /// criu failed. Returns why the images could not be taken, if that was the cause.
    pub fn end(mut self) -> Option<String> {
        /// What was under way ends at once, unless the disk hangs.
        const AT_ONCE: Duration = Duration::from_secs(2);
        self.cancel.cancel();
        self.go = None;
        self.why.recv_timeout(AT_ONCE).ok()
    }
}

struct Packer {
    stopped: Stopped,
    draft: Draft,
    writer: Writer,
    began: Instant,
    /// Bytes of the files that have been added.
    unpacked: Cell<u64>,
    /// Whether what is packed is still what it was when criu had saved the memory.
    still: Box<dyn Fn() -> bool>,
}

impl Packer {
    /// Adds the files and `/dev/shm` to the images, and commits.
    fn pack(self) -> Result<Committed, String> {
        let packed = (|| {
            self.add_ours(REAPER, &self.stopped.reaper)?;
            if let Some(compat) = &self.stopped.compat {
                self.add_ours(COMPAT, compat)?;
            }
            let inputs = self.add_work()?;
            let shm = &self.stopped.shm;
            self.add_tree(shm, SHM, inventory::walk(shm, &NotCarried::default())?)?;
            self.add_host_files()?;
            Ok::<_, io::Error>(inputs)
        })();
        let inputs = packed.map_err(|error| format!("cannot pack: {error}"))?;
        let mut manifest = self.stopped.manifest;
        manifest.inputs = inputs;
        manifest.unpacked_bytes = Some(self.unpacked.get());
        manifest.created = wall_clock::now();
        manifest.host.boot = wall_clock::boot();
        manifest.cost.frozen_seconds = self.began.elapsed().as_secs_f64();
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| error.to_string())?;
        let Summary { bytes_written, .. } =
            self.writer.finish(&text).map_err(|error| format!("cannot pack: {error}"))?;
        if !(self.still)() {
            return Err("the tree went on before everything was packed".to_owned());
        }
        self.draft.commit().map_err(|error| format!("cannot commit: {error}"))?;
        Ok(Committed { manifest, bytes: bytes_written, seconds: self.began.elapsed().as_secs_f64() })
    }

    /// Those of the host's files that are to be carried.
    fn add_host_files(&self) -> io::Result<()> {
        for file in self.stopped.manifest.files.iter().filter(|file| file.carried) {
            let full = files::below(&self.stopped.root, &file.path);
            let name = files::below(Path::new(HOST), &file.path);
            let told = |error: io::Error| io::Error::other(format!("{}: {error}", file.path.display()));
            let opened = File::open(&full).map_err(told)?;
            let metadata = opened.metadata()?;
            self.add_file(meta(&name, Kind::File, &metadata), &opened)?;
        }
        Ok(())
    }

    fn add_file(&self, meta: Meta, file: &File) -> io::Result<()> {
        self.unpacked.set(self.unpacked.get().saturating_add(meta.size));
        Ok(self.writer.add_file(meta, file)?)
    }

    fn add_ours(&self, name: &str, mut content: &[u8]) -> io::Result<()> {
        Ok(self.writer.add(Meta::file(name, content.len() as u64), Some(&mut content))?)
    }

    /// The scratch directory; returns the inputs that were left out.
    fn add_work(&self) -> io::Result<Vec<Input>> {
        let mut known = self.stopped.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while known.digest_one(&self.stopped.scratch) {}
        let mut inputs = Vec::new();
        let mut carried = Vec::new();
        for (path, metadata) in inventory::walk(&self.stopped.scratch, &self.stopped.not_carried)? {
            match known.unchanged(&path, &metadata) {
                Some(input) => inputs.push(input),
                None => carried.push((path, metadata)),
            }
        }
        drop(known);
        self.add_tree(&self.stopped.scratch, WORK, carried)?;
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
                        self.add_file(meta(&name, Kind::File, &metadata), &file)?;
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
