//! Images between criu and the archive: the one place that knows both.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use super::archive::{MemberReader, MemberStream, Reader, Writer};
use crate::criu::features::{self, Feature};
use crate::criu::images::Rewrite;
use crate::criu::locks::{self, Lock};
use crate::criu::owners::{self, Owner};
use crate::criu::stream::{ImageReader, ImageSink, ImageSource, ImageWriter, Lent};

/// Where images are in an archive.
pub const IMAGES: &str = "images";

fn member(name: &str) -> OsString {
    OsString::from(format!("{IMAGES}/{name}"))
}

/// Puts the images of a dump into an archive, and notes what they need of a kernel.
pub struct ArchiveSink<'a> {
    writer: &'a Writer,
    features: Mutex<BTreeSet<Feature>>,
}

impl<'a> ArchiveSink<'a> {
    /// Into this archive.
    pub fn new(writer: &'a Writer) -> Self {
        ArchiveSink { writer, features: Mutex::default() }
    }

    /// What the images that have passed need of a kernel.
    pub fn features(self) -> BTreeSet<Feature> {
        self.features.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageSink for ArchiveSink<'_> {
    fn image<'a>(&'a self, name: &str) -> io::Result<Box<dyn ImageWriter + 'a>> {
        let stream = self.writer.stream(member(name))?;
        if !features::concerns(name) {
            return Ok(Box::new(stream));
        }
        Ok(Box::new(Noted { stream, name: name.to_owned(), copy: Vec::new(), features: &self.features }))
    }
}

/// An image that is looked at when it is whole.
struct Noted<'a> {
    stream: MemberStream,
    name: String,
    copy: Vec<u8>,
    features: &'a Mutex<BTreeSet<Feature>>,
}

impl ImageWriter for Noted<'_> {
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        self.stream.fill(&mut Copying { source, copy: &mut self.copy })
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let found = features::of_image(&self.name, &self.copy);
        let found = found.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.features.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(self.stream.finish()?)
    }
}

/// What is read from `source` is also added to `copy`.
struct Copying<'a> {
    source: &'a mut dyn Read,
    copy: &'a mut Vec<u8>,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.copy.extend_from_slice(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

impl ImageWriter for MemberStream {
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        MemberStream::fill(self, source)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(MemberStream::finish(*self)?)
    }
}

/// Gives a restore the images of an archive.
pub struct ArchiveSource<'a> {
    /// The archive.
    pub archive: &'a Reader,
    /// What has to differ on this host.
    pub rewrite: Rewrite,
    /// Record locks that are to be in the image of locks.
    pub locks: &'a [Lock],
    /// Who owns what is made anew.
    pub owner: Owner,
    /// Threads that decode ahead, for each large image.
    pub threads: usize,
}

/// Longest image that is held in memory to be rewritten. The largest of these has some 60 bytes for each mapping of a
/// task, of which there are 65,530 at most unless the host's administrator allows more.
const MOST_REWRITTEN: u64 = 64 << 20;

impl ImageSource for ArchiveSource<'_> {
    fn open<'a>(&'a self, name: &str) -> io::Result<Option<Box<dyn ImageReader + 'a>>> {
        let member = member(name);
        let found = self.archive.get(&member);
        if name == locks::IMAGE && !self.locks.is_empty() {
            let saved = found.map(|found| self.whole(&member, found.size)).transpose()?;
            return Ok(Some(Box::new(Whole::from(locks::add(saved, self.locks)))));
        }
        let Some(found) = found else { return Ok(None) };
        if owners::is_ghost(name) {
            return Ok(Some(Box::new(Edited::ghost(self.archive.open_member(&member, self.threads)?, self.owner)?)));
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if name == owners::TERMINAL_IMAGE {
            let image = self.whole(&member, found.size)?;
            return Ok(Some(Box::new(Whole::from(self.owner.of_terminals(&image).map_err(invalid)?))));
        }
        if !self.rewrite.concerns(name) {
            return Ok(Some(Box::new(self.archive.open_member(&member, self.threads)?)));
        }
        let image = self.whole(&member, found.size)?;
        let mut image = self.rewrite.apply(name, &image).map_err(invalid)?;
        if name == "files.img" {
            image = self.owner.of_sockets(name, &image).map_err(invalid)?;
        }
        Ok(Some(Box::new(Whole::from(image))))
    }
}

impl ArchiveSource<'_> {
    fn whole(&self, member: &OsStr, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST_REWRITTEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the image is impossibly large"));
        }
        let mut image = Vec::new();
        self.archive.copy_to(member, &mut image)?;
        Ok(image)
    }
}

impl ImageReader for MemberReader {
    fn size(&self) -> u64 {
        MemberReader::size(self)
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        Ok(self.lend()?.map(|piece| Box::new(piece) as Lent))
    }
}

/// An image whose first piece was edited.
struct Edited {
    size: u64,
    first: Option<Vec<u8>>,
    rest: MemberReader,
}

impl Edited {
    fn ghost(mut rest: MemberReader, owner: Owner) -> io::Result<Edited> {
        let size = rest.size();
        let first = rest.lend()?.map(|piece| (piece.as_ref().len() as u64, owner.of_ghost(piece.as_ref())));
        let size = first.as_ref().map_or(size, |(was, first)| size - was + first.len() as u64);
        Ok(Edited { size, first: first.map(|(_, first)| first), rest })
    }
}

impl ImageReader for Edited {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        match self.first.take() {
            Some(first) => Ok(Some(Box::new(first) as Lent)),
            None => ImageReader::next(&mut self.rest),
        }
    }
}

/// An image that is in memory.
struct Whole {
    size: u64,
    image: Option<Vec<u8>>,
}

impl From<Vec<u8>> for Whole {
    fn from(image: Vec<u8>) -> Whole {
        Whole { size: image.len() as u64, image: Some(image) }
    }
}

impl ImageReader for Whole {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        Ok(self.image.take().map(|image| Box::new(image) as Lent))
    }
}
