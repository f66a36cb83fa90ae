//! condor-criu inside a container of rootless crun, which is what Podman runs: as its default configuration has it,
//! with nothing masked, and with a seccomp filter. Where the kernel forbids it, `doctor` has the line for whoever
//! starts the container.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use std::process::Command;

use common::local::{Bench, FIRST_USER, real_criu};
use common::place::prepared;

/// crun's own configuration for an ordinary user, changed by a line of Python; then the container.
const RUN: &str = r#"
mkdir -p /tmp/container /tmp/run; cd /tmp/container; export XDG_RUNTIME_DIR=/tmp/run
crun spec --rootless
python3 - "$1" "$2" <<'END'
import json, sys
with open("config.json") as file:
    config = json.load(file)
linux, process = config["linux"], config["process"]
config["root"] = {"path": sys.argv[1], "readonly": True}
process.update(terminal=False, args=["/srv/condor-criu", "doctor", "--criu", "/srv/criu"], env=["PATH=/usr/bin:/bin"])
config["mounts"] += [
    {"destination": "/srv", "type": "bind", "source": "/mnt", "options": ["rbind"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
]
del linux["resources"]  # this user has no cgroup to put them on

def unmasked():
    del linux["maskedPaths"], linux["readonlyPaths"]

def ordinary_user():
    process.update(user={"uid": 5000, "gid": 5000}, capabilities={})
    for kind in ("uidMappings", "gidMappings"):
        linux[kind] = [{"containerID": 5000, "hostID": 5000, "size": 1}]

def with_setfcap():
    for kind in process["capabilities"]:
        process["capabilities"][kind] += ["CAP_SETFCAP"] if kind != "ambient" else []

def seccomp():
    new_user = 0x10000000  # CLONE_NEWUSER
    rule = {"index": 0, "value": new_user, "valueTwo": new_user, "op": "SCMP_CMP_MASKED_EQ"}
    refused = [{"names": ["clone", "unshare"], "action": "SCMP_ACT_ERRNO", "args": [rule]}]
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused}

exec(sys.argv[2])
with open("config.json", "w") as file:
    json.dump(config, file)
END
exec crun --cgroup-manager=disabled run container 2>&1
"#;

/// What `doctor` says in such a container, and whether it works there.
#[track_caller]
fn doctor(changes: &str, works: bool) -> String {
    let bench = Bench::new();
    let criu = Command::new("cp").arg("-r").arg(real_criu()).arg(bench.path().join("criu")).status();
    assert!(criu.unwrap().success());
    let image = format!("/opt/{}", prepared("root", &["old"]).file_name().unwrap().display());
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/in-root"));
    command.arg(prepared("root", &["apptainer"])).arg(bench.path()).arg(FIRST_USER.to_string());
    command.args(["sh", "-c", RUN, "sh", &image, changes]);
    let output = command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(i32::from(!works)), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn an_unmasked_container_of_an_ordinary_user_works() {
    says(&doctor("unmasked(); ordinary_user()", true), &["Jobs can be checkpointed and restored on this host."]);
}

#[test]
fn root_of_a_container_needs_one_capability() {
    doctor("unmasked(); with_setfcap()", true);
    let text = doctor("unmasked()", false);
    says(&text, &["cannot map the user", "run the job as another user of the container", "CAP_SETFCAP"]);
}

#[test]
fn a_container_as_it_is_by_default_masks_proc() {
    let text = doctor("ordinary_user()", false);
    says(&text, &["cannot mount a fresh /proc", "parts are masked (/proc/", "systempaths=unconfined"]);
}

#[test]
fn a_seccomp_filter_refuses_the_namespaces() {
    let text = doctor("unmasked(); ordinary_user(); seccomp()", false);
    says(&text, &["a seccomp filter is active", "seccomp=unconfined"]);
}
