//! The archive as a whole: what is written is read back, and what is not as it was written is not read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const ALL: [Compression; 4] =
    [Compression::None, Compression::Zstd { level: 1 }, Compression::Gzip { level: 1 }, Compression::Auto];

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

fn writer(path: &Path, compression: Compression) -> Writer {
    writer_with(path, compression, 3)
}

fn writer_with(path: &Path, compression: Compression, threads: usize) -> Writer {
    Writer::create(create(path), WriteOptions { compression, threads, ..WriteOptions::default() }).unwrap()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let words = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

fn walk(len: usize) -> Vec<u8> {
    let mut at = 0.0;
    let steps = noise(7, len);
    steps
        .as_chunks::<8>()
        .0
        .iter()
        .flat_map(|step| {
            at += (u64::from_le_bytes(*step) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
            f64::to_le_bytes(at)
        })
        .collect()
}

fn content(reader: &Reader, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = reader.copy_to(name, &mut bytes).unwrap();
    assert_eq!(len, bytes.len() as u64);
    for threads in [1, 3] {
        let mut again = Vec::new();
        reader.open_member(name, threads).unwrap().read_to_end(&mut again).unwrap();
        assert!(again == bytes, "{name} differs when decoded ahead");
    }
    bytes
}

/// A folder, an archive in it, and the contents that it must have.
fn sample(compression: Compression) -> (tempfile::TempDir, PathBuf, Vec<(&'static str, Vec<u8>)>) {
    sample_with(compression, 3)
}

fn sample_with(compression: Compression, threads: usize) -> (tempfile::TempDir, PathBuf, Vec<(&'static str, Vec<u8>)>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.tar.zst");
    let mut holed = vec![0; 3 << 20];
    holed[1 << 20..][..5000].copy_from_slice(&noise(3, 5000));
    let contents = vec![
        ("images/pages-1.img", walk((5 << 20) + 8)),
        ("images/pages-2.img", noise(5, (1 << 20) + 1)),
        ("images/pages-3.img", walk((5 << 20) + 8)),
        ("images/exact.img", noise(6, 1 << 20)),
        ("images/core-1.img", b"core".to_vec()),
        ("images/empty.img", Vec::new()),
        ("images/zeros.img", vec![0; 7 << 20]),
        ("images/holed.img", holed),
        ("images/small-zeros.img", vec![0; 300_000]),
        ("work/text", b"some text\n".repeat(20_000)),
    ];
    let writer = writer_with(&path, compression, threads);
    for (name, bytes) in &contents {
        let mut stream = writer.stream(name).unwrap();
        stream.write_all(bytes).unwrap();
        stream.finish().unwrap();
    }
    let summary = writer.finish(b"{\"generation\": 3}").unwrap();
    assert_eq!(summary.members, contents.len() + 1);
    assert_eq!(summary.bytes_written, std::fs::metadata(&path).unwrap().len());
    assert_eq!(summary.raw_bytes, contents.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() + 17);
    (dir, path, contents)
}

#[test]
fn streams_come_back_in_every_compression() {
    for compression in ALL {
        let (_dir, path, contents) = sample(compression);
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.manifest(), b"{\"generation\": 3}");
        for (name, bytes) in &contents {
            assert_eq!(reader.get(name).unwrap().size, bytes.len() as u64);
            assert!(content(&reader, name) == *bytes, "{name} with {compression}");
        }
        reader.verify(2).unwrap();
        assert!(matches!(reader.open_member("nothing", 0), Err(ArchiveError::NotFound { .. })));
    }
}

#[test]
fn auto_stores_zeros_and_equal_chunks_once_and_shuffles_numbers() {
    // One worker: a chunk is found by its equals only when its frame is on the disk, and of two equal chunks that
    // several workers have in hand at once both are stored. That is allowed, and would miss the size below by chance.
    let (_dir, path, _) = sample_with(Compression::Auto, 1);
    let reader = Reader::open(&path).unwrap();
    assert!(reader.get("images/zeros.img").unwrap().extents == [Extent::Zero { zero: 7 << 20 }]);
    assert!(reader.frames().iter().any(|frame| frame.filter.is_some_and(|f| f.elem == 8 && f.delta)));
    assert!(reader.frames().iter().any(|frame| frame.codec == super::codec::Codec::Raw));
    // Two equal walks of 5 MiB, 2 MiB of noise and 5 KB: less than one walk and the noise.
    assert!(std::fs::metadata(&path).unwrap().len() < 7 << 20);
}

#[test]
fn tar_lists_and_extracts_it() {
    for (compression, flag) in
        [(Compression::Auto, "--zstd"), (Compression::None, "--zstd"), (Compression::Gzip { level: 1 }, "-z")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let archive = writer(&path, compression);
        let meta = |name: &str, kind, link: Option<&str>| Meta {
            kind,
            mode: 0o755,
            link: link.map(Name::new),
            ..Meta::file(name, 0)
        };
        archive.add(meta("work", Kind::Dir, None), None).unwrap();
        archive.add(Meta::file("work/small", 5), Some(&mut &b"small"[..])).unwrap();
        archive.add(meta("work/hard", Kind::Hardlink, Some("work/small")), None).unwrap();
        archive.add(meta("work/soft", Kind::Symlink, Some("small")), None).unwrap();
        archive.add(meta("work/fifo", Kind::Fifo, None), None).unwrap();
        let long = format!("work/{}", "long".repeat(50));
        archive.add(Meta::file(&long, 100_000), Some(&mut &noise(1, 100_000)[..])).unwrap();
        archive.add(Meta::file("work/large", 3 << 20), Some(&mut &noise(2, 3 << 20)[..])).unwrap();
        archive.finish(b"{}").unwrap();

        let out = Command::new("tar").arg(flag).arg("-tvf").arg(&path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        let list = String::from_utf8(out.stdout).unwrap();
        for name in [
            "work/small",
            "work/hard link to work/small",
            "work/soft -> small",
            "work/fifo",
            "work/large/00000002",
            "manifest.json",
            "index.json",
            &long,
        ] {
            assert!(list.contains(name), "{name} is not in\n{list}");
        }
        let to = dir.path().join("out");
        std::fs::create_dir(&to).unwrap();
        let out = Command::new("tar").arg(flag).arg("-xf").arg(&path).arg("-C").arg(&to).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(std::fs::read(to.join("work/hard")).unwrap(), b"small");
        assert_eq!(std::fs::read(to.join(&long)).unwrap(), noise(1, 100_000));
        assert_eq!(std::fs::read(to.join("work/large/00000001")).unwrap(), noise(2, 3 << 20)[1 << 20..2 << 20]);
    }
}

/// What a reader does with everything in an archive; an error of any part is an error.
fn read_all(path: &Path) -> Result<(), ArchiveError> {
    let reader = Reader::open(path)?;
    for member in reader.members() {
        if member.kind == Kind::File {
            reader.copy_to(&member.name, &mut std::io::sink())?;
        }
    }
    Ok(())
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    for compression in ALL {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let archive = writer(&path, compression);
        archive.add(Meta::file("work/small", 5), Some(&mut &b"small"[..])).unwrap();
        archive.add(Meta::file("work/walk", 80_000), Some(&mut &walk(80_000)[..])).unwrap();
        archive.finish(b"{}").unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // Every byte of both ends, where the opening, the index and the locator are, and a sample of what is between.
        let places = (0..200).chain((200..len.saturating_sub(1500)).step_by(97)).chain(len.saturating_sub(1500)..len);
        for at in places {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            let bad = [byte[0] ^ 1 << (at % 8)];
            file.write_all_at(&bad, at).unwrap();
            let verified = Reader::open(&path).and_then(|reader| reader.verify(1));
            assert!(verified.is_err(), "{compression}: byte {at} of {len}");
            assert!(read_all(&path).is_err(), "{compression}: byte {at} of {len}, reading");
            file.write_all_at(&byte, at).unwrap();
        }
        Reader::open(&path).unwrap().verify(1).unwrap();
        read_all(&path).unwrap();
    }
}

#[test]
fn a_file_that_is_cut_off_is_told_from_others() {
    for compression in [Compression::Auto, Compression::Gzip { level: 1 }] {
        let (dir, path, _) = sample(compression);
        let bytes = std::fs::read(&path).unwrap();
        let cut = dir.path().join("cut");
        for len in (40..200).chain((200..bytes.len()).step_by(9973)).chain(bytes.len() - 200..bytes.len()) {
            std::fs::write(&cut, &bytes[..len]).unwrap();
            assert!(matches!(Reader::open(&cut), Err(ArchiveError::Truncated)), "{len} of {}", bytes.len());
        }
        std::fs::write(&cut, b"").unwrap();
        assert!(matches!(Reader::open(&cut), Err(ArchiveError::Empty)));
        std::fs::write(&cut, noise(1, 100_000)).unwrap();
        assert!(matches!(Reader::open(&cut), Err(ArchiveError::NotOurs)));
        let longer = [&bytes[..], b"x"].concat();
        std::fs::write(&cut, longer).unwrap();
        assert!(Reader::open(&cut).is_err());
    }
}

#[test]
fn twenty_thousand_small_files_stay_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let archive = writer(&path, Compression::Auto);
    for number in 0..20_000 {
        let text = format!("file number {number}\n");
        archive
            .add(Meta::file(format!("work/d{}/f{number}", number % 100), text.len() as u64), Some(&mut text.as_bytes()))
            .unwrap();
    }
    let summary = archive.finish(b"{}").unwrap();
    assert!(summary.frames < 100, "{summary:?}");
    assert!(summary.bytes_written < 2 << 20, "{summary:?}");
    let reader = Reader::open(&path).unwrap();
    for number in [0, 1, 9_999, 19_999] {
        assert_eq!(
            content(&reader, &format!("work/d{}/f{number}", number % 100)),
            format!("file number {number}\n").as_bytes()
        );
    }
}

#[test]
fn holes_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let mut sparse = create(&dir.path().join("sparse"));
    sparse.set_len(10 << 30).unwrap();
    for (at, text) in [(0, "start"), (5_000_000_000, "middle"), ((10 << 30) - 3, "end")] {
        sparse.seek(SeekFrom::Start(at)).unwrap();
        sparse.write_all(text.as_bytes()).unwrap();
    }
    let empty = create(&dir.path().join("empty"));
    empty.set_len(1 << 30).unwrap();
    let archive = writer(&path, Compression::Auto);
    archive.add_file(Meta::file("work/sparse", 10 << 30), &sparse).unwrap();
    archive.add_file(Meta::file("work/empty", 1 << 30), &empty).unwrap();
    let summary = archive.finish(b"{}").unwrap();
    assert!(summary.bytes_written < 10_000, "{summary:?}");
    let reader = Reader::open(&path).unwrap();
    let mut member = reader.open_member("work/sparse", 2).unwrap();
    let (mut sum, mut data) = (0, 0);
    while let Some(piece) = member.next_piece().unwrap() {
        sum += piece.len();
        if let Piece::Data(bytes) = piece {
            data += bytes.len();
        }
    }
    assert_eq!((sum, data), (10 << 30, 3 << 20));
}

#[test]
fn many_streams_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let archive = writer(&path, Compression::Auto);
    let length = |n: u64| (n as usize * 700_001) % 5_000_000;
    std::thread::scope(|scope| {
        for n in 0..24 {
            let archive = &archive;
            scope.spawn(move || {
                let mut stream = archive.stream(format!("images/{n}.img")).unwrap();
                let bytes = noise(n * 2 + 1, length(n));
                for piece in bytes.chunks(65_536 - n as usize) {
                    stream.write_all(piece).unwrap();
                }
                stream.finish().unwrap();
            });
        }
    });
    archive.finish(b"{}").unwrap();
    let reader = Reader::open(&path).unwrap();
    std::thread::scope(|scope| {
        for n in 0..24 {
            let reader = &reader;
            scope.spawn(move || assert!(content(reader, &format!("images/{n}.img")) == noise(n * 2 + 1, length(n))));
        }
    });
}

#[test]
fn a_full_disk_is_an_error_and_not_a_wait() {
    for compression in ALL {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let result = Writer::create(file, WriteOptions { compression, threads: 2, ..WriteOptions::default() })
            .and_then(|archive| {
                let mut stream = archive.stream("a")?;
                stream.write_all(&noise(1, 20 << 20)).and_then(|()| stream.write_all(&noise(2, 20 << 20))).ok();
                drop(stream);
                archive.finish(b"{}")
            });
        let Err(ArchiveError::Io { source, .. }) = result else { panic!("{result:?}") };
        assert_eq!(source.raw_os_error(), Some(28));
    }
}

#[test]
fn what_is_not_whole_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");

    let archive = writer(&path, Compression::Auto);
    let stream = archive.stream("a").unwrap();
    assert!(archive.finish(b"{}").is_err());
    drop(stream);

    let archive = writer(&path, Compression::Auto);
    drop(archive.stream("a").unwrap());
    assert!(archive.finish(b"{}").is_err());

    let archive = writer(&path, Compression::Auto);
    assert!(archive.add(Meta::file("short", 10), Some(&mut &b"123"[..])).is_err());
    assert!(archive.add(Meta::file("long", 2), Some(&mut &b"123"[..])).is_err());
    assert!(archive.add(Meta::file("large", 1 << 20), Some(&mut &noise(1, 1 << 19)[..])).is_err());

    let archive = writer(&path, Compression::Auto);
    for bad in ["", "/a", "a/../b"] {
        assert!(matches!(archive.stream(bad), Err(ArchiveError::BadMember { .. })), "{bad:?}");
    }
    archive.add(Meta::file("a", 1), Some(&mut &b"1"[..])).unwrap();
    assert!(archive.stream("a").is_err());
    let link = Meta { kind: Kind::Hardlink, link: Some(Name::new("nothing")), ..Meta::file("b", 0) };
    assert!(archive.add(link, None).is_err());
    archive.finish(b"{}").unwrap();
}
