//! The content of one member, piece by piece, decoded ahead by threads of its own.
//!
//! Thread n of N decodes pieces n, n+N, n+2N … and hands each over through a channel of one place, so the order is
//! right without sorting and at most two pieces for each thread are in memory.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, bounded};

use super::error::ArchiveError;
use super::index::Extent;
use super::inner::{Inner, ZEROS};

/// Threads that decode ahead, for all members of a reader together. When criu restores many tasks it reads many images
/// at once, and each is decoded by the thread that serves it.
const MOST_AHEAD: usize = 8;

/// A piece of a member's content.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros: a hole, for who can make holes.
    Zero(u64),
}

impl Piece<'_> {
    /// Bytes of content that this stands for.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zero(len) => *len,
        }
    }

    /// Whether it stands for none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Decoded bytes that are being handed out.
enum Bytes {
    /// Of a frame that has nothing else in it.
    Own(Vec<u8>),
    /// Of a frame with other members.
    Shared(Arc<Vec<u8>>),
}

enum Current {
    Data { bytes: Bytes, from: usize, to: usize },
    Zero(u64),
}

/// A thread that decodes ahead.
struct Ahead {
    receiver: Option<Receiver<Result<Vec<u8>, ArchiveError>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Reads the content of one member from its start to its end.
pub struct MemberReader {
    inner: Arc<Inner>,
    number: usize,
    /// The next extent.
    next: usize,
    /// How many extents of data came before it.
    data: usize,
    current: Current,
    ahead: Vec<Ahead>,
    error: Option<ArchiveError>,
}

impl MemberReader {
    pub(super) fn new(inner: Arc<Inner>, number: usize, threads: usize) -> Self {
        let mut ahead = Vec::new();
        let pieces = inner.member(number).map_or(0, |m| m.extents.iter().filter(|e| is_data(e)).count());
        let wanted = if pieces > 1 { threads.min(pieces) } else { 0 };
        while ahead.len() < wanted && reserve(&inner) {
            ahead.push(());
        }
        let count = ahead.len();
        let ahead = (0..count).map(|first| start(&inner, number, first, count)).collect();
        Self { inner, number, next: 0, data: 0, current: Current::Zero(0), ahead, error: None }
    }

    /// Length of the content.
    pub fn size(&self) -> u64 {
        self.inner.member(self.number).map_or(0, |member| member.size)
    }

    /// The rest of the current piece, or the whole next one; `None` at the end. A damaged frame hands out nothing.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>, ArchiveError> {
        self.advance()?;
        match &mut self.current {
            Current::Zero(0) => Ok(None),
            Current::Zero(left) => Ok(Some(Piece::Zero(std::mem::take(left)))),
            Current::Data { bytes, from, to } => {
                let range = std::mem::replace(from, *to)..*to;
                Ok(Some(Piece::Data(bytes.get(range))))
            }
        }
    }

    /// The rest of the current piece, or the next one, with its memory; `None` at the end. Zeros come in pieces too.
    pub fn lend(&mut self) -> Result<Option<Lent>, ArchiveError> {
        self.advance()?;
        Ok(match std::mem::replace(&mut self.current, Current::Zero(0)) {
            Current::Zero(0) => None,
            Current::Zero(left) => {
                let part = left.min(ZEROS.len() as u64);
                self.current = Current::Zero(left - part);
                Some(Lent(LentBytes::Zeros(&ZEROS[..part as usize])))
            }
            Current::Data { bytes, from, to } => {
                Some(Lent(LentBytes::Data { inner: Arc::clone(&self.inner), bytes, range: from..to }))
            }
        })
    }

    /// Sees to it that the current piece has something left, unless the member has ended.
    fn advance(&mut self) -> Result<(), ArchiveError> {
        if let Some(error) = &self.error {
            return Err(error.again());
        }
        loop {
            match &self.current {
                Current::Zero(left) if *left > 0 => return Ok(()),
                Current::Data { from, to, .. } if from < to => return Ok(()),
                _ => {}
            }
            if let Current::Data { bytes: Bytes::Own(buffer), .. } =
                std::mem::replace(&mut self.current, Current::Zero(0))
            {
                self.inner.give_back(buffer);
            }
            let Some(extent) = self.inner.member(self.number).and_then(|member| member.extents.get(self.next)).copied()
            else {
                return Ok(());
            };
            self.next += 1;
            match self.load(extent) {
                Ok(current) => self.current = current,
                Err(error) => {
                    self.error = Some(error.again());
                    return Err(error);
                }
            }
        }
    }

    fn load(&mut self, extent: Extent) -> Result<Current, ArchiveError> {
        let (frame, at, len) = match extent {
            Extent::Zero { zero } => return Ok(Current::Zero(zero)),
            Extent::Data { frame, at, len } => (frame, at as usize, len as usize),
        };
        let turn = self.data;
        self.data += 1;
        // A thread that could not be started, or has ended, leaves its pieces to be decoded here.
        let ahead =
            self.ahead.get(turn % self.ahead.len().max(1)).and_then(|ahead| ahead.receiver.as_ref()?.recv().ok());
        let bytes = if let Some(decoded) = ahead {
            Bytes::Own(decoded?)
        } else if self.inner.frame(frame).is_some_and(|frame| len < frame.decoded as usize / 2) {
            Bytes::Shared(self.inner.load_shared(frame)?)
        } else {
            let mut buffer = self.inner.buffer();
            self.inner.load(frame, &mut buffer)?;
            Bytes::Own(buffer)
        };
        if at + len > bytes.len() {
            return Err(ArchiveError::damaged(format!("frame {frame} is too short")));
        }
        Ok(Current::Data { bytes, from: at, to: at + len })
    }
}

/// A piece of a member that has its memory for itself until it is dropped.
pub struct Lent(LentBytes);

enum LentBytes {
    Zeros(&'static [u8]),
    Data { inner: Arc<Inner>, bytes: Bytes, range: std::ops::Range<usize> },
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            LentBytes::Zeros(zeros) => zeros,
            LentBytes::Data { bytes, range, .. } => bytes.get(range.clone()),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let LentBytes::Data { inner, bytes: Bytes::Own(buffer), .. } = &mut self.0 {
            inner.give_back(std::mem::take(buffer));
        }
    }
}

impl Bytes {
    fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// The range has been compared with the length before.
    fn get(&self, range: std::ops::Range<usize>) -> &[u8] {
        match self {
            Self::Own(bytes) => &bytes[range],
            Self::Shared(bytes) => &bytes[range],
        }
    }
}

fn is_data(extent: &Extent) -> bool {
    matches!(extent, Extent::Data { .. })
}

/// Takes a thread out of the common limit.
fn reserve(inner: &Inner) -> bool {
    let taken = inner.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MOST_AHEAD).then_some(n + 1));
    taken.is_ok()
}

/// Starts thread `first` of `count`.
fn start(inner: &Arc<Inner>, number: usize, first: usize, count: usize) -> Ahead {
    let (sender, receiver) = bounded(1);
    let shared = Arc::clone(inner);
    let body = move || {
        let extents = shared.member(number).map_or(&[][..], |member| &member.extents);
        for extent in extents.iter().filter(|extent| is_data(extent)).skip(first).step_by(count) {
            let Extent::Data { frame, .. } = extent else { continue };
            let mut buffer = shared.buffer();
            let result = shared.load(*frame, &mut buffer).map(|()| buffer);
            let failed = result.is_err();
            // Nobody listens any more when the reader was dropped.
            if sender.send(result).is_err() || failed {
                break;
            }
        }
        shared.ahead.fetch_sub(1, Ordering::Relaxed);
    };
    let thread = std::thread::Builder::new().name("archive-ahead".into()).spawn(body).ok();
    if thread.is_none() {
        inner.ahead.fetch_sub(1, Ordering::Relaxed);
    }
    Ahead { receiver: Some(receiver), thread }
}

impl Drop for Ahead {
    /// Whoever makes a sandbox afterwards must have one thread.
    fn drop(&mut self) {
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl BufRead for MemberReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.advance()?;
        Ok(match &self.current {
            Current::Data { bytes, from, to } => bytes.get(*from..*to),
            Current::Zero(left) => &ZEROS[..(*left).min(ZEROS.len() as u64) as usize],
        })
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.current {
            Current::Data { from, to, .. } => *from = (*from + amount).min(*to),
            Current::Zero(left) => *left = left.saturating_sub(amount as u64),
        }
    }
}

impl Read for MemberReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}
