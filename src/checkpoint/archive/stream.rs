//! A member on its way into the archive, of any length, from any thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::error::ArchiveError;
use super::meta::Meta;
use super::part::Part;
use super::shared::{CHUNK, Job, SMALL, Shared, submit};
use crate::name::Name;

/// Takes the content of one member in order. It must be [finished](MemberStream::finish): one that is dropped before
/// makes the archive fail, because what ended early must not look whole.
pub struct MemberStream {
    shared: Arc<Shared>,
    member: usize,
    name: Name,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of content before the buffer.
    before: u64,
    finished: bool,
}

impl MemberStream {
    pub(super) fn new(shared: Arc<Shared>, meta: Meta) -> Result<Self, ArchiveError> {
        let member = shared.enter(&meta)?;
        let name = meta.name;
        Ok(Self { shared, member, name, buffer: Vec::new(), filled: 0, before: 0, finished: false })
    }

    /// Reads once from `source`, straight into the archive's buffer: the way for pipes. Returns the number of bytes, 0
    /// at its end. May wait for the workers first.
    pub fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        self.make_room()?;
        let read = source.read(&mut self.buffer[self.filled..])?;
        self.filled += read;
        Ok(read)
    }

    /// Takes `len` bytes of `file` from `at`: one window of a file, at most a chunk.
    pub(super) fn read_at(&mut self, file: &File, at: u64, len: usize) -> io::Result<()> {
        if self.filled > 0 {
            self.hand_in()?;
        }
        if self.buffer.len() != CHUNK {
            self.buffer = self.shared.buffer();
        }
        file.read_exact_at(&mut self.buffer[..len.min(CHUNK)], at)?;
        self.filled = len.min(CHUNK);
        Ok(())
    }

    /// Adds a hole. What came before must have filled whole chunks.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), ArchiveError> {
        if self.filled > 0 {
            self.hand_in()?;
        }
        self.shared.reserve(self.member, len);
        self.before += len;
        Ok(())
    }

    /// Makes sure that the buffer has room. It begins small, since most images of criu are, and doubles up to a chunk.
    fn make_room(&mut self) -> Result<(), ArchiveError> {
        if self.filled == CHUNK {
            self.hand_in()?;
        }
        if self.filled == self.buffer.len() {
            if self.filled == 0 && self.before == 0 {
                self.buffer.resize(SMALL, 0);
            } else if self.filled == 0 {
                self.buffer = self.shared.buffer();
            } else {
                self.buffer.resize((self.filled * 2).min(CHUNK), 0);
            }
        }
        Ok(())
    }

    /// Gives the buffer to the workers as a chunk.
    fn hand_in(&mut self) -> Result<(), ArchiveError> {
        let (len, mut bytes) = (std::mem::take(&mut self.filled), std::mem::take(&mut self.buffer));
        bytes.resize(CHUNK, 0);
        let number = self.number()?;
        self.before += len as u64;
        self.send(Some(number), bytes, len)
    }

    /// Number of the chunk that begins behind what has been handed in.
    fn number(&self) -> Result<u32, ArchiveError> {
        u32::try_from(self.before / CHUNK as u64).map_err(|_| ArchiveError::bad(format!("{} is too long", self.name)))
    }

    fn send(&self, number: Option<u32>, bytes: Vec<u8>, len: usize) -> Result<(), ArchiveError> {
        let slot = self.shared.reserve(self.member, len as u64);
        let part = Part::new(self.member, number);
        submit(&self.shared, Job::Chunk { part, slot, bytes, len })
    }

    /// Ends the member.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        self.shared.check()?;
        let (len, bytes) = (std::mem::take(&mut self.filled), std::mem::take(&mut self.buffer));
        let single = self.before == 0;
        if single && len <= SMALL {
            self.shared.fill_small(self.member, &self.name, None, &bytes[..len])?;
        } else if len > 0 {
            let number = if single { None } else { Some(self.number()?) };
            self.send(number, bytes, len)?;
        }
        self.shared.complete(self.member);
        self.finished = true;
        Ok(())
    }

    /// Ends a member whose length was known before, and compares.
    pub(super) fn finish_sized(self, size: u64) -> Result<(), ArchiveError> {
        let got = self.before + self.filled as u64;
        if got != size {
            return Err(ArchiveError::bad(format!("{} has {got} bytes and should have {size}", self.name)));
        }
        self.finish()
    }
}

impl Write for MemberStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.make_room()?;
        let room = &mut self.buffer[self.filled..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        Ok(taken)
    }

    /// Does nothing: a chunk goes to the workers when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MemberStream {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.fail(ArchiveError::bad(format!("{} was not finished", self.name)));
        }
    }
}
