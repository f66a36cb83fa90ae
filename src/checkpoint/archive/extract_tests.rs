//! Extraction: everything comes back as it was, and nothing gets out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::checkpoint::archive::{Compression, Meta, Name, WriteOptions, Writer};

fn archive(path: &Path, fill: impl FnOnce(&Writer)) -> Reader {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let writer =
        Writer::create(file, WriteOptions { compression: Compression::Auto, threads: 2, ..WriteOptions::default() })
            .unwrap();
    fill(&writer);
    writer.finish(b"{}").unwrap();
    Reader::open(path).unwrap()
}

fn add(writer: &Writer, name: &str, content: &str) {
    let meta = Meta {
        mode: 0o640,
        mtime: Mtime { s: 1_600_000_000, ns: 123_456_789 },
        ..Meta::file(name, content.len() as u64)
    };
    writer.add(meta, Some(&mut content.as_bytes())).unwrap();
}

fn other(writer: &Writer, name: &str, kind: Kind, mode: u32, link: Option<&str>) {
    let mtime = Mtime { s: 1_500_000_000, ns: 5 };
    let meta = Meta { kind, mode, mtime, link: link.map(Name::new), ..Meta::file(name, 0) };
    writer.add(meta, None).unwrap();
}

fn run(reader: &Reader, to: &Path, options: ExtractOptions) -> Result<Extracted, ArchiveError> {
    extract(reader, "work", File::open(to).unwrap().as_fd(), &options)
}

#[test]
fn all_kinds_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    let reader = archive(&dir.path().join("c"), |writer| {
        other(writer, "work/locked", Kind::Dir, 0o500, None);
        other(writer, "work/locked/inner", Kind::Dir, 0o2755, None);
        add(writer, "work/locked/inner/file", "content");
        add(writer, "work/top", "top");
        other(writer, "work/hard", Kind::Hardlink, 0o640, Some("work/locked/inner/file"));
        other(writer, "work/soft", Kind::Symlink, 0o777, Some("locked/inner/file"));
        other(writer, "work/locked/up", Kind::Symlink, 0o777, Some("../top"));
        other(writer, "work/fifo", Kind::Fifo, 0o622, None);
        add(writer, "elsewhere/file", "not below work");
    });
    let sum = run(&reader, &to, ExtractOptions::default()).unwrap();
    assert_eq!((sum.members, sum.bytes, sum.later.len()), (8, 10, 2));
    let meta = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
    assert_eq!(std::fs::read(to.join("soft")).unwrap(), b"content");
    assert_eq!(std::fs::read(to.join("locked/up")).unwrap(), b"top");
    assert_eq!(meta("hard").ino(), meta("locked/inner/file").ino());
    assert_eq!(
        (meta("top").mode() & 0o7777, meta("top").mtime(), meta("top").mtime_nsec()),
        (0o640, 1_600_000_000, 123_456_789)
    );
    assert_eq!((meta("locked").mode() & 0o7777, meta("locked").mtime()), (0o500, 1_500_000_000));
    assert_eq!((meta("locked/inner").mode() & 0o7777, meta("locked/inner").mtime()), (0o2755, 1_500_000_000));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(meta("fifo").mode() & 0o777, 0o622);
    assert_eq!(meta("soft").mtime(), 1_500_000_000);
    assert!(!to.join("file").exists());
    // A second time, over what is there now.
    std::fs::set_permissions(to.join("locked"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for existing in [Existing::Unlink, Existing::Reuse] {
        std::fs::write(to.join("top"), "something longer than before").unwrap();
        run(&reader, &to, ExtractOptions { existing, ..ExtractOptions::default() }).unwrap();
        assert_eq!(std::fs::read(to.join("top")).unwrap(), b"top");
        std::fs::set_permissions(to.join("locked"), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 5);
}

#[test]
fn existing_files_are_replaced_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    let reader = archive(&dir.path().join("c"), |writer| add(writer, "work/f", "new"));
    let outside = dir.path().join("outside");
    for (existing, same_inode) in [(Existing::Unlink, false), (Existing::Reuse, true)] {
        let file = to.join("f");
        let options = ExtractOptions { existing, ..ExtractOptions::default() };
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, "old and longer").unwrap();
        let open = File::open(&file).unwrap();
        run(&reader, &to, options).unwrap();
        assert_eq!(open.metadata().unwrap().ino() == std::fs::metadata(&file).unwrap().ino(), same_inode);
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        // A link in its place is replaced and not followed, of either kind.
        std::fs::write(&outside, "mine").unwrap();
        std::fs::remove_file(&file).unwrap();
        symlink(&outside, &file).unwrap();
        run(&reader, &to, options).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::hard_link(&outside, &file).unwrap();
        run(&reader, &to, options).unwrap();
        assert_eq!(std::fs::read(&outside).unwrap(), b"mine");
        assert!(std::fs::symlink_metadata(&file).unwrap().is_file());
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    for path in [&to, &outside] {
        std::fs::create_dir(path).unwrap();
    }
    symlink(&outside, to.join("d")).unwrap();
    let reader = archive(&dir.path().join("c"), |writer| add(writer, "work/d/f", "x"));
    let any = ExtractOptions { any_symlink: true, ..ExtractOptions::default() };
    assert!(matches!(run(&reader, &to, any), Err(ArchiveError::Extract { .. })));
    // The archive brings the link itself.
    std::fs::remove_file(to.join("d")).unwrap();
    let reader = archive(&dir.path().join("c2"), |writer| {
        other(writer, "work/d", Kind::Symlink, 0o777, outside.to_str());
        add(writer, "work/d/f", "x");
    });
    assert!(matches!(run(&reader, &to, any), Err(ArchiveError::Extract { .. })));
    assert!(matches!(run(&reader, &to, ExtractOptions::default()), Err(ArchiveError::Extract { .. })));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn links_that_lead_out_are_known() {
    let out = [
        ("", "/etc"),
        ("", ".."),
        ("", "../x"),
        ("a", "../../x"),
        ("a", "../b/.."),
        ("a/b", "../../.."),
        ("", "x/../y"),
        ("", "./../x"),
    ];
    for (dir, target) in out {
        assert!(leads_out(dir.as_bytes(), target.as_bytes()), "{dir} {target}");
    }
    for (dir, target) in [("", "x"), ("", "./x/y"), ("a", ".."), ("a/b", "../../x"), ("a", "../b//c"), ("", "...")] {
        assert!(!leads_out(dir.as_bytes(), target.as_bytes()), "{dir} {target}");
    }
}

#[test]
fn a_hard_link_reaches_only_what_was_extracted() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("secret"), "mine").unwrap();
    let reader = archive(&dir.path().join("c"), |writer| {
        add(writer, "elsewhere/f", "x");
        other(writer, "work/l", Kind::Hardlink, 0o644, Some("elsewhere/f"));
    });
    assert!(matches!(run(&reader, &to, ExtractOptions::default()), Err(ArchiveError::Extract { .. })));
}

#[test]
fn special_bits_need_asking() {
    let dir = tempfile::tempdir().unwrap();
    let reader = archive(&dir.path().join("c"), |writer| {
        let meta = Meta { mode: 0o6755, ..Meta::file("work/f", 1) };
        writer.add(meta, Some(&mut &b"x"[..])).unwrap();
    });
    for (keep_special_bits, mode) in [(false, 0o755), (true, 0o6755)] {
        run(&reader, dir.path(), ExtractOptions { keep_special_bits, ..ExtractOptions::default() }).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().mode() & 0o7777, mode);
    }
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = File::options().read(true).write(true).create_new(true).open(dir.path().join("s")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    sparse.write_all_at(b"x", 7 << 30).unwrap();
    let reader =
        archive(&dir.path().join("c"), |writer| writer.add_file(Meta::file("work/f", 10 << 30), &sparse).unwrap());
    run(&reader, dir.path(), ExtractOptions::default()).unwrap();
    let file = File::open(dir.path().join("f")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 7 << 30).unwrap();
    assert_eq!((byte, file.metadata().unwrap().len()), (*b"x", 10 << 30));
    // In blocks of 512 bytes.
    assert!(file.metadata().unwrap().blocks() < 3 << 11);
}
