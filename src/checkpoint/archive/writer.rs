//! Writes an archive: any number of threads hand in members, a fixed number of workers compresses and writes.
//!
//! The order of frames in the file is that in which they happen to be ready, so nobody ever waits for a neighbour.
//! Memory is bounded by the queue: a thread that hands in a chunk waits until a worker is free, and buffers go round in
//! a pool. Frames of links come last, because tar wants the target of a hard link before the link.
//!
//! After the first error nothing more is written, but workers go on emptying the queue: so no caller waits for ever,
//! and each learns of the error at its next call.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::unistd::{Whence, lseek};

use super::error::ArchiveError;
use super::flush::{self, Flusher};
use super::format::{Digest, MANIFEST, MAX_MANIFEST};
use super::frame::{Compression, Encoder, Out};
use super::index::{Kind, Member, Mtime};
use super::meta::Meta;
use super::sample::Prices;
use super::shared::{CHUNK, SMALL, Shared};
use super::stream::MemberStream;
use super::tail;
use super::work::work;
use crate::name::Name;

/// How to write an archive.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// How to compress.
    pub compression: Compression,
    /// Threads that compress; 0 is taken for 1. The cpus of the slot, not of the host.
    pub threads: usize,
    /// Bytes per second that the upload will take, if that is known: what [`Compression::Auto`] weighs its work
    /// against.
    pub upload_rate: Option<f64>,
}

/// What has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the archive.
    pub bytes_written: u64,
    /// Length of the contents of all members, holes included.
    pub raw_bytes: u64,
    /// Number of members.
    pub members: usize,
    /// Number of frames.
    pub frames: usize,
    /// Digest of the index, and through it of the whole archive.
    pub digest: Digest,
}

/// An archive that is being written. Share it by reference between threads.
pub struct Writer {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Begins an archive in `out`, an empty file that is open for writing, best for reading too: only then can equal
    /// chunks be stored once. Starts the workers.
    pub fn create(out: File, options: WriteOptions) -> Result<Self, ArchiveError> {
        let threads = options.threads.max(1);
        // One job waiting for each thread: enough that no thread is idle while a chunk is filled.
        let (queue, jobs) = crossbeam_channel::bounded(threads);
        let (flusher, woken) = Flusher::new();
        let shared = Shared::new(out, options.compression, threads, queue, flusher)?;
        let mut writer = Self { shared: Arc::new(shared), workers: Vec::with_capacity(threads + 1) };
        let flushing = Arc::clone(&writer.shared);
        writer.start("archive-flush".into(), move || {
            if let Err(error) = flush::run(&flushing.out, &woken) {
                flushing.fail(error);
            }
        })?;
        let prices = Prices::new(options.upload_rate, threads);
        for number in 0..threads {
            let (worker, jobs) = (Arc::clone(&writer.shared), jobs.clone());
            let encoder = Encoder::new(options.compression, prices)?;
            writer.start(format!("archive-{number}"), move || work(&worker, &jobs, encoder))?;
        }
        Ok(writer)
    }

    fn start(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), ArchiveError> {
        let thread = std::thread::Builder::new().name(name).spawn(body);
        self.workers.push(thread.map_err(|e| ArchiveError::io("starting a thread", e))?);
        Ok(())
    }

    /// A member whose length is not known yet, such as an image from criu. Several may be open at once, in several
    /// threads. The archive cannot be finished before each is.
    pub fn stream(&self, name: impl AsRef<std::ffi::OsStr>) -> Result<MemberStream, ArchiveError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mtime = Mtime { s: i64::try_from(now.as_secs()).unwrap_or(0), ns: 0 };
        let meta = Meta { mtime, ..Meta::file(name, 0) };
        MemberStream::new(Arc::clone(&self.shared), meta)
    }

    /// Adds a member; `content` is that of a file, exactly `meta.size` bytes.
    pub fn add(&self, meta: Meta, content: Option<&mut dyn Read>) -> Result<(), ArchiveError> {
        self.shared.check()?;
        let size = meta.size;
        let name = meta.name.clone();
        match (meta.kind, content) {
            (Kind::File, Some(content)) if size <= SMALL as u64 => {
                let mut bytes = vec![0; size as usize];
                let exact = content.read_exact(&mut bytes).and_then(|()| content.read(&mut [0; 1]));
                match exact {
                    Ok(0) => self.shared.add_small(meta, &bytes),
                    Ok(_) => Err(ArchiveError::bad(format!("{name} is longer than {size} bytes"))),
                    Err(e) => Err(reading(&name, e)),
                }
            }
            (Kind::File, Some(content)) => {
                let mut stream = MemberStream::new(Arc::clone(&self.shared), meta)?;
                let mut content = content.take(size.saturating_add(1));
                while stream.fill(&mut content).map_err(|e| reading(&name, e))? > 0 {}
                stream.finish_sized(size)
            }
            (Kind::File, None) if size > 0 => Err(ArchiveError::bad(format!("{name} is a file without content"))),
            (_, None) => self.shared.add_small(meta, &[]),
            (_, Some(_)) => Err(ArchiveError::bad(format!("{name} is no file and has content"))),
        }
    }

    /// Adds a regular file. Holes are found by asking the file system and are not read; `meta.size` bytes are stored.
    pub fn add_file(&self, meta: Meta, file: &File) -> Result<(), ArchiveError> {
        self.shared.check()?;
        let (name, size) = (meta.name.clone(), meta.size);
        if meta.kind != Kind::File {
            return Err(ArchiveError::bad(format!("{name} is no file and has content")));
        }
        if size <= SMALL as u64 {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0).map_err(|e| reading(&name, e))?;
            return self.shared.add_small(meta, &bytes);
        }
        let mut stream = MemberStream::new(Arc::clone(&self.shared), meta)?;
        let (mut at, mut data_at) = (0_u64, None);
        while at < size {
            // Windows of a chunk each: one without data is a hole, one with any is read whole, its holes as zeros.
            let next = match data_at {
                Some(next) if next >= at => next,
                _ => next_data(file, at, size).map_err(|e| reading(&name, e))?,
            };
            data_at = Some(next);
            let hole_end = if next >= size { size } else { next - next % CHUNK as u64 };
            if hole_end > at {
                stream.skip(hole_end - at)?;
                at = hole_end;
                continue;
            }
            let end = (at + CHUNK as u64).min(size);
            stream.read_at(file, at, (end - at) as usize).map_err(|e| reading(&name, e))?;
            at = end;
        }
        stream.finish_sized(size)
    }

    /// Writes `manifest` as the member `manifest.json`, the links, the index and the locator, and makes all of it
    /// durable (`fsync` of the file; that of its directory after a rename is the caller's).
    pub fn finish(mut self, manifest: &[u8]) -> Result<Summary, ArchiveError> {
        if manifest.len() as u64 > MAX_MANIFEST {
            return Err(ArchiveError::bad("the manifest is too large"));
        }
        self.shared.flush_small()?;
        let meta = Meta::file(MANIFEST, manifest.len() as u64);
        self.shared.add_small(meta, manifest)?;
        self.shared.flush_small()?;
        self.stop()?;
        self.shared.check()?;
        self.close()
    }

    /// Lets the workers empty the queue and waits for them.
    fn stop(&mut self) -> Result<(), ArchiveError> {
        self.shared.close_queue();
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                result = Err(ArchiveError::bad("a thread of the archive has panicked"));
            }
        }
        result
    }

    /// What comes after the last frame that a worker writes.
    fn close(&self) -> Result<Summary, ArchiveError> {
        let shared = &self.shared;
        let compression = shared.compression;
        let container = compression.container();
        let plain = match compression {
            Compression::Auto => Compression::Zstd { level: 1 },
            other => other,
        };
        let mut encoder = Encoder::new(plain, Prices::default())?;
        let mut out = Out::default();
        for links in shared.late_links()?.chunks(CHUNK) {
            shared.write_frame(&mut encoder, &mut out, &[], (links, 0, false), |_| {})?;
        }

        let index = shared.index()?;
        let (at, out) = (shared.position(), &shared.out);
        let locator = tail::write_index(out, container, at, &index)?;
        let end = at + locator.stored;
        let tail = locator.write(container);
        out.write_all_at(&tail, end).map_err(|e| ArchiveError::io("writing the index", e))?;
        out.sync_all().map_err(|e| ArchiveError::io("making the archive durable", e))?;
        Ok(Summary {
            bytes_written: end + tail.len() as u64,
            raw_bytes: index.members.iter().map(|member: &Member| member.size).sum(),
            members: index.members.len(),
            frames: index.frames.len(),
            digest: locator.blake3,
        })
    }
}

impl Drop for Writer {
    /// An archive that is given up leaves no thread behind.
    fn drop(&mut self) {
        self.shared.fail(ArchiveError::bad("the archive has been given up"));
        let _ = self.stop();
    }
}

fn reading(name: &Name, e: io::Error) -> ArchiveError {
    // An error of the archive that came through `Read` or `Write` is not one of reading.
    match e.downcast::<ArchiveError>() {
        Ok(inner) => inner,
        Err(e) => ArchiveError::io(format!("reading {name}"), e),
    }
}

/// Offset of the next byte that is not in a hole, at or behind `at`; `size` if there is none.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<u64> {
    let offset = i64::try_from(at).map_err(io::Error::other)?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(next) => Ok(u64::try_from(next).unwrap_or(at).clamp(at, size)),
        Err(nix::errno::Errno::ENXIO) => Ok(size),
        // A file system that knows no holes has none.
        Err(nix::errno::Errno::EINVAL) => Ok(at),
        Err(e) => Err(e.into()),
    }
}
