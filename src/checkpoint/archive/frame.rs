//! One frame: the unit that is compressed, verified, found and decompressed alone.
//!
//! A frame of the archive is a run of bytes of the tar, stored as one or more frames of the container (zstd, or gzip
//! members) end to end, which any decoder takes for one. The writer uses that twice: a chunk's tar header stands
//! unfiltered before its payload, and of a shuffled payload the planes that are noise are stored raw while the others
//! are compressed.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ParamSwitch, Strategy};

use super::codec::{Codec, Container};
use super::error::ArchiveError;
use super::filter::{self, Filter};
use super::format::MAX_FRAME;
use super::index::Frame;
use super::sample::{Coding, Plan, Prices, Sampler};

/// How the archive is to be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Nothing is compressed; the file is still a zstd file, of raw blocks.
    None,
    /// Every frame with this level of zstd.
    Zstd {
        /// 1 (fast) to 19; negative levels are faster still.
        level: i32,
    },
    /// Every frame with this level of gzip, for places that have nothing newer; slow.
    Gzip {
        /// 1 (fast) to 9.
        level: u32,
    },
    /// A look at each frame decides: nothing for zeros, raw for noise, shuffled planes for arrays of numbers, zstd for
    /// the rest.
    #[default]
    Auto,
}

impl Compression {
    pub(super) fn container(self) -> Container {
        match self {
            Self::Gzip { .. } => Container::Gzip,
            _ => Container::Zstd,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    /// `none`, `auto`, `zstd`, `zstd:LEVEL`, `gzip`, `gzip:LEVEL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        let level = level.map(|level| level.parse::<i32>().map_err(|_| format!("{level:?} is no compression level")));
        match (name, level.transpose()?) {
            ("none", None) => Ok(Self::None),
            ("auto", None) => Ok(Self::Auto),
            // zstd's own default is 3; the vacate window is short, and 1 loses little.
            ("zstd", level) if (-7..=19).contains(&level.unwrap_or(1)) => Ok(Self::Zstd { level: level.unwrap_or(1) }),
            ("gzip", level) if (1..=9).contains(&level.unwrap_or(1)) => {
                Ok(Self::Gzip { level: level.unwrap_or(1).unsigned_abs() })
            }
            _ => Err(format!("{text:?} is no compression: use auto, none, zstd[:-7..19] or gzip[:1..9]")),
        }
    }
}

/// A buffer that is written from its start again and again without being cleared in between.
#[derive(Default)]
pub struct Out {
    bytes: Vec<u8>,
    len: usize,
}

impl Out {
    /// What has been written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    /// Room for `size` bytes behind what has been written.
    fn room(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + size {
            self.bytes.resize(self.len + size, 0);
        }
        &mut self.bytes[self.len..self.len + size]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Most bytes of one block of zstd.
const ZSTD_BLOCK: usize = 128 << 10;

/// Compresses frames; one for each thread.
pub struct Encoder {
    compression: Compression,
    zstd: Compressor<'static>,
    /// zstd that only counts and codes.
    entropy: Compressor<'static>,
    sampler: Sampler,
    planes: Vec<u8>,
}

impl Encoder {
    /// An encoder for one thread. `prices` are for [`Compression::Auto`].
    pub fn new(compression: Compression, prices: Prices) -> Result<Self, ArchiveError> {
        let level = match compression {
            Compression::Zstd { level } => level,
            _ => 1,
        };
        let starting = |e| ArchiveError::io("starting zstd", e);
        let zstd = Compressor::new(level).map_err(starting)?;
        let mut entropy = Compressor::new(1).map_err(starting)?;
        for parameter in [
            // Its steps between two tries at a match are as long as a block, so that all of it is literals; with steps
            // other than the shortest zstd would not code these either, unless it is told to.
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::TargetLength(ZSTD_BLOCK as u32),
            CParameter::HashLog(6),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            entropy.set_parameter(parameter).map_err(starting)?;
        }
        Ok(Self { compression, zstd, entropy, sampler: Sampler::new(prices), planes: Vec::new() })
    }

    /// Stores `head` (tar headers) and `body` (of which the first `payload` bytes are content and the rest is padding)
    /// in `out`. Only content is ever filtered, and only if `numbers` says that it may be an array of them.
    pub fn encode(
        &mut self,
        head: &[u8],
        body: &[u8],
        payload: usize,
        numbers: bool,
        out: &mut Out,
    ) -> Result<(Codec, Option<Filter>), ArchiveError> {
        out.clear();
        let plan = match self.compression {
            Compression::None => {
                raw_frame(head, out);
                raw_frame(body, out);
                return Ok((Codec::Raw, None));
            }
            Compression::Gzip { level } => {
                gzip_member(head, level, out)?;
                gzip_member(body, level, out)?;
                return Ok((Codec::Gzip, None));
            }
            Compression::Auto if numbers => self.sampler.plan(&body[..payload.min(body.len())], &mut self.zstd)?,
            Compression::Auto | Compression::Zstd { .. } => Plan::Zstd,
        };
        if !head.is_empty() {
            self.zstd_frame(head, out)?;
        }
        match plan {
            Plan::Raw => {
                raw_frame(body, out);
                Ok((Codec::Raw, None))
            }
            Plan::Zstd => {
                self.zstd_frame(body, out)?;
                Ok((Codec::Zstd, None))
            }
            Plan::Shuffle { elem, delta, planes } => {
                let codings = &planes[..usize::from(elem)];
                let filter = self.shuffled(head.len(), body, payload, (elem, delta, codings), out)?;
                Ok((Codec::Zstd, Some(filter)))
            }
        }
    }

    /// Shuffles the content and stores each plane as `codings` says. Raw planes at the front, the noise of a mantissa,
    /// are shuffled straight to where they are stored.
    fn shuffled(
        &mut self,
        at: usize,
        body: &[u8],
        payload: usize,
        (elem, delta, codings): (u8, bool, &[Coding]),
        out: &mut Out,
    ) -> Result<Filter, ArchiveError> {
        let plane = payload / usize::from(elem);
        let len = plane * usize::from(elem);
        let in_place = match plane <= ZSTD_BLOCK {
            true => codings.iter().take_while(|coding| **coding == Coding::Raw).count(),
            false => 0,
        };
        let mut planes = std::mem::take(&mut self.planes);
        planes.resize(len - in_place * plane, 0);
        {
            let mut places: Vec<&mut [u8]> = Vec::with_capacity(codings.len());
            raw_blocks(plane, in_place, out, &mut places);
            places.extend(planes.chunks_exact_mut(plane));
            filter::apply(&body[..len], elem, delta, &mut places);
        }
        let (mut from, mut rest) = (in_place, &planes[..]);
        while let Some(coding) = codings.get(from) {
            let count = codings[from..].iter().take_while(|next| *next == coding).count();
            let (run, after) = rest.split_at(count * plane);
            match coding {
                Coding::Raw => raw_frame(run, out),
                Coding::Entropy => packed_frame(&mut self.entropy, run, out)?,
                Coding::Zstd => packed_frame(&mut self.zstd, run, out)?,
            }
            (from, rest) = (from + count, after);
        }
        self.planes = planes;
        if len < body.len() {
            self.zstd_frame(&body[len..], out)?;
        }
        Ok(Filter { elem, delta, at: at as u32, len: len as u32 })
    }

    fn zstd_frame(&mut self, src: &[u8], out: &mut Out) -> Result<(), ArchiveError> {
        packed_frame(&mut self.zstd, src, out)
    }
}

fn packed_frame(zstd: &mut Compressor<'static>, src: &[u8], out: &mut Out) -> Result<(), ArchiveError> {
    let room = out.room(zstd::zstd_safe::compress_bound(src.len()));
    let len = zstd.compress_to_buffer(src, room).map_err(|e| ArchiveError::io("compressing", e))?;
    out.len += len;
    Ok(())
}

/// Header of a zstd frame of raw blocks that holds `size` bytes.
fn raw_head(size: usize) -> [u8; 9] {
    // Magic; single segment, size in four bytes; size.
    let [a, b, c, d] = (size as u32).to_le_bytes();
    [0x28, 0xb5, 0x2f, 0xfd, 0xa0, a, b, c, d]
}

/// Header of a raw block of at most [`ZSTD_BLOCK`] bytes.
fn raw_block_head(size: usize, last: bool) -> [u8; 3] {
    // Bit 0: last block; bits 1 and 2: type 0, raw; the rest: size.
    let [a, b, c, _] = ((size as u32) << 3 | u32::from(last)).to_le_bytes();
    [a, b, c]
}

/// A zstd frame of `count` raw blocks of `size` bytes each, whose content is still to be written to `places`.
fn raw_blocks<'a>(size: usize, count: usize, out: &'a mut Out, places: &mut Vec<&'a mut [u8]>) {
    if count == 0 {
        return;
    }
    out.push(&raw_head(size * count));
    let before = out.len;
    let len = count * (3 + size);
    out.room(len);
    out.len += len;
    for (number, block) in out.bytes[before..before + len].chunks_exact_mut(3 + size).enumerate() {
        let (head, place) = block.split_at_mut(3);
        head.copy_from_slice(&raw_block_head(size, number + 1 == count));
        places.push(place);
    }
}

/// A zstd frame of raw blocks, written by hand: the library offers no level that only copies.
fn raw_frame(src: &[u8], out: &mut Out) {
    if src.is_empty() {
        return;
    }
    out.push(&raw_head(src.len()));
    let blocks = src.len().div_ceil(ZSTD_BLOCK);
    for (number, block) in src.chunks(ZSTD_BLOCK).enumerate() {
        out.push(&raw_block_head(block.len(), number + 1 == blocks));
        out.push(block);
    }
}

fn gzip_member(src: &[u8], level: u32, out: &mut Out) -> Result<(), ArchiveError> {
    if src.is_empty() {
        return Ok(());
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    let bytes = packed.write_all(src).and_then(|()| packed.finish());
    out.push(&bytes.map_err(|e| ArchiveError::io("compressing", e))?);
    Ok(())
}

/// Decompresses frames; one for each thread.
pub struct Decoder {
    zstd: Decompressor<'static>,
    planes: Vec<u8>,
}

impl Decoder {
    /// A decoder for one thread.
    pub fn new() -> Result<Self, ArchiveError> {
        let zstd = Decompressor::new().map_err(|e| ArchiveError::io("starting zstd", e))?;
        Ok(Self { zstd, planes: Vec::new() })
    }

    /// Makes `out` the decoded bytes of `frame`, whose `stored` bytes the caller has compared with their digest.
    pub fn decode(&mut self, frame: &Frame, stored: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        if frame.decoded > MAX_FRAME || frame.filter.is_some_and(|filter| !filter.fits(frame.decoded)) {
            return Err(ArchiveError::damaged("a frame is larger than any frame may be"));
        }
        out.resize(frame.decoded as usize, 0);
        match frame.filter {
            None => self.decompress(frame.codec, stored, out),
            Some(filter) => {
                let mut planes = std::mem::take(&mut self.planes);
                planes.resize(out.len(), 0);
                let result = self.decompress(frame.codec, stored, &mut planes);
                filter.undo(&planes, out);
                self.planes = planes;
                result
            }
        }
    }

    /// Fills `out` exactly; a frame that holds less or more is damaged, whatever its digest says.
    pub(super) fn decompress(&mut self, codec: Codec, stored: &[u8], out: &mut [u8]) -> Result<(), ArchiveError> {
        let damaged = |e: &dyn fmt::Display| ArchiveError::damaged(format!("a frame cannot be decompressed: {e}"));
        let len = match codec {
            Codec::Zstd | Codec::Raw => self.zstd.decompress_to_buffer(stored, out).map_err(|e| damaged(&e))?,
            Codec::Gzip => {
                let mut packed = flate2::bufread::MultiGzDecoder::new(stored);
                packed.read_exact(out).map_err(|e| damaged(&e))?;
                let rest = packed.read(&mut [0; 1]).map_err(|e| damaged(&e))?;
                out.len() + rest
            }
        };
        if len == out.len() { Ok(()) } else { Err(damaged(&"it has another length than the index says")) }
    }
}
