//! Sees to it that the disk works while the archive is still being written.
//!
//! The kernel would let a gigabyte of written pages lie in memory, and the `fsync` at the end would then wait for all
//! of it while the payload is frozen. A thread of its own asks for durability every so often, so that at the end only
//! the last part is left.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::ArchiveError;
use super::lock::lock;

/// Bytes between two requests. Each may cost the disk a flush of its own cache, some milliseconds; at the speed of a
/// disk this is a request every 0.1 to 1 s.
const EVERY: u64 = 64 << 20;

/// Counts what is written and wakes the thread.
pub(super) struct Flusher {
    wake: Mutex<Option<Sender<()>>>,
    unflushed: AtomicU64,
}

impl Flusher {
    /// The counter, and what the thread has to [`run`] with.
    pub fn new() -> (Self, Receiver<()>) {
        // One place: who finds it taken need not wait, the thread will run again anyhow.
        let (wake, woken) = bounded(1);
        (Self { wake: Mutex::new(Some(wake)), unflushed: AtomicU64::new(0) }, woken)
    }

    /// Counts bytes that have been written.
    pub fn wrote(&self, len: u64) {
        if self.unflushed.fetch_add(len, Ordering::Relaxed) + len < EVERY {
            return;
        }
        self.unflushed.store(0, Ordering::Relaxed);
        if let Some(wake) = &*lock(&self.wake) {
            let _ = wake.try_send(());
        }
    }

    /// Ends the thread.
    pub fn close(&self) {
        lock(&self.wake).take();
    }
}

/// The thread's work. An error must not be lost: the kernel tells an open file of it once, and the `fsync` at the end
/// would not hear of it again.
pub(super) fn run(file: &File, woken: &Receiver<()>) -> Result<(), ArchiveError> {
    for () in woken {
        file.sync_data().map_err(|e| ArchiveError::io("making the archive durable", e))?;
    }
    Ok(())
}
