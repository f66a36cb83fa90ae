//! What the threads of a writer share: the queue, the table of members and frames, the batch of small members.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;

use super::dedup::Originals;
use super::error::ArchiveError;
use super::flush::Flusher;
use super::format::{self, Digest, INDEX};
use super::frame::{Compression, Encoder, Out};
use super::index::{Extent, Frame, Index, Kind, Member};
use super::lock::lock;
use super::meta::Meta;
use super::part::Part;
use super::tarhead::{self, Head};
use crate::name::Name;

/// Content of a full chunk in bytes, and about the size of a batch of small members. Measured on 1 GiB of doubles: 256
/// KiB is slower by a seventh; between 512 KiB and 4 MiB the difference drowns in the noise of the machine. 1 MiB keeps
/// a worker's buffers near a second-level cache of 2 MiB. The first byte of a member costs at most the decoding of one.
pub(super) const CHUNK: usize = 1 << 20;
/// Members up to this many bytes share frames.
pub(super) const SMALL: usize = 64 << 10;

/// Work for a thread.
pub(super) enum Job {
    /// A piece of a large member.
    Chunk {
        /// Which tar member it becomes.
        part: Part,
        /// Number of the extent that it becomes.
        slot: usize,
        /// A full-size buffer, of which `len` bytes count.
        bytes: Vec<u8>,
        /// Bytes of content.
        len: usize,
    },
    /// Small members with their headers.
    Batch(Batch),
}

/// Small members on the way into one frame.
#[derive(Default)]
pub(super) struct Batch {
    /// Headers, contents and padding.
    pub tar: Vec<u8>,
    /// Member, where its content begins, and its length.
    pub parts: Vec<(usize, u32, u32)>,
}

/// A member, and what only the writer needs to know of it.
struct Entry {
    member: Member,
    /// Whether there is one tar member of the same name and content, which a hard link can point at.
    whole: bool,
    /// Whether all of it has been handed in.
    done: bool,
}

/// Members, frames, and the end of the file.
#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    names: HashMap<Name, usize>,
    frames: Vec<Frame>,
    end: u64,
}

/// Everything that the threads share.
pub(super) struct Shared {
    pub out: File,
    pub compression: Compression,
    pub queue: Mutex<Option<Sender<Job>>>,
    pub flusher: Flusher,
    /// Held while writing. The kernel lets only one thread write to a file at a time and lets the others spin, on
    /// processors that criu and the payload's pages need.
    writing: Mutex<()>,
    table: Mutex<Table>,
    batch: Mutex<Batch>,
    /// Headers of links to chunks that were stored before.
    pub links: Mutex<Vec<u8>>,
    pub originals: Originals,
    /// Full-size chunk buffers that are free.
    pool: Mutex<Vec<Vec<u8>>>,
    pool_size: usize,
    /// Jobs that have been handed in and not been done. Until one is, its part of a member reads as zeros.
    pub pending: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<ArchiveError>>,
}

impl Shared {
    /// Writes the opening. Threads take their jobs from the other end of `queue`.
    pub fn new(
        out: File,
        compression: Compression,
        threads: usize,
        queue: Sender<Job>,
        flusher: Flusher,
    ) -> Result<Self, ArchiveError> {
        let opening = format::opening(compression.container());
        out.write_all_at(&opening, 0).map_err(|e| ArchiveError::io("writing the archive", e))?;
        Ok(Self {
            out,
            compression,
            queue: Mutex::new(Some(queue)),
            flusher,
            writing: Mutex::default(),
            table: Mutex::new(Table { end: opening.len() as u64, ..Table::default() }),
            batch: Mutex::default(),
            links: Mutex::default(),
            originals: Originals::default(),
            pool: Mutex::default(),
            pool_size: 2 * threads + 2,
            pending: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            error: Mutex::default(),
        })
    }

    /// The first error, if there was one.
    pub fn check(&self) -> Result<(), ArchiveError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.error).as_ref().map_or(Ok(()), |error| Err(error.again()))
    }

    /// Remembers the first error.
    pub fn fail(&self, error: ArchiveError) {
        lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Ends the threads when they have done what they were given.
    pub fn close_queue(&self) {
        lock(&self.queue).take();
        self.flusher.close();
    }

    pub fn position(&self) -> u64 {
        lock(&self.table).end
    }

    /// A buffer of [`CHUNK`] bytes with anything in it.
    pub fn buffer(&self) -> Vec<u8> {
        lock(&self.pool).pop().unwrap_or_else(|| vec![0; CHUNK])
    }

    pub fn give_back(&self, buffer: Vec<u8>) {
        let mut pool = lock(&self.pool);
        if buffer.len() == CHUNK && pool.len() < self.pool_size {
            pool.push(buffer);
        }
    }

    /// Enters a member into the table; its content follows.
    pub fn enter(&self, meta: &Meta) -> Result<usize, ArchiveError> {
        self.check()?;
        let named = |what: &str| ArchiveError::bad(format!("{}: {what}", meta.name));
        meta.name.check().map_err(named)?;
        if meta.name.as_bytes() == INDEX.as_bytes() {
            return Err(named("this name is the archive's own"));
        }
        let mut table = lock(&self.table);
        match (meta.kind, &meta.link) {
            (Kind::Hardlink, Some(target)) if !table.names.contains_key(target) => {
                return Err(named("it is a hard link to what is not in the archive"));
            }
            (Kind::Hardlink | Kind::Symlink, None) => return Err(named("it is a link without a target")),
            (Kind::File | Kind::Dir | Kind::Fifo, Some(_)) => return Err(named("it has a target and is no link")),
            _ => {}
        }
        if meta.mtime.ns >= 1_000_000_000 || (meta.kind != Kind::File && meta.size != 0) {
            return Err(named("its time or its size is impossible"));
        }
        let number = table.entries.len();
        match table.names.entry(meta.name.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => return Err(named("there are two of this name")),
            std::collections::hash_map::Entry::Vacant(slot) => slot.insert(number),
        };
        let Meta { name, kind, mode, mtime, atime, xattrs, size: _, link } = meta.clone();
        let member =
            Member { name, kind, mode: mode & 0o7777, mtime, atime, xattrs, size: 0, link, extents: Vec::new() };
        table.entries.push(Entry { member, whole: false, done: false });
        Ok(number)
    }

    /// Adds an extent to a member, zeros until a worker has stored it; returns its number.
    pub fn reserve(&self, member: usize, len: u64) -> usize {
        let mut table = lock(&self.table);
        let Some(entry) = table.entries.get_mut(member) else { return 0 };
        entry.member.size += len;
        entry.member.extents.push(Extent::Zero { zero: len });
        entry.member.extents.len() - 1
    }

    /// Says that all of a member has been handed in.
    pub fn complete(&self, member: usize) {
        if let Some(entry) = lock(&self.table).entries.get_mut(member) {
            entry.done = true;
        }
    }

    /// Says that there is a tar member of the member's own name.
    pub fn set_whole(&self, member: usize) {
        if let Some(entry) = lock(&self.table).entries.get_mut(member) {
            entry.whole = true;
        }
    }

    /// Name of the tar member.
    pub fn name_of(&self, part: Part) -> Result<Name, ArchiveError> {
        let table = lock(&self.table);
        let entry = table.entries.get(part.member as usize).ok_or_else(|| ArchiveError::bad("no such member"))?;
        let name = &entry.member.name;
        Ok(part.number().map_or_else(|| name.clone(), |number| tarhead::chunk_name(name, number)))
    }

    /// A frame that has been written, and where it begins. Counts from the first frame on: it is asked for by chunks
    /// that equal an earlier one.
    pub fn frame(&self, number: u32) -> Option<(u64, Frame)> {
        let opening = format::opening(self.compression.container()).len() as u64;
        let table = lock(&self.table);
        let frame = table.frames.get(number as usize)?;
        let before = table.frames.iter().take(number as usize).map(|frame| u64::from(frame.stored)).sum::<u64>();
        Some((opening + before, frame.clone()))
    }

    pub fn head(
        &self,
        member: usize,
        name: &Name,
        size: u64,
        link: Option<&Name>,
        out: &mut Vec<u8>,
    ) -> Result<(), ArchiveError> {
        let (kind, mode, mtime) = {
            let table = lock(&self.table);
            let entry = table.entries.get(member).ok_or_else(|| ArchiveError::bad("no such member"))?;
            (entry.member.kind, entry.member.mode, entry.member.mtime)
        };
        let kind = if kind == Kind::File && link.is_some() { Kind::Hardlink } else { kind };
        tarhead::write(&Head { name, kind, mode, mtime, size, link }, out)
    }

    /// Adds a whole member of at most [`SMALL`] bytes.
    pub fn add_small(&self, meta: Meta, content: &[u8]) -> Result<(), ArchiveError> {
        let member = self.enter(&meta)?;
        self.fill_small(member, &meta.name, meta.link.as_ref(), content)
    }

    /// Gives a member that is in the table its content of at most [`SMALL`] bytes.
    pub fn fill_small(
        &self,
        member: usize,
        name: &Name,
        link: Option<&Name>,
        content: &[u8],
    ) -> Result<(), ArchiveError> {
        if link.is_some() && lock(&self.table).entries.get(member).is_some_and(|e| e.member.kind == Kind::Hardlink) {
            // Its header is written at the end, when its target is.
            self.complete(member);
            return Ok(());
        }
        let mut head = Vec::with_capacity(tarhead::BLOCK);
        self.head(member, name, content.len() as u64, link, &mut head)?;
        if !content.is_empty() {
            self.reserve(member, content.len() as u64);
        }
        let full = {
            let mut batch = lock(&self.batch);
            batch.tar.extend_from_slice(&head);
            if !content.is_empty() {
                let at = batch.tar.len() as u32;
                batch.parts.push((member, at, content.len() as u32));
                batch.tar.extend_from_slice(content);
                let end = batch.tar.len() + tarhead::padding(content.len());
                batch.tar.resize(end, 0);
            }
            (batch.tar.len() >= CHUNK).then(|| std::mem::take(&mut *batch))
        };
        self.set_whole(member);
        self.complete(member);
        full.map_or(Ok(()), |batch| submit(self, Job::Batch(batch)))
    }

    /// Hands the small members that have gathered to the workers.
    pub fn flush_small(&self) -> Result<(), ArchiveError> {
        let batch = std::mem::take(&mut *lock(&self.batch));
        if batch.tar.is_empty() { Ok(()) } else { submit(self, Job::Batch(batch)) }
    }

    /// Headers of links, to be written when all their targets are: to chunks that were stored before, then to members.
    pub fn late_links(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut tar = std::mem::take(&mut *lock(&self.links));
        let table = lock(&self.table);
        for entry in table.entries.iter().filter(|entry| entry.member.kind == Kind::Hardlink) {
            let Some(link) = &entry.member.link else { continue };
            if table.names.get(link).and_then(|n| table.entries.get(*n)).is_some_and(|target| target.whole) {
                let Member { name, kind, mode, mtime, .. } = &entry.member;
                let head = Head { name, kind: *kind, mode: *mode, mtime: *mtime, size: 0, link: Some(link) };
                tarhead::write(&head, &mut tar)?;
            }
        }
        Ok(tar)
    }

    /// The index of what has been written; all workers must have ended.
    pub fn index(&self) -> Result<Index, ArchiveError> {
        let end = self.position();
        let table = std::mem::replace(&mut *lock(&self.table), Table { end, ..Table::default() });
        if let Some(open) = table.entries.iter().find(|entry| !entry.done) {
            return Err(ArchiveError::bad(format!("{} was not finished", open.member.name)));
        }
        if self.pending.load(Ordering::Acquire) != 0 {
            return Err(ArchiveError::bad("a part of a member was not written"));
        }
        let mut members: Vec<Member> = table.entries.into_iter().map(|entry| entry.member).collect();
        for member in &mut members {
            member.extents.dedup_by(|next, last| match (next, last) {
                (Extent::Zero { zero }, Extent::Zero { zero: sum }) => {
                    *sum += *zero;
                    true
                }
                _ => false,
            });
        }
        Ok(Index { frames: table.frames, members })
    }

    /// Encodes one frame, gives it its place, writes it, and lets `enter` note its number, which it returns too.
    pub fn write_frame(
        &self,
        encoder: &mut Encoder,
        out: &mut Out,
        head: &[u8],
        (body, payload, numbers): (&[u8], usize, bool),
        enter: impl FnOnce(u32),
    ) -> Result<u32, ArchiveError> {
        let (codec, filter) = encoder.encode(head, body, payload, numbers, out)?;
        let stored = out.as_slice();
        let decoded = (head.len() + body.len()) as u32;
        let frame = Frame { stored: stored.len() as u32, decoded, codec, filter, blake3: Digest::of(stored) };
        let (at, number) = {
            let mut table = lock(&self.table);
            let at = table.end;
            table.end += stored.len() as u64;
            table.frames.push(frame);
            (at, table.frames.len() as u32 - 1)
        };
        {
            let _alone = lock(&self.writing);
            self.out.write_all_at(stored, at).map_err(|e| ArchiveError::io("writing the archive", e))?;
        }
        self.flusher.wrote(stored.len() as u64);
        enter(number);
        Ok(number)
    }

    pub fn set_extent(&self, member: usize, slot: usize, extent: Extent) {
        if let Some(place) = lock(&self.table).entries.get_mut(member).and_then(|e| e.member.extents.get_mut(slot)) {
            *place = extent;
        }
    }
}

/// Keeps the queue's type out of the callers.
pub(super) fn submit(shared: &Shared, job: Job) -> Result<(), ArchiveError> {
    let sender = lock(&shared.queue).clone();
    shared.pending.fetch_add(1, Ordering::AcqRel);
    match sender {
        Some(sender) => sender.send(job).map_err(|_| ArchiveError::bad("the threads of the archive have ended"))?,
        None => shared.check().and(Err(ArchiveError::bad("the archive is already closed")))?,
    }
    shared.check()
}
