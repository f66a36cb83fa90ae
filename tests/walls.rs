//! The walls of the house, as docs/architecture.md draws them: a room imports only from rooms below it, and files do
//! not import each other in a circle. Read from the `use` lines and paths of the sources.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path from the crate's root.
type Module = Vec<String>;

fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            all.push(path);
        }
    }
}

fn module(path: &Path, root: &Path) -> Module {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let mut parts: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// `a::{b, c::{d, e}}` → a::b, a::c::d, a::c::e
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.strip_suffix('}').and_then(|tree| tree.split_once('{')) else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for letter in inside.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    parts.push(part);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{before}{}", part.trim()))).collect()
}

/// What a file names of this crate, without what its tests name.
fn named(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join(" ");
    let mut found = Vec::new();
    for start in ["use crate::", "use super::", "use self::"] {
        for (at, _) in code.match_indices(start) {
            let tree = code[at + 4..].split(';').next().unwrap();
            found.extend(expand(tree));
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let path: String =
                code[at..].chars().take_while(|letter| letter.is_alphanumeric() || "_:".contains(*letter)).collect();
            found.push(path);
        }
    }
    found
}

fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let modules: BTreeMap<Module, PathBuf> = files.into_iter().map(|path| (module(&path, &root), path)).collect();
    let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, path) in &modules {
        let name = path.file_stem().unwrap().to_str().unwrap();
        // Files of tests alone, and the freestanding pieces, which are crates of their own.
        let tests = name.ends_with("tests") || name == "simulation" || name == "table";
        let own = ["sandbox/reaper", "sandbox/criu_preload", "sandbox/compat/preload", "sandbox/freestanding.rs"];
        if (tests && path.to_str().unwrap().contains("machine")) || name.ends_with("tests") {
            continue;
        }
        if own.iter().any(|own| path.to_str().unwrap().contains(own)) && name != "mod" {
            continue;
        }
        for named in named(&fs::read_to_string(path).unwrap()) {
            let mut parts = named.split("::").peekable();
            let mut base: Module = match parts.next() {
                Some("crate") => Vec::new(),
                Some("self") => from.clone(),
                Some("super") => from[..from.len().saturating_sub(1)].to_vec(),
                _ => continue,
            };
            while parts.next_if(|part| *part == "super").is_some() {
                base.pop();
            }
            for part in parts {
                base.push(part.to_owned());
                if !modules.contains_key(&base) {
                    base.pop();
                    break;
                }
            }
            if base != *from && !base.is_empty() {
                graph.entry(from.clone()).or_default().insert(base);
            }
        }
    }
    assert!(graph.len() > 80, "only {} files import something: the reader is wrong", graph.len());
    graph
}

/// From top to bottom, as the page has them: the rooms of the house, then those of `supervise`.
fn order() -> Vec<Module> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let rooms = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rooms
        .map(|room| room.trim_end_matches('/').trim_end_matches(".rs").split('/').map(str::to_owned).collect())
        .collect()
}

fn place(order: &[Module], module: &Module) -> Option<usize> {
    let inside = |room: &&Module| module.starts_with(room.as_slice());
    let room = order.iter().filter(inside).max_by_key(|room| room.len())?;
    order.iter().position(|other| other == room)
}

#[test]
fn no_room_imports_from_a_higher_one() {
    let order = order();
    assert!(order.len() > 15, "docs/architecture.md has no table of rooms");
    let mut wrong = Vec::new();
    for (from, all) in imports() {
        let Some(here) = place(&order, &from) else { panic!("{} is in no room", from.join("::")) };
        for to in all {
            let Some(there) = place(&order, &to) else { panic!("{} is in no room", to.join("::")) };
            // A room may name what its own parts share.
            if there < here && !order[here].starts_with(&order[there]) {
                wrong.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other() {
    let graph = imports();
    // What leads back to where it began, file by file.
    let mut circles = Vec::new();
    for start in graph.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(here) = next.pop() {
            for to in graph.get(here).into_iter().flatten() {
                if to == start {
                    circles.push(format!("{} ← {}", start.join("::"), here.join("::")));
                }
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}
