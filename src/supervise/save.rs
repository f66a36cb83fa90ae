//! From a stopped process tree to a committed checkpoint. Runs in a thread of its own: the supervisor goes on listening.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::pack::Packer;
use crate::checkpoint::archive::{WriteOptions, Writer};
use crate::checkpoint::streaming::ArchiveSink;
use crate::checkpoint::tree::{Entry, Tree};
use crate::checkpoint::{Draft, Inputs, Manifest, NotCarried, Place, inventory};
use crate::criu::stream::{Cancel, Capture, StreamError};

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
    let work = move || done(Packer::new(stopped, draft, writer, target.began).pack());
    std::thread::Builder::new().name("save".into()).spawn(work).map(drop)
}

/// A checkpoint that is being taken: a thread that takes criu's images as they come, and then waits for word of how criu
/// ended.
pub struct Saving {
    go: Sender<Stopped>,
    cancel: Cancel,
    thread: JoinHandle<Option<String>>,
    given_up: bool,
}

impl Saving {
    /// Opens the draft and listens for criu, which may be started after this. `done` is called with the end, if [`Saving::go_on`]
    /// was.
    pub fn begin(
        target: Target,
        done: impl FnOnce(Result<Committed, String>) + Send + 'static,
    ) -> Result<Saving, String> {
        let (draft, file) = Draft::create(&target.state_dir, target.place.clone())
            .map_err(|error| format!("cannot create the draft: {error}"))?;
        let options = target.options;
        let writer = Writer::create(file, options).map_err(|error| error.to_string())?;
        let capture = Capture::listen(&target.images).map_err(|error| error.to_string())?;
        let cancel = capture.cancel_handle();
        let (go, stopped) = crossbeam_channel::bounded::<Stopped>(1);
        let began = target.began;
        let thread = std::thread::Builder::new().name("save".into()).spawn(move || {
            let sink = ArchiveSink::new(&writer);
            match capture.run(&sink) {
                Ok(_) => {}
                Err(StreamError::Cancelled) => return None,
                // criu may have ended well while the last images were still on their way: who waits for the end by now must hear of it.
                Err(error) => match stopped.recv() {
                    Ok(_) => {
                        done(Err(format!("cannot pack: {error}")));
                        return None;
                    }
                    Err(_) => return Some(error.to_string()),
                },
            }
            let features = sink.features();
            // Without a word criu has failed, and the draft goes away.
            let Ok(mut stopped) = stopped.recv() else { return None };
            stopped.manifest.kernel_features = features;
            done(Packer::new(stopped, draft, writer, began).pack());
            None
        });
        Ok(Saving { go, cancel, thread: thread.map_err(|error| error.to_string())?, given_up: false })
    }

    /// criu finds its pipes closed, fails, and puts everything back in the payload, which no signal would let it do.
    pub fn give_up(&mut self) {
        self.cancel.cancel();
        self.given_up = true;
    }

    /// Whether that has been done.
    pub fn given_up(&self) -> bool {
        self.given_up
    }

    /// criu ended well: pack the rest and commit. An error is why the images are not whole after all.
    pub fn go_on(self, stopped: Stopped) -> Result<(), String> {
        match self.go.send(stopped) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.end().unwrap_or_else(|| "the images are not whole".into())),
        }
    }

    /// criu failed. Returns why the images could not be taken, if that was the cause.
    pub fn end(self) -> Option<String> {
        self.cancel.cancel();
        drop(self.go);
        self.thread.join().ok().flatten()
    }
}

/// Removes the hard links that criu left beside deleted files when a dump succeeded but the payload goes on.
pub fn remove_link_remaps(scratch: &Path, not_carried: &NotCarried) {
    let is_remap = |path: &Path| {
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        name.strip_prefix(b"link_remap.")
            .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    let Ok(mut tree) = Tree::open(scratch) else { return };
    for entry in inventory::walk(&mut tree, not_carried).unwrap_or_default() {
        if entry.stat.is_file() && is_remap(&entry.path) {
            let _ = tree.remove(&entry.path);
        }
    }
}

/// Bytes on the disk of the files that a checkpoint would carry now, as far as they can be seen.
pub fn bytes_of_files(scratch: &Path, not_carried: &NotCarried, inputs: &Mutex<Inputs>, shm: &Path) -> u64 {
    let stored = |entries: Vec<Entry>| {
        let files = entries.iter().filter(|entry| entry.stat.is_file());
        files.map(|entry| entry.stat.stored()).fold(0, u64::saturating_add)
    };
    let shm = Tree::open(shm).and_then(|mut tree| tree.look(|_| false)).unwrap_or_default();
    // Held while a large input is read, for which nobody waits here.
    let Ok(inputs) = inputs.try_lock() else { return stored(shm) };
    let mut work = Tree::open(scratch).and_then(|mut tree| inventory::look(&mut tree, not_carried)).unwrap_or_default();
    work.retain(|entry| !inputs.is_as_given(entry));
    stored(work).saturating_add(stored(shm))
}
