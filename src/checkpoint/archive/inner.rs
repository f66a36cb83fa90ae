//! What all readers of one open archive share: the file, its index, decoded frames, buffers.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::codec::Container;
use super::error::ArchiveError;
use super::format::{Digest, Locator, MANIFEST, MAX_MANIFEST};
use super::frame::Decoder;
use super::index::{Extent, Frame, Index, Kind, Member};
use super::lock::lock;
use crate::name::Name;

pub(super) struct Inner {
    pub(super) file: File,
    pub(super) container: Container,
    pub(super) locator: Locator,
    pub(super) index: Index,
    /// Where each frame begins.
    pub(super) offsets: Vec<u64>,
    pub(super) names: HashMap<Name, usize>,
    pub(super) manifest: Vec<u8>,
    /// Frames that several small members share, the latest last.
    pub(super) cache: Mutex<Vec<(u32, Arc<Vec<u8>>)>>,
    pub(super) scratch: Mutex<Vec<Scratch>>,
    /// Buffers of decoded frames that are free.
    pub(super) pool: Mutex<Vec<Vec<u8>>>,
    /// Threads that decode ahead, of all members that are open.
    pub(super) ahead: AtomicUsize,
}

/// What decoding one frame needs besides the place where it goes.
pub(super) struct Scratch {
    decoder: Decoder,
    stored: Vec<u8>,
}

/// Shared frames that are kept decoded: criu asks for the small images of a task one after another, and several tasks
/// in turn.
const CACHED: usize = 4;
/// Buffers that are kept of each sort; more are only needed while more members are open.
const POOLED: usize = 8;

/// Zeros to hand out for holes.
pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Inner {
    pub fn member(&self, number: usize) -> Option<&Member> {
        self.index.members.get(number)
    }

    pub fn frame(&self, number: u32) -> Option<&Frame> {
        self.index.frames.get(number as usize)
    }

    /// The member that has the content of the file or hard link `name`.
    pub(super) fn content_of(&self, name: &Name) -> Result<usize, ArchiveError> {
        let find = |name: &Name| self.names.get(name).and_then(|n| Some((*n, self.index.members.get(*n)?)));
        let missing = || ArchiveError::NotFound { name: name.to_string() };
        let (number, member) = find(name).ok_or_else(missing)?;
        match (member.kind, &member.link) {
            (Kind::File, _) => Ok(number),
            // One step: what a hard link names is no hard link.
            (Kind::Hardlink, Some(link)) => match find(link) {
                Some((number, member)) if member.kind == Kind::File => Ok(number),
                _ => Err(missing()),
            },
            _ => Err(missing()),
        }
    }

    pub(super) fn read_manifest(&self) -> Result<Vec<u8>, ArchiveError> {
        let missing = || ArchiveError::damaged("it has no manifest");
        let number = self.content_of(&Name::new(MANIFEST)).map_err(|_| missing())?;
        let member = self.member(number).ok_or_else(missing)?;
        if member.size > MAX_MANIFEST {
            return Err(ArchiveError::damaged("its manifest is impossibly large"));
        }
        let mut bytes = Vec::with_capacity(member.size as usize);
        for extent in &member.extents {
            match *extent {
                Extent::Data { frame, at, len } => {
                    let mut decoded = Vec::new();
                    self.load(frame, &mut decoded)?;
                    let range = at as usize..at as usize + len as usize;
                    bytes.extend_from_slice(decoded.get(range).ok_or_else(missing)?);
                }
                Extent::Zero { zero } => bytes.resize(bytes.len() + zero as usize, 0),
            }
        }
        Ok(bytes)
    }

    /// Reads and verifies the stored bytes of a frame.
    pub(super) fn read_stored(&self, number: u32, stored: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let missing = || ArchiveError::damaged(format!("there is no frame {number}"));
        let frame = self.frame(number).ok_or_else(missing)?;
        let at = self.offsets.get(number as usize).ok_or_else(missing)?;
        let what = format_args!("frame {number}").to_string();
        read_verified(&self.file, *at, frame.stored as usize, frame.blake3, &what, stored)
    }

    /// Reads, verifies and decodes a frame into `out`.
    pub fn load(&self, number: u32, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let mut scratch = match lock(&self.scratch).pop() {
            Some(scratch) => scratch,
            None => Scratch { decoder: Decoder::new()?, stored: Vec::new() },
        };
        self.read_stored(number, &mut scratch.stored)?;
        let frame = self.frame(number).ok_or_else(|| ArchiveError::damaged("a frame is missing"))?;
        scratch.decoder.decode(frame, &scratch.stored, out)?;
        let mut free = lock(&self.scratch);
        if free.len() < POOLED {
            free.push(scratch);
        }
        Ok(())
    }

    /// A frame that several members share.
    pub fn load_shared(&self, number: u32) -> Result<Arc<Vec<u8>>, ArchiveError> {
        // The lock is held while decoding: whoever wants the same frame had better wait than decode it too.
        let mut cache = lock(&self.cache);
        if let Some(place) = cache.iter().position(|(cached, _)| *cached == number) {
            let entry = cache.remove(place);
            let bytes = Arc::clone(&entry.1);
            cache.push(entry);
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        self.load(number, &mut bytes)?;
        let bytes = Arc::new(bytes);
        if cache.len() >= CACHED {
            cache.remove(0);
        }
        cache.push((number, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// A buffer with anything in it.
    pub fn buffer(&self) -> Vec<u8> {
        lock(&self.pool).pop().unwrap_or_default()
    }

    pub fn give_back(&self, buffer: Vec<u8>) {
        let mut pool = lock(&self.pool);
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    }
}

/// Reads `len` bytes and compares them with their digest.
pub(super) fn read_verified(
    file: &File,
    at: u64,
    len: usize,
    digest: Digest,
    what: &str,
    stored: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    stored.resize(len, 0);
    file.read_exact_at(stored, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated,
        _ => ArchiveError::io(format!("reading {what}"), e),
    })?;
    if Digest::of(stored) == digest {
        Ok(())
    } else {
        Err(ArchiveError::damaged(format!("{what} differs from its digest")))
    }
}
