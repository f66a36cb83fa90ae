//! The index frame at the end of the file, as a stream both ways.
//!
//! The JSON of a large checkpoint is the one thing whose length grows with the payload: 200 bytes for each MiB. It is
//! never held whole: it is counted, then serialised into the compressor, and parsed as it comes out of the
//! decompressor.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use zstd::zstd_safe::CParameter;

use super::codec::Container;
use super::error::ArchiveError;
use super::format::{Digest, INDEX, Locator, MAJOR, MAX_INDEX, MINOR};
use super::index::{Index, Kind, Mtime};
use super::tarhead::{self, BLOCK, Head};
use crate::name::Name;

/// Window of the compressor, as a power of two of bytes. What repeats in the JSON, its keys, repeats at once; a larger
/// one is only memory.
const WINDOW_LOG: u32 = 16;
/// Largest window that is read: of level 19, which version 1.0 used for the index too. What a hostile frame can make us
/// allocate.
const WINDOW_LOG_MAX: u32 = 23;
/// Bytes between the streams and the file, and between the decompressor and the parser.
const BUFFER: usize = 32 << 10;

/// Writes the index frame at `at`, and says where it is.
pub(super) fn write_index(file: &File, container: Container, at: u64, index: &Index) -> Result<Locator, ArchiveError> {
    let writing = |e| ArchiveError::io("writing the index", e);
    let mut counted = Counted { to: io::sink(), len: 0 };
    serialise(index, &mut counted).map_err(writing)?;
    let json_len = counted.len;
    let mut head = Vec::with_capacity(BLOCK);
    let (name, mtime) = (Name::new(INDEX), Mtime::default());
    tarhead::write(&Head { name: &name, kind: Kind::File, mode: 0o600, mtime, size: json_len, link: None }, &mut head)?;
    // Padding, then two blocks of zeros: the end of a tar.
    let closing = vec![0; tarhead::padding(json_len as usize) + 2 * BLOCK];
    let json_at = head.len() as u64;
    let decoded = json_at + json_len + closing.len() as u64;
    if decoded > MAX_INDEX {
        return Err(ArchiveError::bad("the archive has too many members"));
    }
    let place = io::BufWriter::with_capacity(BUFFER, Place { file, at, hash: blake3::Hasher::new() });
    let content = |to: &mut dyn Write| {
        to.write_all(&head)?;
        serialise(index, to)?;
        to.write_all(&closing)
    };
    let place = match container {
        Container::Zstd => {
            let mut packed = zstd::stream::write::Encoder::new(place, 1).map_err(writing)?;
            packed.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(writing)?;
            content(&mut packed).and_then(|()| packed.finish())
        }
        Container::Gzip => {
            let mut packed = flate2::write::GzEncoder::new(place, flate2::Compression::new(1));
            content(&mut packed).and_then(|()| packed.finish())
        }
    };
    let place = place.and_then(|place| place.into_inner().map_err(io::IntoInnerError::into_error)).map_err(writing)?;
    let (stored, blake3) = (place.at - at, Digest(*place.hash.finalize().as_bytes()));
    Ok(Locator { version: (MAJOR, MINOR), at, stored, decoded, json_at, json_len, blake3 })
}

/// Reads the index, whose `stored` bytes the caller has compared with their digest. Lengths are those that
/// [`Locator::check`] has bounded.
pub(super) fn read_index(container: Container, locator: &Locator, stored: &[u8]) -> Result<Index, ArchiveError> {
    let broken = |e: &dyn std::fmt::Display| ArchiveError::damaged(format!("its index cannot be read: {e}"));
    let decoder: Box<dyn Read + '_> = match container {
        Container::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(|e| broken(&e))?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(|e| broken(&e))?;
            Box::new(decoder)
        }
        Container::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
    };
    // One byte more than there should be, to see that there is none.
    let mut decoded = decoder.take(locator.decoded + 1);
    let before = io::copy(&mut (&mut decoded).take(locator.json_at), &mut io::sink()).map_err(|e| broken(&e))?;
    let mut json = BufReader::with_capacity(BUFFER, (&mut decoded).take(locator.json_len));
    let index: Index = serde_json::from_reader(&mut json).map_err(|e| broken(&e))?;
    drop(json);
    let after = io::copy(&mut decoded, &mut io::sink()).map_err(|e| broken(&e))?;
    if before + locator.json_len + after != locator.decoded {
        return Err(ArchiveError::damaged("its index has another length than its locator says"));
    }
    Ok(index)
}

fn serialise(index: &Index, to: &mut dyn Write) -> io::Result<()> {
    // Small writes are gathered: a compressor is called for each.
    let mut to = io::BufWriter::with_capacity(BUFFER, to);
    serde_json::to_writer(&mut to, index)?;
    to.flush()
}

/// Counts what goes through.
struct Counted<W> {
    to: W,
    len: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.to.write(bytes)?;
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A place in a file that moves on, with the digest of what has been written.
struct Place<'a> {
    file: &'a File,
    at: u64,
    hash: blake3::Hasher,
}

impl Write for Place<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write_at(bytes, self.at)?;
        self.hash.update(&bytes[..len]);
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
