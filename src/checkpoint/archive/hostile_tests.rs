//! Archives that somebody made to do harm: all digests are right, and the numbers are not.

use std::path::{Path, PathBuf};

use super::codec::{Codec, Container};
use super::format::{Digest, Locator, MAJOR, MINOR};
use super::frame::{Encoder, Out};
use super::index::Index;
use super::*;

/// An archive with a bit of everything.
fn archive(dir: &Path) -> PathBuf {
    let path = dir.join("c");
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let writer =
        Writer::create(file, WriteOptions { compression: Compression::Auto, threads: 1, ..WriteOptions::default() })
            .unwrap();
    let walk: Vec<u8> = (0..20_000).flat_map(|i| (f64::from(i) * 1.7).sqrt().to_le_bytes()).collect();
    writer.add(Meta::file("work/walk", walk.len() as u64), Some(&mut &walk[..])).unwrap();
    writer.add(Meta::file("work/small", 5), Some(&mut &b"small"[..])).unwrap();
    let link = |name, kind, to| Meta { kind, link: Some(Name::new(to)), ..Meta::file(name, 0) };
    writer.add(link("work/hard", Kind::Hardlink, "work/small"), None).unwrap();
    writer.add(link("work/soft", Kind::Symlink, "small"), None).unwrap();
    writer.add(Meta { kind: Kind::Dir, ..Meta::file("work/dir", 0) }, None).unwrap();
    writer.finish(b"{}").unwrap();
    path
}

/// The file's frames, and its index.
fn open(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let tail = bytes.len() - Locator::len(Container::Zstd);
    let locator = Locator::parse(&bytes[tail..], Container::Zstd).unwrap();
    let tar = zstd::stream::decode_all(&bytes[locator.at as usize..tail]).unwrap();
    let json = tar[locator.json_at as usize..][..locator.json_len as usize].to_vec();
    (bytes[..locator.at as usize].to_vec(), json)
}

/// Puts an index behind frames, with all digests of the outside right.
fn close(path: &Path, frames: &[u8], json: &[u8]) {
    let mut out = Out::default();
    Encoder::new(Compression::None, Default::default()).unwrap().encode(&[], json, 0, false, &mut out).unwrap();
    let (stored, len) = (out.as_slice(), json.len() as u64);
    let locator = Locator {
        version: (MAJOR, MINOR),
        at: frames.len() as u64,
        stored: stored.len() as u64,
        decoded: len,
        json_at: 0,
        json_len: len,
        blake3: Digest::of(stored),
    };
    std::fs::write(path, [frames, stored, &locator.write(Container::Zstd)].concat()).unwrap();
}

/// Everything that is done with an archive.
fn use_it(path: &Path) -> Result<(), ArchiveError> {
    let reader = Reader::open(path)?;
    reader.verify(1)?;
    for member in reader.members().filter(|member| member.size < 1 << 20) {
        if member.kind == Kind::File {
            reader.copy_to(&member.name, &mut std::io::sink())?;
        }
    }
    Ok(())
}

/// Changes the index; says how using the archive ends.
fn tampered(change: impl FnOnce(&mut Index)) -> Result<(), ArchiveError> {
    let dir = tempfile::tempdir().unwrap();
    let path = archive(dir.path());
    let (frames, json) = open(&path);
    let mut index: Index = serde_json::from_slice(&json).unwrap();
    change(&mut index);
    close(&path, &frames, &serde_json::to_vec(&index).unwrap());
    use_it(&path)
}

#[test]
fn an_untouched_index_is_good() {
    tampered(|_| {}).unwrap();
}

#[test]
fn frames_that_decode_to_another_length_are_damage() {
    let shuffled = |index: &Index| index.frames.iter().position(|frame| frame.filter.is_some()).unwrap();
    for change in [-1_i64, 1, 1000, 8 << 20, -512] {
        let result = tampered(|index| {
            let frame = shuffled(index);
            let decoded = &mut index.frames[frame].decoded;
            *decoded = u32::try_from(i64::from(*decoded) + change).unwrap();
        });
        assert!(matches!(result, Err(ArchiveError::Damaged { .. })), "{change}: {result:?}");
    }
    assert!(tampered(|index| index.frames[0].codec = Codec::Gzip).is_err());
    assert!(tampered(|index| index.frames[0].blake3 = Digest::of(b"")).is_err());
    assert!(tampered(|index| index.frames[0].stored -= 1).is_err());
    assert!(tampered(|index| index.frames.truncate(1)).is_err());
    assert!(tampered(|index| index.members.push(index.members[0].clone())).is_err());
    assert!(tampered(|index| index.members.retain(|member| member.name != Name::new("manifest.json"))).is_err());
    // A filter that is not that of the frame gives other bytes of the same number: the index is all there is to tell.
    assert!(tampered(|index| index.members[0].size = u64::MAX).is_err());
}

#[test]
fn hard_links_in_a_circle_lead_nowhere() {
    let result = tampered(|index| {
        for member in &mut index.members {
            if member.kind == Kind::Hardlink {
                member.link = Some(member.name.clone());
            }
        }
    });
    result.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = archive(dir.path());
    let (frames, json) = open(&path);
    let json = String::from_utf8(json).unwrap().replace("\"link\":\"work/small\"", "\"link\":\"work/hard\"");
    close(&path, &frames, json.as_bytes());
    let reader = Reader::open(&path).unwrap();
    assert!(matches!(reader.open_member("work/hard", 0), Err(ArchiveError::NotFound { .. })));
    let to = std::fs::File::open(dir.path()).unwrap();
    let into = std::os::fd::AsFd::as_fd(&to);
    assert!(matches!(extract(&reader, "work", into, &ExtractOptions::default()), Err(ArchiveError::Extract { .. })));
}

#[test]
fn any_change_of_the_index_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = archive(dir.path());
    let (frames, json) = open(&path);
    let mut x = 1_u64;
    for round in 0..3000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (x >> 33) as usize % json.len();
        let mut bad = json.clone();
        match round % 3 {
            0 => bad[at] = b"0123456789-e.,:[]{}\"/"[(x >> 20) as usize % 21],
            1 => bad.insert(at, b"0123456789-e.,:[]{}\"/"[(x >> 20) as usize % 21]),
            _ => drop(bad.remove(at)),
        }
        close(&path, &frames, &bad);
        // Whatever it says, no panic and no great allocation.
        let _ = use_it(&path);
    }
}

#[test]
fn any_change_of_a_frame_with_a_right_digest_is_an_error_or_other_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = archive(dir.path());
    let (frames, json) = open(&path);
    let index: Index = serde_json::from_slice(&json).unwrap();
    for at in (30..frames.len()).step_by(41) {
        let mut bad = frames.clone();
        bad[at] ^= 1 << (at % 8);
        let mut index = index.clone();
        let mut from = format::opening(Container::Zstd).len();
        if at < from {
            continue;
        }
        for frame in &mut index.frames {
            let to = from + frame.stored as usize;
            frame.blake3 = Digest::of(&bad[from..to]);
            from = to;
        }
        close(&path, &bad, &serde_json::to_vec(&index).unwrap());
        let _ = use_it(&path);
    }
}

#[test]
fn a_newer_minor_version_is_read_and_a_newer_major_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = archive(dir.path());
    let (frames, json) = open(&path);
    // A field that this version does not know.
    let json = String::from_utf8(json).unwrap().replacen('{', "{\"later\":[1,{\"x\":null}],", 1);
    close(&path, &frames, json.as_bytes());
    let mut bytes = std::fs::read(&path).unwrap();
    let opening = format::opening(Container::Zstd).len();
    let tail = bytes.len() - Locator::len(Container::Zstd);
    let locator = Locator::parse(&bytes[tail..], Container::Zstd).unwrap();
    let with = |version: (u16, u16), bytes: &mut Vec<u8>| {
        bytes[..opening].copy_from_slice(&format::opening_of(Container::Zstd, version));
        bytes[tail..].copy_from_slice(&Locator { version, ..locator }.write(Container::Zstd));
        std::fs::write(&path, bytes).unwrap();
    };
    with((MAJOR, MINOR + 7), &mut bytes);
    assert_eq!(Reader::open(&path).unwrap().version(), (MAJOR, MINOR + 7));
    use_it(&path).unwrap();
    with((MAJOR + 1, 0), &mut bytes);
    let known = MAJOR;
    assert!(
        matches!(Reader::open(&path), Err(ArchiveError::NewerFormat { found, known: k }) if found == MAJOR + 1 && k == known)
    );
}
