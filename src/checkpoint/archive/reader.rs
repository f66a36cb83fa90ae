//! Opens an archive and finds things in it. What it hands out has been compared with the digests before, and every
//! number that it follows has been compared with the file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::codec::Container;
use super::error::ArchiveError;
use super::format::{self, Digest, Locator};
use super::index::{Frame, Member};
use super::inner::{Inner, ZEROS, read_verified};
use super::member::{MemberReader, Piece};
use super::tail;
use crate::name::Name;

/// An open archive. Cheap to clone; usable from any number of threads.
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

impl Reader {
    /// Opens the archive at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArchiveError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| ArchiveError::io(format!("opening {}", path.display()), e))?;
        Self::from_file(file)
    }

    /// Opens an archive in a file that is open for reading.
    pub fn from_file(file: File) -> Result<Self, ArchiveError> {
        let (container, locator) = frame_of_file(&file)?;
        let mut stored = Vec::new();
        // Bounded by the length of the file.
        read_verified(&file, locator.at, locator.stored as usize, locator.blake3, "the index", &mut stored)?;
        let index = tail::read_index(container, &locator, &stored)?;
        drop(stored);
        index.check(container, locator.at)?;

        let mut at = format::opening(container).len() as u64;
        let mut offsets = Vec::with_capacity(index.frames.len());
        for frame in &index.frames {
            offsets.push(at);
            at += u64::from(frame.stored);
        }
        let mut names = HashMap::with_capacity(index.members.len());
        for (number, member) in index.members.iter().enumerate() {
            if names.insert(member.name.clone(), number).is_some() {
                return Err(ArchiveError::damaged(format!("two members are named {:?}", member.name)));
            }
        }
        let mut inner = Inner {
            file,
            container,
            locator,
            index,
            offsets,
            names,
            manifest: Vec::new(),
            cache: Mutex::default(),
            scratch: Mutex::default(),
            pool: Mutex::default(),
            ahead: AtomicUsize::new(0),
        };
        inner.manifest = inner.read_manifest()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The content of `manifest.json`.
    pub fn manifest(&self) -> &[u8] {
        &self.inner.manifest
    }

    /// Version of the format, major and minor.
    pub fn version(&self) -> (u16, u16) {
        self.inner.locator.version
    }

    /// Digest of the index, and through it of the whole archive.
    pub fn digest(&self) -> Digest {
        self.inner.locator.blake3
    }

    /// All members, in the order in which they were added.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.inner.index.members.iter()
    }

    /// The frames, in the order of the file: what compression did, for `inspect`.
    pub fn frames(&self) -> &[Frame] {
        &self.inner.index.frames
    }

    /// The member of this name.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&Member> {
        let number = self.inner.names.get(&Name::new(name))?;
        self.inner.index.members.get(*number)
    }

    /// The content of a file, decoded ahead by up to `threads` threads (0: as it is read). A hard link leads to the
    /// file.
    ///
    /// All members that are open share a limit of threads; beyond it, and for members of one frame, there are none.
    pub fn open_member(&self, name: impl AsRef<OsStr>, threads: usize) -> Result<MemberReader, ArchiveError> {
        let number = self.inner.content_of(&Name::new(name))?;
        Ok(MemberReader::new(Arc::clone(&self.inner), number, threads))
    }

    /// Writes the content of a file to `to`; returns its length.
    pub fn copy_to(&self, name: impl AsRef<OsStr>, to: &mut dyn Write) -> Result<u64, ArchiveError> {
        let name = name.as_ref();
        let mut member = self.open_member(name, 0)?;
        let writing = |e: io::Error| ArchiveError::io(format!("writing {}", name.display()), e);
        let mut sum = 0;
        while let Some(piece) = member.next_piece()? {
            sum += piece.len();
            match piece {
                Piece::Data(bytes) => to.write_all(bytes).map_err(writing)?,
                Piece::Zero(mut left) => {
                    while left > 0 {
                        let part = left.min(ZEROS.len() as u64);
                        to.write_all(&ZEROS[..part as usize]).map_err(writing)?;
                        left -= part;
                    }
                }
            }
        }
        Ok(sum)
    }

    /// Reads every byte of the file and compares it with the digests, in `threads` threads. Nothing is decoded: the
    /// digests are of what is stored.
    pub fn verify(&self, threads: usize) -> Result<(), ArchiveError> {
        let inner = &self.inner;
        if frame_of_file(&inner.file)? != (inner.container, inner.locator) {
            return Err(ArchiveError::damaged("it was changed while it was open"));
        }
        // The index is one more frame, the last.
        let next = AtomicUsize::new(0);
        let count = inner.index.frames.len();
        let check = || -> Result<(), ArchiveError> {
            let mut stored = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number > count {
                    return Ok(());
                }
                if number == count {
                    let (at, len, digest) = (inner.locator.at, inner.locator.stored, inner.locator.blake3);
                    read_verified(&inner.file, at, len as usize, digest, "the index", &mut stored)?;
                } else {
                    inner.read_stored(number as u32, &mut stored)?;
                }
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(check)).collect();
            let mut result = check();
            for thread in others {
                let other = thread.join().unwrap_or_else(|_| Err(ArchiveError::damaged("verifying panicked")));
                result = result.and(other);
            }
            result
        })
    }
}

/// Reads the opening and the locator.
fn frame_of_file(file: &File) -> Result<(Container, Locator), ArchiveError> {
    let reading = |e| ArchiveError::io("reading the archive", e);
    let len = file.metadata().map_err(reading)?.len();
    if len == 0 {
        return Err(ArchiveError::Empty);
    }
    let mut head = [0; 64];
    let head_len = len.min(head.len() as u64) as usize;
    file.read_exact_at(&mut head[..head_len], 0).map_err(reading)?;
    let Some(container) = format::parse_opening(&head[..head_len])? else {
        // A locator at the end says that it is ours after all, with a damaged opening.
        let ours = [Container::Zstd, Container::Gzip].into_iter().any(|c| read_locator(file, len, c).is_ok());
        return Err(if ours { ArchiveError::damaged("its opening") } else { ArchiveError::NotOurs });
    };
    let locator = read_locator(file, len, container)?;
    locator.check(container, len)?;
    // The minor version stands in both; the opening has no digest of its own.
    if head[..head_len].get(..format::opening_of(container, locator.version).len())
        != Some(&format::opening_of(container, locator.version)[..])
    {
        return Err(ArchiveError::damaged("its opening and its locator differ"));
    }
    Ok((container, locator))
}

fn read_locator(file: &File, len: u64, container: Container) -> Result<Locator, ArchiveError> {
    let mut tail = vec![0; Locator::len(container)];
    let at = len.checked_sub(tail.len() as u64).ok_or(ArchiveError::Truncated)?;
    file.read_exact_at(&mut tail, at).map_err(|e| ArchiveError::io("reading the archive", e))?;
    Locator::parse(&tail, container)
}
