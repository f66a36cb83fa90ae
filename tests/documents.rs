//! The documents agree with the repository: a promise names tests that exist, every setting has its row, no link leads
//! nowhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

#[path = "common/long.rs"]
mod long;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use condor_criu::settings::KEYS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the tests in a file: functions with `#[test]`, and those that a macro makes tests of the pool. Those
/// that are ignored because they take minutes are the second set; others that are ignored are no tests.
fn tests_in(source: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut found, mut long) = (BTreeSet::new(), BTreeSet::new());
    for after in source.split("#[test]").skip(1) {
        let (attributes, rest) = after.split_once("fn ").unwrap_or_default();
        let name = rest.split('(').next().map(str::to_owned);
        match attributes {
            _ if attributes.contains("takes minutes") => long.extend(name),
            _ if attributes.contains("#[ignore") => {}
            _ => found.extend(name),
        }
    }
    let lists = source.split("_series!(");
    for (before, list) in lists.clone().zip(lists.skip(1)) {
        let names = list.split(')').next().unwrap_or_default();
        let names = names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        if before.ends_with("long_with_both") { long.extend(names) } else { found.extend(names) }
    }
    // Of the rows of a table of programs.
    for row in source.split("long_workloads! {").skip(1).flat_map(|rows| rows.split("\n}").next()) {
        long.extend(
            row.lines().filter_map(|line| line.trim().split_once(": Workload {").map(|(name, _)| name.to_owned())),
        );
    }
    (found, long)
}

/// The rows of all tables of a document, each with its cells, without heads and rules.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with('|') && line.chars().all(|c| "|- :".contains(c));
    let mut rows = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let is_head = lines.get(number + 1).is_some_and(|next| is_rule(next));
        if line.starts_with('|') && !is_rule(line) && !is_head {
            rows.push(line.trim_matches('|').split(" | ").map(str::trim).collect());
        }
    }
    rows
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let text = read("docs/promises.md");
    let mut wrong = Vec::new();
    let rows = rows(&text);
    assert!(rows.len() > 20, "only {} promises", rows.len());
    for row in &rows {
        let names: Vec<&str> = row.iter().flat_map(|cell| quoted(cell)).filter(|name| name.contains(".rs::")).collect();
        if names.is_empty() {
            wrong.push(format!("no test is named for: {}", row[0]));
        }
    }
    // Also those in the text around the tables, and in the document beside it.
    let security = read("docs/security.md");
    for name in quoted(&text).chain(quoted(&security)).filter(|name| name.contains(".rs::")) {
        let (file, test) = name.split_once("::").unwrap();
        let source = fs::read_to_string(root().join(file)).unwrap_or_default();
        let (ordinary, long) = tests_in(&source);
        if !ordinary.contains(test) && !long.contains(test) {
            wrong.push(format!("there is no test {name}"));
        }
    }
    // What only the long run shows is marked; what is marked may also be a test that does more there.
    for line in text.lines() {
        for (at, name) in
            line.match_indices('`').step_by(2).filter_map(|(at, _)| Some((at, line[at + 1..].split('`').next()?)))
        {
            let Some((file, test)) = name.split_once("::").filter(|(file, _)| file.ends_with(".rs")) else { continue };
            let source = fs::read_to_string(root().join(file)).unwrap_or_default();
            if tests_in(&source).1.contains(test) && !line[..at].contains("*long*") {
                wrong.push(format!("{name} takes minutes, and its promise does not say *long*"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_setting_has_its_row_and_every_row_its_setting() {
    let text = read("docs/settings.md");
    let mut named: Vec<&str> = rows(&text).iter().flat_map(|row| quoted(row[0]).collect::<Vec<_>>()).collect();
    let mut keys: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    named.sort_unstable();
    keys.sort_unstable();
    assert_eq!(named, keys);
}

/// All documents, by their paths in the repository.
fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "SECURITY.md", "condor-config/README.md"].map(PathBuf::from).into();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = Path::new("docs").join(entry.unwrap().file_name());
        documents.extend(name.extension().is_some_and(|kind| kind == "md").then_some(name));
    }
    documents
}

/// Where the links of a text lead, without those of other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
}

/// The anchors of a text's headings, as they are made of them: lower case, blanks as hyphens, without other signs.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if !is_code && line.starts_with('#') {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading_in_it() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for document in documents() {
        for link in links(&read(&document.to_string_lossy())) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            seen += 1;
            let target = match path {
                "" => root().join(&document),
                path => root().join(&document).parent().unwrap().join(path),
            };
            let there = match anchor {
                "" => target.exists(),
                anchor => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)),
            };
            if !there {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(seen > 10, "only {seen} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_book_has_every_page_once() {
    let summary = read("docs/SUMMARY.md");
    let mut named: Vec<&str> = links(&summary).collect();
    let pages = documents().into_iter().filter_map(|path| Some(path.strip_prefix("docs").ok()?.display().to_string()));
    let mut pages: Vec<String> = pages.filter(|page| page != "SUMMARY.md").collect();
    named.sort_unstable();
    pages.sort_unstable();
    assert_eq!(named, pages);
    // In a book a link cannot lead out of docs/.
    let out: Vec<_> =
        pages.iter().filter(|page| links(&read(&format!("docs/{page}"))).any(|link| link.contains(".."))).collect();
    assert!(out.is_empty(), "{out:?}");
}

/// The values of this attribute in a page.
fn values<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_book_is_built_without_a_word_and_no_link_in_it_is_dead() {
    let mut tools = std::process::Command::new(root().join("tests/setup/tools"));
    let tools = tools.arg("book").stderr(std::process::Stdio::inherit()).output().unwrap();
    let mdbook = Path::new(std::str::from_utf8(&tools.stdout).unwrap().trim()).join("bin/mdbook");
    let folder = tempfile::tempdir().unwrap();
    let mut build = std::process::Command::new(&mdbook);
    build.arg("build").arg(root()).arg("--dest-dir").arg(folder.path());
    let output = build.output().unwrap_or_else(|error| panic!("{}: {error}", mdbook.display()));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let page = entry.unwrap().path();
        if page.extension().is_none_or(|kind| kind != "html") {
            continue;
        }
        let html = fs::read_to_string(&page).unwrap();
        let links = [values(&html, "href"), values(&html, "src")].concat();
        for link in links.into_iter().filter(|link| !link.contains(':')) {
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { folder.path().join(path) };
            let is_there = match anchor {
                "" => target.exists(),
                anchor => fs::read_to_string(&target).is_ok_and(|text| values(&text, "id").contains(&anchor)),
            };
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 300, "only {seen} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The text of the strings of all sources, as they are printed: without line breaks inside them.
fn printed() -> String {
    fn walk(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                // Tests may say anything.
                all.push_str(text.split("#[cfg(test)]").next().unwrap());
            }
        }
    }
    let mut all = String::new();
    walk(&root().join("src"), &mut all);
    let mut joined = String::new();
    for line in all.lines() {
        match line.strip_suffix('\\') {
            Some(part) => joined.push_str(part.trim_start()),
            None => joined.push_str(&format!("{}\n", line.trim_start())),
        }
    }
    joined
}

#[test]
fn every_symptom_is_a_text_that_the_program_prints() {
    let text = read("docs/troubleshooting.md");
    let printed = printed();
    let symptoms: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(symptoms.len() > 20, "only {} symptoms", symptoms.len());
    let gone: Vec<_> = symptoms.iter().filter(|symptom| !printed.contains(**symptom)).collect();
    assert!(gone.is_empty(), "{gone:#?}");
}

#[test]
fn the_model_of_a_pool_comes_out_at_what_is_published_and_ranks_the_policies_as_its_page_does() {
    let output = std::process::Command::new(root().join("benches/fleet")).args(["--jobs", "4000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let not_good = |text: &str, policy: &str| -> f64 {
        let row = rows(text).into_iter().find(|row| row[0] == policy && row[1].ends_with('%'));
        row.unwrap_or_else(|| panic!("no row for {policy}"))[1].trim_end_matches('%').parse().unwrap()
    };
    let page = read("docs/fleet.md");
    let policies = ["none", "every 4 h", "hourly", "vacate only", "auto", "auto + vacate", "hourly + vacate"];
    for text in [&text, &page] {
        let found: Vec<f64> = policies.iter().map(|policy| not_good(text, policy)).collect();
        assert!((17.0..24.0).contains(&found[0]), "{found:?}");
        assert!(found.is_sorted_by(|a, b| a >= b), "{found:?}");
    }
}
