//! The sandbox's root. The host's top-level entries are bound into a private tmpfs, so that the payload finds every
//! program and library where it was. The places that must travel have names that are the same on every host.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root};

use super::compat::COMPAT;
use super::criu_preload;
use super::mounting::{NONE, bind, directory, hold, tmpfs};
use super::overlay;
use super::plan::{CALLS, CRIU_DIR, LAID_DIR, OUR_ROOT, Plan, REAPER, RUN_DIR};
use super::step::{SetupStep, StepFailed, io, step};

/// The tmpfs that becomes the root is mounted here first. Nothing of the host's `/tmp` is bound into the sandbox, so
/// that the new root never contains itself.
const STAGING: &str = "/tmp";

/// Makes the root and enters it; returns a descriptor of the private `/dev/shm`.
pub(super) fn build_and_enter(plan: &Plan) -> Result<OwnedFd, StepFailed> {
    step("make the mounts private", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))?;

    // Held open now: the staging mount may hide them.
    let scratch = hold(&plan.scratch)?;
    let criu = hold(&plan.criu_dir)?;
    let laid = (!plan.laid.is_empty()).then(|| hold(&plan.state_dir().join(LAID_DIR))).transpose()?;
    let tmp = hold(&plan.state_dir().join("tmp"))?;
    let var_tmp = hold(&plan.state_dir().join("vartmp"))?;

    let root = Path::new(STAGING);
    tmpfs(root, "mode=0755")?;
    let job_name = plan.job_dir.file_name().unwrap_or_default();
    for entry in step("list /", io(fs::read_dir("/")))? {
        let entry = step("list /", io(entry))?;
        let name = entry.file_name();
        if ["proc", "tmp"].iter().any(|own| name == *own) || name == job_name {
            continue;
        }
        mirror(&entry.path(), &root.join(&name))?;
    }

    if let Some(laid) = laid {
        overlay::lay(root, &laid, &plan.laid)?;
    }

    directory(&root.join("proc"))?;
    directory(&root.join("tmp"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step(SetupStep::MountProc, mount(Some("proc"), &root.join("proc"), Some("proc"), flags, NONE))?;
    directory(&root.join(job_name))?;
    bind(&scratch, &root.join(job_name), "bind the scratch directory")?;
    bind(&tmp, &root.join("tmp"), "bind a private /tmp")?;
    if root.join("var/tmp").is_dir() {
        bind(&var_tmp, &root.join("var/tmp"), "bind a private /var/tmp")?;
    }
    devices(root)?;
    let shm = step(
        "open the private /dev/shm",
        open(&root.join("dev/shm"), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()),
    )?;
    ours(root, plan, &criu)?;
    step(
        "make the root read-only",
        mount(NONE, root, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, NONE),
    )?;

    step("enter the new root", chdir(root))?;
    step("make the new root the root", pivot_root(".", "."))?;
    step("let go of the host's root", umount2(".", MntFlags::MNT_DETACH))?;
    step("enter the new root", chdir("/"))?;
    Ok(shm)
}

/// `/dev/pts`, `/dev/shm` and `/dev/mqueue` belong to namespaces of ours and must not be the host's.
fn devices(root: &Path) -> Result<(), StepFailed> {
    let dev = root.join("dev");
    tmpfs(&dev.join("shm"), "mode=1777")?;
    let pts = dev.join("pts");
    if pts.is_dir() {
        let options = "newinstance,ptmxmode=0666,mode=0620";
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        step("mount a private devpts", mount(Some("devpts"), &pts, Some("devpts"), flags, Some(options)))?;
        let ptmx = dev.join("ptmx");
        // Where it is a link to pts/ptmx, it already leads to the private one.
        if ptmx.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
            let own = pts.join("ptmx");
            step("bind a private /dev/ptmx", mount(Some(&own), &ptmx, NONE, MsFlags::MS_BIND, NONE))?;
        }
    }
    let mqueue = dev.join("mqueue");
    if mqueue.is_dir() {
        // A kernel without POSIX queues is no reason not to run.
        let _ = mount(Some("mqueue"), &mqueue, Some("mqueue"), MsFlags::empty(), NONE);
    }
    Ok(())
}

/// Our own directory: criu, the reaper, and a place where criu may write.
fn ours(root: &Path, plan: &Plan, criu: &OwnedFd) -> Result<(), StepFailed> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    for path in [OUR_ROOT, CRIU_DIR, RUN_DIR] {
        directory(&at(path))?;
    }
    bind(criu, &at(CRIU_DIR), "bind criu")?;
    tmpfs(&at(RUN_DIR), "mode=0700")?;
    write(&at(REAPER), "the reaper", &plan.reaper)?;
    criu_preload::install(|path, what, content| write(&at(path), what, content))?;
    if let Some(calls) = &plan.calls {
        write(&at(CALLS), "the interrupted calls", calls)?;
    }
    plan.compat.as_ref().map_or(Ok(()), |compat| write(&at(COMPAT), "the compatibility helper", compat))
}

/// A file of ours that can be executed or mapped.
fn write(path: &Path, what: &str, content: &[u8]) -> Result<(), StepFailed> {
    let mut options = fs::OpenOptions::new();
    let file = io(options.write(true).create(true).truncate(true).mode(0o555).open(path));
    let mut file = step(format!("create {what}"), file)?;
    step(format!("write {what}"), io(std::io::Write::write_all(&mut file, content)))
}

/// One top-level entry of the host in the new root. What cannot be bound is left out: the payload finds it missing,
/// which is no reason not to run it.
fn mirror(source: &Path, target: &Path) -> Result<(), StepFailed> {
    let Ok(metadata) = source.symlink_metadata() else { return Ok(()) };
    if metadata.is_symlink() {
        if let Ok(link) = fs::read_link(source) {
            step(format!("link {}", target.display()), io(symlink(link, target)))?;
        }
        return Ok(());
    }
    if metadata.is_dir() {
        directory(target)?;
    } else {
        step(format!("create {}", target.display()), io(fs::File::create(target)))?;
    }
    let bound = mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE);
    // /dev cannot be missing; its failure has a cause that the user must hear of.
    if source == Path::new("/dev") {
        step("bind /dev", bound)?;
    }
    Ok(())
}
