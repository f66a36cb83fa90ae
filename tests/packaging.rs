//! The packages that `packaging/build` makes, of the binary under test: installed in a clean root, and a program is
//! moved with nothing but what they have brought.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;
#[path = "common/packages.rs"]
mod packages;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::local::real_criu;
use common::place::prepared;
use packages::{Packages, packages};

/// What a command prints, which must succeed.
#[track_caller]
fn ask(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

/// A folder that every user of a root can enter.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Below a folder: each file's path with its mode and digest.
fn files(root: &Path) -> BTreeMap<String, (u32, blake3::Hash)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().display().to_string();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
                found.insert(name, (mode, blake3::hash(&fs::read(entry.path()).unwrap())));
            }
        }
    }
    found
}

/// Says who it is, remembers a number only in memory, and takes some seconds.
const PROGRAM: &str = "#!/usr/bin/python3\nimport time\nn = 0\nwhile n < 40:\n    n += 1\n    print(n, flush=True)\n    time.sleep(0.05)\n";

/// Commands of the user in the root, in a folder of its own with the program.
const AS_USER: &str = "mkdir /mnt/home; cp /mnt/program /mnt/home; chown -R 5000:5000 /mnt/home; cd /mnt/home\n\
                       setpriv --reuid 5000 --regid 5000 --clear-groups env -i PATH=/usr/bin:/bin HOME=/mnt/home";

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_debian_package_in_a_clean_root_moves_a_program() {
    let folder = folder();
    fs::copy(&packages().deb, folder.path().join("package.deb")).unwrap();
    fs::write(folder.path().join("program"), PROGRAM).unwrap();
    fs::set_permissions(folder.path().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "set -eu; export DEBIAN_FRONTEND=noninteractive\n\
         ls /usr/bin /usr/sbin | grep -x -e criu -e condor-criu && exit 9\n\
         dpkg --install /mnt/package.deb\n\
         echo == installed; dpkg -L condor-criu\n\
         echo == enabled; ls -d /etc/condor /etc/condor-criu 2>/dev/null || true\n\
         echo == rehearse\n\
         ({AS_USER} condor-criu rehearse --evictions 1 --keep-in kept -- ./program)\n\
         dpkg --purge condor-criu\n\
         echo == left; ls -d /usr/bin/condor-criu /usr/share/*/condor-criu 2>/dev/null || true\n"
    );
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-copy"));
    command.arg(prepared("root", &["old"])).arg(folder.path()).args(["sh", "-c", &script]).stdin(Stdio::null());
    let said = ask(&mut command);
    let section = |name: &str| said.split("== ").find_map(|part| part.strip_prefix(&format!("{name}\n"))).unwrap();
    let installed: Vec<&str> = section("installed").lines().collect();
    for file in [
        "/usr/bin/condor-criu",
        "/usr/share/man/man1/condor-criu-run.1.gz",
        "/usr/share/bash-completion/completions/condor-criu",
        "/usr/share/zsh/vendor-completions/_condor-criu",
        "/usr/share/fish/vendor_completions.d/condor-criu.fish",
        "/usr/share/condor-criu/condor-config/access-point.conf",
        "/usr/share/condor-criu/condor-config/glidein-custom-script.sh",
        "/usr/share/doc/condor-criu/copyright",
        "/usr/share/doc/condor-criu/docs/htcondor.md",
    ] {
        assert!(installed.contains(&file), "no {file}\n{said}");
    }
    assert!(!installed.iter().any(|file| file.starts_with("/etc")), "{said}");
    assert_eq!(section("enabled"), "");
    // Each restart printed where it went on, and each byte was compared.
    let log = fs::read_to_string(last_log(&folder.path().join("home/kept"))).unwrap();
    assert!(log.contains("runs again"), "{said}\n{log}");
    assert_eq!(section("left"), "", "{said}");
}

/// condor-criu's own log of the last host of a rehearsal.
fn last_log(kept: &Path) -> PathBuf {
    let logs = ask(Command::new("find").arg(kept).args(["-name", "condor-criu.log"]));
    let mut logs: Vec<&str> = logs.lines().filter(|line| line.contains("/host")).collect();
    logs.sort_unstable();
    PathBuf::from(logs.last().expect("no log in the rehearsal"))
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_rpm_has_the_files_of_the_debian_package() {
    let folder = folder();
    let Packages { deb, rpm } = packages();
    let listed = ask(Command::new("rpm").args(["-qlp", "--dbpath"]).arg(folder.path().join("db")).arg(rpm));
    let script = "mkdir deb rpm; dpkg-deb -x \"$1\" deb; cd rpm; rpm2cpio \"$2\" | cpio --quiet -idm";
    let mut unpack = Command::new("sh");
    ask(unpack.args(["-euc", script, "sh"]).arg(deb).arg(rpm).current_dir(folder.path()));
    let (deb, rpm) = (files(&folder.path().join("deb")), files(&folder.path().join("rpm")));
    for name in rpm.keys() {
        assert!(listed.lines().any(|line| line == format!("/{name}")), "{name} is not listed\n{listed}");
    }
    let mut wrong = Vec::new();
    for (name, file) in &deb {
        // Where each distribution's zsh looks; dpkg compresses changelogs, and a copyright has its head from cargo-deb.
        let name = name.replace("zsh/vendor-completions", "zsh/site-functions");
        if name.ends_with("/copyright") || name.contains("changelog") {
            continue;
        }
        if rpm.get(&name) != Some(file) {
            wrong.push(format!("{name}: {file:?}, in the RPM {:?}", rpm.get(&name)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{listed}");
    // The bundle is whole: not stripped, and its own digest is right.
    let mut run = Command::new(folder.path().join("rpm/usr/bin/condor-criu"));
    let output = run.args(["advertise"]).env("TMPDIR", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("CriuVersion = \"4."), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_copyright_names_every_library_that_is_carried() {
    let words = include_str!("../packaging/copyright").replace([',', '.', ':'], " ");
    let words = format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut unnamed = Vec::new();
    for entry in fs::read_dir(real_criu().join("lib")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let library = match name.split(".so").next().unwrap() {
            "libc" | "ld-linux-x86-64" => "GNU C library",
            library => library.trim_end_matches("-3"),
        };
        if !words.contains(&format!(" {library} ")) {
            unnamed.push(name);
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn an_image_from_the_definition_file_moves_a_program() {
    let folder = folder();
    fs::copy(&packages().deb, folder.path().join("package.deb")).unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/condor-criu.def"), folder.path().join("condor-criu.def"))
        .unwrap();
    fs::write(folder.path().join("program"), PROGRAM).unwrap();
    fs::set_permissions(folder.path().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    // The base is this repository's own Debian 12 root, so that no image is fetched; its devices only root could copy.
    let base = "mkdir -p home/base/dev home/build; tar -C \"$1\" --exclude=./dev -c . | tar -C home/base -x; \
                cp program home; chown -hR 5000:5000 home";
    let mut copy = Command::new("sh");
    ask(copy.args(["-euc", base, "sh"]).arg(prepared("root", &["old"])).current_dir(folder.path()));
    // All of it as an ordinary user.
    let in_root = |script: &str| {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
        command.arg(prepared("root", &["apptainer"])).arg(folder.path()).args(["5000", "sh", "-euc", script]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp").stdin(Stdio::null());
        ask(&mut command)
    };
    in_root(
        "export APPTAINER_TMPDIR=/mnt/home/build\n\
         apptainer build --build-arg bootstrap=localimage --build-arg from=/mnt/home/base --build-arg package=/mnt/package.deb \
         /mnt/home/image.sif /mnt/condor-criu.def\n\
         apptainer test /mnt/home/image.sif",
    );
    let inside =
        "apptainer exec --userns --contain --pid --bind /mnt/home:/srv --pwd /srv /mnt/home/image.sif condor-criu";
    let said = in_root(&format!("{inside} doctor"));
    assert!(said.contains("this is a container of Apptainer") && said.contains("restored on this host"), "{said}");
    in_root(&format!("{inside} rehearse --evictions 1 --keep-in kept -- ./program"));
    let log = fs::read_to_string(last_log(&folder.path().join("home/kept"))).unwrap();
    assert!(log.contains("runs again"), "{log}");
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_packages_list_every_crate_and_every_file_of_criu_that_they_carry() {
    let folder = folder();
    ask(Command::new("dpkg-deb").arg("-x").arg(&packages().deb).arg(folder.path()));
    let text = fs::read_to_string(folder.path().join("usr/share/doc/condor-criu/condor-criu.cdx.json")).unwrap();
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "it names the folder that it was made in");
    let bill: serde_json::Value = serde_json::from_str(&text).unwrap();
    let components = bill["components"].as_array().unwrap();
    let listed: Vec<String> = components
        .iter()
        .chain([&bill["metadata"]["component"]])
        .map(|one| format!("{} v{}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap_or_default()))
        .collect();
    let mut tree = Command::new("cargo");
    tree.args([
        "tree",
        "--locked",
        "--target",
        "x86_64-unknown-linux-gnu",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]);
    let crates = ask(tree.args(["--no-dedupe", "--format", "{p}"]).current_dir(env!("CARGO_MANIFEST_DIR")));
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let crates: std::collections::BTreeSet<String> = crates.lines().filter(|line| !line.is_empty()).map(name).collect();
    let missing: Vec<_> = crates.iter().filter(|name| !listed.contains(name)).collect();
    assert!(crates.len() > 50 && missing.is_empty(), "of {} crates {missing:?} are missing", crates.len());
    let digests = "sha256sum criu lib/* | cut -d ' ' -f 1";
    let digests = ask(Command::new("sh").args(["-c", digests]).current_dir(common::local::real_criu()));
    assert!(digests.lines().count() > 10 && digests.lines().all(|digest| text.contains(digest)), "{digests}");
}

#[test]
#[ignore = "takes minutes: ./test --long"]
fn no_crate_has_a_licence_or_a_source_that_is_not_allowed() {
    let mut deny = Command::new(prepared("tools", &["packages"]).join("bin/cargo-deny"));
    deny.args(["--offline", "--locked", "check", "licenses", "bans", "sources"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = deny.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("bans ok, licenses ok, sources ok"), "{said}");
}
