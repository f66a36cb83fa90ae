//! docs/first-job.md by the letter: its commands, in its order, in an empty Debian 12, which has no HTCondor. The page
//! is the transcript.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;
#[path = "common/packages.rs"]
mod packages;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::place::prepared;

/// What the page promises.
const TEN_MINUTES: &str = "600";

/// The commands of the page, with who gives them: root or a user.
fn commands(page: &str) -> Vec<(bool, &str)> {
    let blocks = page.split("```sh").skip(1).map(|block| block.split_once('\n').unwrap());
    blocks.map(|(info, rest)| (info.trim() == "root", rest.split("```").next().unwrap())).collect()
}

/// What the page's machine has and this root has not: services, a user, mirrors that are not frozen, and the package
/// where the page says.
const MACHINE: &str = r#"
echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/98frozen
useradd --create-home --shell /bin/bash reader
cp /mnt/*.deb /root/
cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
[ "$*" = "restart condor" ] || exit 2
exec condor_master
END
chmod 755 /usr/local/bin/systemctl
"#;

#[test]
#[ignore = "takes minutes: ./test --long"]
fn the_page_leads_to_a_saved_job() {
    let commands = commands(include_str!("../docs/first-job.md"));
    assert!(commands.iter().filter(|(root, _)| *root).count() >= 3 && commands.len() >= 8, "{commands:?}");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let deb = &packages::packages().deb;
    fs::copy(deb, folder.path().join(deb.file_name().unwrap())).unwrap();
    // A reader's shell stays where it went, and so the next one begins there.
    let mut script = format!("set -eu\n{MACHINE}echo ~reader >/mnt/place; chmod 666 /mnt/place\n");
    for (number, (root, text)) in commands.iter().enumerate() {
        let name = format!("{number}.sh");
        fs::write(folder.path().join(&name), format!("cd \"$(cat /mnt/place)\"\n{text}\npwd >/mnt/place\n")).unwrap();
        script += &format!("echo \"== $SECONDS s: block {number}\"\n");
        script += &match root {
            true => format!("(cd && bash -eu -c '{}')\n", text.replace('\'', "'\\''")),
            false => format!("su - reader -c 'exec bash -eu /mnt/{name}'\n"),
        };
    }
    script += "cp ~reader/first/jobs.html /mnt/; echo \"== $SECONDS s: the end\"";
    let mut command = Command::new("timeout");
    command.arg(TEN_MINUTES).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-copy"));
    command.arg(prepared("root", &["old"])).arg(folder.path()).args(["bash", "-c", &script]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let everything = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // How long each step took, for who looks.
    said.lines().filter(|line| line.starts_with("== ")).for_each(|line| println!("{line}"));
    assert!(output.status.success(), "{everything}");
    assert!(said.contains("committed generation=1 reason=vacate") && said.contains("runs again"), "{everything}");
    assert!(said.contains("\n300\n300\n"), "{everything}");
    let html = fs::read_to_string(folder.path().join("jobs.html")).unwrap();
    assert!(html.contains("Evictions: 1. Of all computing 0.0% was lost;"), "{html}");
}
