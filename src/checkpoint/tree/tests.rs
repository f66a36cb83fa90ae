use std::collections::BTreeMap;

use super::*;

/// Modes by path, as the owner sees them who may look everywhere.
fn modes(tree: &mut Tree) -> BTreeMap<String, u32> {
    let entries = tree.walk(|_| false).unwrap();
    entries.into_iter().map(|entry| (entry.path.to_string_lossy().into_owned(), entry.stat.mode())).collect()
}

fn closed(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    for (name, mode) in [("a/b/c/f", 0), ("a/b/g", 0o200), ("a/h", 0o444)] {
        fs::write(dir.join(name), name).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [("a/b/c", 0), ("a/b", 0o300), ("a", 0o555)] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn what_is_closed_is_read_and_is_closed_again() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let before = {
        let mut tree = Tree::open(dir.path()).unwrap();
        let entries = tree.walk(|_| false).unwrap();
        for entry in entries.iter().filter(|entry| entry.stat.is_file()) {
            let content = io::read_to_string(tree.read(entry).unwrap().file).unwrap();
            assert_eq!(content, entry.path.to_string_lossy());
        }
        modes(&mut tree);
        entries.into_iter().map(|entry| (entry.path.to_string_lossy().into_owned(), entry.stat.mode())).collect()
    };
    assert_eq!(modes(&mut Tree::open(dir.path()).unwrap()), before);
    assert_eq!(before["a/b"], 0o300);
    remove_all(&dir.path().join("a")).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_path_may_be_longer_than_one_call_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut at: OwnedFd = File::open(dir.path()).unwrap().into();
    let name = "x".repeat(200);
    for _ in 0..40 {
        nix::sys::stat::mkdirat(&at, name.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        at = open_below(&at, Path::new(&name), OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap();
    }
    fs::write(in_proc(&at).join("leaf"), "1").unwrap();
    let mut tree = Tree::open(dir.path()).unwrap();
    let entries = tree.walk(|_| false).unwrap();
    let leaf = entries.last().unwrap();
    assert!(entries.len() == 41 && leaf.path.as_os_str().len() > 8000);
    assert_eq!(io::read_to_string(tree.read(leaf).unwrap().file).unwrap(), "1");
    tree.remove(Path::new(&name)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_reached_through_a_link() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("kept"), "kept").unwrap();
    std::os::unix::fs::symlink(other.path(), dir.path().join("link")).unwrap();
    let mut tree = Tree::open(dir.path()).unwrap();
    assert!(tree.remove(Path::new("link/kept")).is_err());
    assert!(open_below(tree.base(), Path::new("link/kept"), OFlag::O_RDONLY).is_err());
    let link = tree.walk(|_| false).unwrap().remove(0);
    assert_eq!(tree.read_link(&link).unwrap(), other.path().as_os_str());
    tree.remove(Path::new("link")).unwrap();
    assert!(other.path().join("kept").exists());
}
