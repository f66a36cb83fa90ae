//! The command lines of criu. Every option is here with its reason; nothing else in the project spells one.

use std::path::Path;

use crate::sandbox::{Network, PIDFILE};

/// Megabytes of a deleted file that is still open: its content goes into the images. criu's own default of one would
/// refuse ordinary temporary files; the option is a 32-bit number of bytes, which ends below 4096.
const GHOST_LIMIT: &str = "2000M";

/// Where criu works, as the sandbox sees it.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The folder of the socket through which images stream.
    pub images: &'a Path,
    /// The log and other by-products.
    pub work: &'a Path,
    /// The job's directory.
    pub job: &'a Path,
}

/// The log of a dump, in the work directory.
pub const DUMP_LOG: &str = "dump.log";
/// The log of a restore, in the work directory.
pub const RESTORE_LOG: &str = "restore.log";

fn common(places: &Places<'_>, network: Network) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut args: Vec<String> = vec![
        // Someone's /etc/criu/default.conf must not change what we ask for.
        "--no-default-config".into(),
        "--unprivileged".into(),
        // Images go through pipes to us; none touches the disk.
        "--stream".into(),
        "-D".into(),
        text(places.images),
        "-W".into(),
        text(places.work),
        // errors and warnings: what the cause of a failure is read from
        "-v2".into(),
        "--file-locks".into(),
        "--link-remap".into(),
        // The comparison of processors is ours (docs/measurements.md, "Processors"): criu's would refuse what runs and
        // pass what dies.
        "--cpu-cap=none".into(),
        // inotify watches are found by path below the job's directory
        "--force-irmap".into(),
        "--irmap-scan-path".into(),
        text(places.job),
        "--action-script".into(),
        text(&places.images.join(HELD)),
    ];
    match network {
        Network::Host => args.push("--tcp-close".into()),
        // No iptables in the sandbox, and nobody outside who could reach the connections.
        Network::Private => args.extend(["--tcp-established", "--network-lock", "skip"].map(String::from)),
    }
    args
}

/// The socket at which criu waits, in the images directory, while the checkpoint is committed, or before what it has
/// restored runs (`sandbox/criu_preload/held.rs`).
pub const HELD: &str = "held.sock";

/// Saves the tree below `root`. criu holds it until it is told to let it go on.
pub fn dump(places: &Places<'_>, network: Network, root: i32) -> Vec<String> {
    let mut args = vec!["dump".to_owned()];
    args.extend(common(places, network));
    args.extend(["-t".into(), root.to_string(), "-o".into(), DUMP_LOG.into()]);
    // criu reads what waits in a terminal, and sets O_NONBLOCK for that. Without this it takes the tree for dead and
    // puts neither back.
    args.push("--leave-running".into());
    args.extend(["--ghost-limit", GHOST_LIMIT].map(String::from));
    if network == Network::Host {
        args.push("--skip-in-flight".into());
    }
    args
}

/// Brings the tree back as a child of criu's parent, so that wait(2) tells how it ends.
pub fn restore(places: &Places<'_>, network: Network) -> Vec<String> {
    let mut args = vec!["restore".to_owned()];
    args.extend(common(places, network));
    args.extend(["--restore-detached", "--restore-sibling", "-o", RESTORE_LOG, "--pidfile", PIDFILE].map(String::from));
    // Modes of what the job has written are restored by us; those of the host's own files may differ.
    args.push("--skip-file-rwx-check".into());
    args
}
