//! Who runs inside, and with which rights: the maps of the user namespace, no capability for the payload, and for
//! criu exactly those that it needs.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;

use super::plan::{Identity, Network};
use super::step::{SetupStep, StepFailed, io, step};

/// Maps this process's host identity to the inner one. Denying setgroups(2) is what the kernel asks of a process
/// without privilege that maps its group (user_namespaces(7)).
pub(super) fn map(identity: &Identity) -> Result<(), StepFailed> {
    step(SetupStep::MapIdentity, io(fs::write("/proc/self/setgroups", "deny")))?;
    let uids = format!("{} {} 1", identity.inner_uid, identity.outer_uid);
    step(SetupStep::MapIdentity, io(fs::write("/proc/self/uid_map", uids)))?;
    let gids = format!("{} {} 1", identity.inner_gid, identity.outer_gid);
    step(SetupStep::MapIdentity, io(fs::write("/proc/self/gid_map", gids)))
}

/// The capabilities, over the sandbox's own namespaces only, that criu needs there (docs/measurements.md, "Capabilities
/// that CRIU needs"). CAP_SETUID above all must not be among them: with it, criu's restore tries an identity that is
/// not mapped.
fn needed_by_criu(network: Network) -> CapsHashSet {
    let mut needed = CapsHashSet::from([
        Capability::CAP_CHECKPOINT_RESTORE,
        // where yama restricts ptrace
        Capability::CAP_SYS_PTRACE,
        // for --link-remap
        Capability::CAP_DAC_READ_SEARCH,
        // A restore opens files for writing and makes names in directories whose modes, as the payload has left them,
        // forbid both.
        Capability::CAP_DAC_OVERRIDE,
    ]);
    if network == Network::Private {
        // TCP repair mode
        needed.insert(Capability::CAP_NET_ADMIN);
        // half-closed connections, which CRIU brings back by packets of its own
        needed.insert(Capability::CAP_NET_RAW);
    }
    needed
}

/// Leaves this process, about to become criu, with what criu needs.
pub(super) fn become_criu(network: Network) -> Result<(), StepFailed> {
    let needed = needed_by_criu(network);
    step("limit criu's bounding set", bound_to(&needed))?;
    step("limit criu's capabilities", set(CapSet::Inheritable, &needed))?;
    step("limit criu's capabilities", set(CapSet::Effective, &needed))?;
    step("limit criu's capabilities", set(CapSet::Permitted, &needed))?;
    step("hand capabilities to criu", set(CapSet::Ambient, &needed))
}

/// Leaves this process, about to become the payload or its reaper, with no capability and no way to one.
pub(super) fn become_payload() -> Result<(), StepFailed> {
    let none = CapsHashSet::new();
    step("clear the ambient set", set(CapSet::Ambient, &none))?;
    step("clear the bounding set", bound_to(&none))?;
    step("clear the inheritable set", set(CapSet::Inheritable, &none))?;
    step("clear the effective set", set(CapSet::Effective, &none))?;
    step("clear the permitted set", set(CapSet::Permitted, &none))?;
    step("set no_new_privs", nix::sys::prctl::set_no_new_privs())
}

fn bound_to(keep: &CapsHashSet) -> Result<(), Errno> {
    for capability in caps::runtime::thread_all_supported() {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(|_| Errno::last())?;
        }
    }
    Ok(())
}

fn set(which: CapSet, value: &CapsHashSet) -> Result<(), Errno> {
    caps::set(None, which, value).map_err(|_| Errno::last())
}

/// This process's supplementary groups, in the kernel's order, as its user namespace shows them.
pub fn supplementary_groups() -> Result<Vec<u32>, Errno> {
    Ok(nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect())
}
