//! From a stopped process tree to a committed checkpoint. Runs in a thread of its own: the supervisor goes on
//! listening.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::checkpoint::archive::{WriteOptions, Writer};
use crate::checkpoint::streaming::ArchiveSink;
use crate::checkpoint::tree::{Entry, Tree};
use crate::checkpoint::{Draft, Inputs, NotCarried, Place, inventory};
use crate::criu::stream::{Cancel, Capture, Captured, Held, StreamError};
use crate::supervise::work::checkpoint_file::{Committed, Stopped};
use crate::supervise::work::pack::Packer;

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

/// Saves the files of a payload that has ended, with its status in the manifest: there are no images.
pub fn finished(
    target: Target,
    stopped: Stopped,
    done: impl FnOnce(Result<Committed, String>) + Send + 'static,
) -> io::Result<()> {
    let (draft, file) = Draft::create(&target.state_dir, target.place.clone())?;
    let options = target.options;
    let writer = Writer::create(file, options)?;
    let work = move || done(Packer::new(stopped, draft, writer, target.began, Box::new(|| true)).pack());
    std::thread::Builder::new().name("save".into()).spawn(work).map(drop)
}

/// A checkpoint that is being taken: a thread that takes criu's images as they come, says when criu waits with the tree
/// held, and then packs the rest.
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
    /// Opens the draft and listens for criu, which may be started after this. `told` is called with [`Told::Held`], and
    /// after [`Saving::go_on`] with [`Told::Packed`].
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
            let still = Box::new(move || criu.holds() && !off_there.load(Ordering::Acquire));
            told(Told::Packed(Packer::new(stopped, draft, writer, began, still).pack().map(Box::new)));
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
