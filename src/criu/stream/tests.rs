//! Both sides against a criu that is made of threads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;

fn send_pipe(socket: &UnixStream, pipe: OwnedFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [pipe.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()).unwrap();
}

fn connect(dir: &Path, name: &str) -> UnixStream {
    UnixStream::connect(dir.join(name)).unwrap()
}

/// Begins an image as criu does at a dump.
fn begin(socket: &UnixStream, name: &str) -> File {
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut to = socket;
    to.write_all(&proto::request(name)).unwrap();
    send_pipe(socket, read);
    File::from(write)
}

/// Asks for an image as criu does at a restore.
fn ask(socket: &UnixStream, name: &str) -> Option<File> {
    let (mut from, mut to) = (socket, socket);
    to.write_all(&proto::request(name)).unwrap();
    let mut reply = [0; 6];
    from.read_exact(&mut reply).unwrap();
    if reply != [2, 0, 0, 0, 8, 1] {
        assert_eq!(reply, [2, 0, 0, 0, 8, 0]);
        return None;
    }
    let (read, write) = nix::unistd::pipe().unwrap();
    send_pipe(socket, write);
    Some(File::from(read))
}

#[derive(Default)]
struct Store {
    images: Mutex<HashMap<String, Vec<u8>>>,
    /// An image that cannot be written or read.
    bad: &'static str,
}

struct Image<'a>(&'a Store, String, Vec<u8>);

impl ImageSink for Store {
    fn image<'a>(&'a self, name: &str) -> io::Result<Box<dyn ImageWriter + 'a>> {
        Ok(Box::new(Image(self, name.into(), Vec::new())))
    }
}

impl ImageWriter for Image<'_> {
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<usize> {
        if self.1 == self.0.bad {
            return Err(io::Error::from_raw_os_error(28));
        }
        let mut piece = [0; 10_000];
        let len = source.read(&mut piece)?;
        self.2.extend_from_slice(&piece[..len]);
        Ok(len)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        assert!(self.0.images.lock().unwrap().insert(self.1, self.2).is_none());
        Ok(())
    }
}

struct Bad;

impl ImageReader for Bad {
    fn size(&self) -> u64 {
        1
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        Err(io::ErrorKind::InvalidData.into())
    }
}

impl ImageSource for Store {
    fn open<'a>(&'a self, name: &str) -> io::Result<Option<Box<dyn ImageReader + 'a>>> {
        if name == self.bad {
            return Ok(Some(Box::new(Bad)));
        }
        let image = self.images.lock().unwrap().get(name).cloned();
        Ok(image.map(|bytes| Box::new(Pieces { bytes, at: 0, dropped: Arc::default() }) as Box<dyn ImageReader>))
    }
}

/// Gives an image in pieces of an odd length, and spoils each when it is given back.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    /// Pieces that were given back.
    dropped: Arc<AtomicUsize>,
}

struct Spoiled(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Spoiled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Spoiled {
    fn drop(&mut self) {
        self.0.fill(0xee);
        self.1.fetch_add(1, Ordering::Relaxed);
        // Its memory must stay what it is now, for a pipe that still shows it.
        std::mem::forget(std::mem::take(&mut self.0));
    }
}

impl ImageReader for Pieces {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next(&mut self) -> io::Result<Option<Lent>> {
        let end = (self.at + 77_777).min(self.bytes.len());
        let piece = self.bytes[self.at..end].to_vec();
        self.at = end;
        Ok((!piece.is_empty()).then(|| Box::new(Spoiled(piece, Arc::clone(&self.dropped))) as Lent))
    }
}

fn store(bad: &'static str) -> Arc<Store> {
    Arc::new(Store { bad, ..Store::default() })
}

fn content(n: usize) -> Vec<u8> {
    (0..n * 150_000).map(|at| (at * (n + 7) / 251) as u8).collect()
}

#[test]
fn twelve_images_at_once_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let store = store("");
    let capture = Capture::listen(dir.path()).unwrap();
    let socket = connect(dir.path(), "streamer-capture.sock");
    let sink = Arc::clone(&store);
    let run = std::thread::spawn(move || capture.run(&*sink).unwrap());
    // All are open before the first byte is written, and they are filled in turn.
    let mut pipes: Vec<File> = (0..12).map(|n| begin(&socket, &format!("pages-{n}.img"))).collect();
    drop(socket);
    for round in 0..12 {
        for (n, pipe) in pipes.iter_mut().enumerate() {
            let bytes = content(n);
            pipe.write_all(&bytes[bytes.len() * round / 12..bytes.len() * (round + 1) / 12]).unwrap();
        }
    }
    drop(pipes);
    let bytes = (0..12).map(|n| content(n).len() as u64).sum();
    let captured = run.join().unwrap();
    assert_eq!((captured.images, captured.bytes, captured.held.is_some()), (12, bytes, false));
    assert!(!dir.path().join("streamer-capture.sock").exists());

    let serve = Serve::listen(dir.path()).unwrap();
    let socket = connect(dir.path(), "streamer-serve.sock");
    let run = std::thread::spawn(move || serve.run(&*store).unwrap());
    let mut pipes: Vec<File> = (0..12).map(|n| ask(&socket, &format!("pages-{n}.img")).unwrap()).collect();
    assert!(ask(&socket, "pages-12.img").is_none());
    drop(socket);
    let mut read = vec![Vec::new(); 12];
    for (n, pipe) in pipes.iter_mut().enumerate().rev() {
        pipe.read_to_end(&mut read[n]).unwrap();
        assert!(read[n] == content(n), "{n}");
    }
    assert_eq!(run.join().unwrap(), Served { images: 12, absent: 1, unread: 0, bytes });
}

#[test]
fn an_error_of_the_sink_closes_every_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let store = store("core-1.img");
    let capture = Capture::listen(dir.path()).unwrap();
    let socket = connect(dir.path(), "streamer-capture.sock");
    let run = std::thread::spawn(move || capture.run(&*store));
    let mut open = begin(&socket, "files.img");
    let _bad = begin(&socket, "core-1.img").write_all(b"x");
    // criu is still connected and another pipe is open; neither may hold us.
    let error = run.join().unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Image { name, .. } if name == "core-1.img"));
    assert_eq!(open.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn an_error_of_the_source_stops_the_restore() {
    let dir = tempfile::tempdir().unwrap();
    let store = store("pages-1.img");
    store.images.lock().unwrap().insert("pages-2.img".into(), content(9));
    let serve = Serve::listen(dir.path()).unwrap();
    let socket = connect(dir.path(), "streamer-serve.sock");
    let run = std::thread::spawn(move || serve.run(&*store));
    let _unread = ask(&socket, "pages-2.img").unwrap();
    let _bad = ask(&socket, "pages-1.img").unwrap();
    assert!(matches!(run.join().unwrap().unwrap_err(), StreamError::Image { name, .. } if name == "pages-1.img"));
}

#[test]
fn lent_memory_is_given_back_only_when_it_has_been_read() {
    // Pieces spoil their memory when they are given back: what came too early would be seen here.
    for len in [1, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 5_000_001] {
        let (read, write_end) = nix::unistd::pipe().unwrap();
        let bytes: Vec<u8> = (0..len).map(|at: usize| (at * 7 / 251) as u8).collect();
        let dropped = Arc::new(AtomicUsize::new(0));
        let image = Box::new(Pieces { bytes: bytes.clone(), at: 0, dropped: Arc::clone(&dropped) });
        let run =
            std::thread::spawn(move || serve::write(image, &File::from(write_end), &socket::Stop::new().unwrap()));
        let mut got = Vec::new();
        File::from(read).read_to_end(&mut got).unwrap();
        assert_eq!(run.join().unwrap().unwrap(), len as u64);
        assert!(got == bytes, "{len}");
        assert_eq!(dropped.load(Ordering::Relaxed), len.div_ceil(77_777));
    }
}

#[test]
fn an_image_of_another_length_than_it_says_is_an_error() {
    struct Short(bool);
    impl ImageReader for Short {
        fn size(&self) -> u64 {
            10
        }
        fn next(&mut self) -> io::Result<Option<Lent>> {
            Ok(std::mem::take(&mut self.0).then(|| Box::new(vec![0_u8; 9]) as Lent))
        }
    }
    let (_read, write_end) = nix::unistd::pipe().unwrap();
    let result = serve::write(Box::new(Short(true)), &File::from(write_end), &socket::Stop::new().unwrap());
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_reader_that_leaves_early_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store("");
    store.images.lock().unwrap().insert("pages-2.img".into(), content(30));
    let serve = Serve::listen(dir.path()).unwrap();
    let socket = connect(dir.path(), "streamer-serve.sock");
    let run = std::thread::spawn(move || serve.run(&*store));
    drop(ask(&socket, "pages-2.img").unwrap());
    drop(socket);
    assert_eq!(run.join().unwrap().unwrap().unread, 1);
}

#[test]
fn cancelling_ends_every_wait() {
    // Before criu connects; while it says nothing; while a pipe says nothing.
    for stage in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let store = store("");
        let capture = Capture::listen(dir.path()).unwrap();
        let cancel = capture.cancel_handle();
        let run = std::thread::spawn(move || capture.run(&*store));
        let socket = (stage > 0).then(|| connect(dir.path(), "streamer-capture.sock"));
        let _pipe = (stage > 1).then(|| begin(socket.as_ref().unwrap(), "files.img"));
        std::thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        cancel.cancel();
        assert!(matches!(run.join().unwrap(), Err(StreamError::Cancelled)), "{stage}");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store("");
    store.images.lock().unwrap().insert("pages-2.img".into(), content(30));
    let serve = Serve::listen(dir.path()).unwrap();
    let cancel = serve.cancel_handle();
    let run = std::thread::spawn(move || serve.run(&*store));
    let socket = connect(dir.path(), "streamer-serve.sock");
    let _unread = ask(&socket, "pages-2.img").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    cancel.cancel();
    assert!(matches!(run.join().unwrap(), Err(StreamError::Cancelled)));
}

#[test]
fn what_is_not_in_the_protocol_is_refused() {
    for bytes in
        [&b"\xff\xff\xff\xff"[..], b"\x05\0\0\0\x0a\x03a/b", b"\x02\0\0\0\x0a", b"\x01\0", b"\x03\0\0\0\x0a\x01a\0"]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = store("");
        let capture = Capture::listen(dir.path()).unwrap();
        let mut socket = connect(dir.path(), "streamer-capture.sock");
        socket.write_all(bytes).unwrap();
        drop(socket);
        assert!(matches!(capture.run(&*store), Err(StreamError::Protocol { .. })), "{bytes:?}");
    }
}

#[test]
fn a_long_directory_can_be_listened_in() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(120));
    std::fs::create_dir(&long).unwrap();
    // Left there by an earlier run.
    std::fs::write(long.join("streamer-capture.sock"), b"").unwrap();
    let capture = Capture::listen(&long).unwrap();
    let short = dir.path().join("s");
    std::os::unix::fs::symlink(&long, &short).unwrap();
    let socket = connect(&short, "streamer-capture.sock");
    drop(socket);
    let captured = capture.run(&*store("")).unwrap();
    assert_eq!((captured.images, captured.held.is_some()), (0, false));
    assert!(!long.join("streamer-capture.sock").exists());
}
