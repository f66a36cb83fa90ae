//! Images between criu and the archive: the one place that knows both.

use std::ffi::OsString;
use std::io::{self, Read};

use super::archive::{MemberReader, MemberStream, Reader, Writer};
use crate::criu::images::Rewrite;
use crate::criu::stream::{ImageReader, ImageSink, ImageSource, ImageWriter, Lent};

/// Where images are in an archive.
pub const IMAGES: &str = "images";

fn member(name: &str) -> OsString {
    OsString::from(format!("{IMAGES}/{name}"))
}

/// Puts the images of a dump into an archive.
pub struct ArchiveSink<'a>(pub &'a Writer);

impl ImageSink for ArchiveSink<'_> {
    fn image<'a>(&'a self, name: &str) -> io::Result<Box<dyn ImageWriter + 'a>> {
        Ok(Box::new(self.0.stream(member(name))?))
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
    /// Threads that decode ahead, for each large image.
    pub threads: usize,
}

/// Longest image that is held in memory to be rewritten. The largest of these has some 60 bytes for each mapping of a task, of which
/// there are 65,530 at most unless the host's administrator allows more.
const MOST_REWRITTEN: u64 = 64 << 20;

impl ImageSource for ArchiveSource<'_> {
    fn open<'a>(&'a self, name: &str) -> io::Result<Option<Box<dyn ImageReader + 'a>>> {
        let member = member(name);
        let Some(found) = self.archive.get(&member) else { return Ok(None) };
        if !self.rewrite.concerns(name) {
            return Ok(Some(Box::new(self.archive.open_member(&member, self.threads)?)));
        }
        if found.size > MOST_REWRITTEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the image is impossibly large"));
        }
        let mut image = Vec::new();
        self.archive.copy_to(&member, &mut image)?;
        let image = self.rewrite.apply(name, &image).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(Box::new(Whole { size: image.len() as u64, image: Some(image) })))
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

/// An image that is in memory.
struct Whole {
    size: u64,
    image: Option<Vec<u8>>,
}

impl ImageReader for Whole {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        Ok(self.image.take().map(|image| Box::new(image) as Lent))
    }
}
