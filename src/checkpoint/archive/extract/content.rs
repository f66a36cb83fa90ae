//! The content of a file, written where it differs from what is there, with holes where blocks are zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::super::error::ArchiveError;
use super::super::index::Member;
use super::super::inner::ZEROS;
use super::super::member::Piece;
use super::super::reader::Reader;

/// Bytes that a file system stores or leaves out together, most often.
const BLOCK: usize = 4096;
/// A member with more than this is decoded ahead.
const LARGE: u64 = 4 << 20;

/// Writes the content of `member` into `file`, which is new, or had `was` bytes.
pub(super) fn write(
    reader: &Reader,
    member: &Member,
    file: &File,
    was: Option<u64>,
    threads: usize,
) -> Result<(), ArchiveError> {
    let writing = |e| ArchiveError::io(format!("writing {}", member.name), e);
    // What is too much goes first: it makes room.
    if was.is_some_and(|was| was > member.size) {
        file.set_len(member.size).map_err(writing)?;
    }
    let mut target = Target {
        file,
        old: was.unwrap_or(0).min(member.size),
        end: was.unwrap_or(0).min(member.size),
        buffer: Vec::new(),
    };
    if member.size > 0 {
        let threads = if member.size > LARGE { threads } else { 0 };
        let mut content = reader.open_member(&member.name, threads)?;
        let mut at = 0;
        while let Some(piece) = content.next_piece()? {
            let len = piece.len();
            match piece {
                Piece::Data(bytes) => target.data(bytes, at),
                Piece::Zero(len) => target.zeros(at, len),
            }
            .map_err(writing)?;
            at += len;
        }
    }
    if target.end < member.size {
        file.set_len(member.size).map_err(writing)?;
    }
    Ok(())
}

struct Target<'a> {
    file: &'a File,
    /// What is before this was there.
    old: u64,
    /// The file's length now.
    end: u64,
    buffer: Vec<u8>,
}

impl Target<'_> {
    fn data(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        if at < self.old {
            let there = (self.old - at).min(bytes.len() as u64) as usize;
            self.buffer.resize(there, 0);
            self.file.read_exact_at(&mut self.buffer, at)?;
            if self.buffer == bytes[..there] {
                return self.fresh(&bytes[there..], at + there as u64);
            }
            self.end = self.end.max(at + bytes.len() as u64);
            return self.file.write_all_at(bytes, at);
        }
        self.fresh(bytes, at)
    }

    /// Where nothing is yet: blocks of zeros stay holes.
    fn fresh(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut from = None;
        for (number, block) in bytes.chunks(BLOCK).enumerate() {
            let offset = number * BLOCK;
            if block == &ZEROS[..block.len()] {
                if let Some(from) = from.take() {
                    self.put(&bytes[from..offset], at + from as u64)?;
                }
            } else {
                from.get_or_insert(offset);
            }
        }
        match from {
            Some(from) => self.put(&bytes[from..], at + from as u64),
            None => Ok(()),
        }
    }

    fn put(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.end = self.end.max(at + bytes.len() as u64);
        self.file.write_all_at(bytes, at)
    }

    /// A hole; what was there is taken out.
    fn zeros(&mut self, at: u64, len: u64) -> io::Result<()> {
        if at >= self.old {
            return Ok(());
        }
        let len = len.min(self.old - at);
        match seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data >= at + len => return Ok(()),
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            _ => {}
        }
        match fallocate(self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len) {
            Ok(()) => Ok(()),
            // A file system without holes.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let mut written = 0;
                while written < len {
                    let part = (len - written).min(ZEROS.len() as u64);
                    self.file.write_all_at(&ZEROS[..part as usize], at + written)?;
                    written += part;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
