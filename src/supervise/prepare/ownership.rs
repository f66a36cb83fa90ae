//! Whether a checkpoint is this user's, and makes no more than it says: asked before anything of it is used.
//!
//! A checkpoint is a program with its memory. Restoring one means to run what its maker chose, as oneself; so that of
//! another user is restored only by one's own word.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use crate::checkpoint::archive::{Extent, Member};
use crate::checkpoint::tree::{Entry, Tree};
use crate::checkpoint::{NotCarried, inventory};
use crate::exit::{Exit, Failure};
use crate::htcondor::Job;
use crate::supervise::work::checkpoint_file::{HOST, SHM, WORK};
use crate::supervise::work::unpack::{self, Opened};

/// Refuses the checkpoint of another user, by the file's owner and by whose job it says that it is.
///
/// # Errors
/// It is another's (125).
pub fn is_ours(path: &Path, opened: &Opened, job: &Job) -> Result<(), Failure> {
    let another = |whose: String| {
        Err(Failure::start(unpack::what(path), format!("it is {whose}, and runs as you what they have saved"))
            .with_remedy(
                "if that is what you want, set foreign = \"restore\" (--foreign restore); the file is left as it was",
            ))
    };
    let uid = path.metadata().map_or(0, |metadata| metadata.uid());
    // Root can write what it wants in any case.
    if uid != 0 && uid != geteuid().as_raw() {
        return another(format!("the file of user {uid}"));
    }
    match (&opened.manifest.owner, job.user()) {
        (Some(made), Some(here)) if *made != here => another(format!("of a job of {made}")),
        _ => Ok(()),
    }
}

/// Compares what unpacking would make with what the checkpoint says, and with the room in the scratch directory.
///
/// # Errors
/// They differ (125), or there is no room (75).
pub fn fits(path: &Path, opened: &Opened, scratch: &Path, not_carried: &NotCarried) -> Result<(), Failure> {
    let files = || {
        let ours = |member: &&Member| [WORK, SHM, HOST].iter().any(|prefix| member.name.as_path().starts_with(prefix));
        opened.reader.members().filter(ours)
    };
    let sum = files().fold(0_u64, |sum, member| sum.saturating_add(member.size));
    if opened.manifest.unpacked_bytes.is_some_and(|told| told != sum) {
        return Err(Failure::start(unpack::what(path), "its files have another size than it says")
            .with_remedy("the file is left as it was; put back a copy that is whole"));
    }
    // Holes take no room, and what is in memory takes none there.
    let stored = |member: &Member| -> u64 {
        let data = |extent: &Extent| if let Extent::Data { len, .. } = extent { u64::from(*len) } else { 0 };
        member.extents.iter().map(data).sum()
    };
    let needed =
        files().filter(|member| !member.name.as_path().starts_with(SHM)).map(stored).fold(0, u64::saturating_add);
    let Ok(disk) = statvfs(scratch) else { return Ok(()) };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if needed <= free {
        return Ok(());
    }
    // In a restart in place the files are there already: what is the same is kept, and what is unknown goes first.
    let free = free.saturating_add(room_that_becomes_free(opened, scratch, not_carried));
    if needed > free {
        return Err(Failure::start(
            "cannot restore on this host",
            format!(
                "its files need {needed} bytes in the scratch directory, where {free} are free or hold what it replaces"
            ),
        )
        .with_remedy("the checkpoint is intact; raise request_disk")
        .with_exit(Exit::CannotRestoreHere));
    }
    Ok(())
}

/// Bytes of the files in the scratch directory that a restore replaces or removes.
fn room_that_becomes_free(opened: &Opened, scratch: &Path, not_carried: &NotCarried) -> u64 {
    let inputs: BTreeSet<&Path> = opened.manifest.inputs.iter().map(|input| input.path.as_path()).collect();
    let entries = Tree::open(scratch).and_then(|mut tree| inventory::walk(&mut tree, not_carried)).unwrap_or_default();
    let own =
        |entry: &&Entry| entry.stat.is_file() && entry.stat.links() == 1 && !inputs.contains(entry.path.as_path());
    entries.iter().filter(own).map(|entry| entry.stat.stored()).fold(0, u64::saturating_add)
}
