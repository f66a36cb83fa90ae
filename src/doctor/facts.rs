//! What can be read about this host without trying: it explains a failure, or narrows what a job may do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Check, Status};
use crate::host::cpu;
use crate::host::namespaces::{self, Cause};

/// What was read.
pub(super) struct Facts {
    /// `uname -r`
    pub(super) kernel: String,
    /// The processor's level, as HTCondor's `Microarch` spells it.
    pub(super) microarch: String,
    /// Whether the kernel has time namespaces.
    pub(super) time_namespace: bool,
    /// What forbids user namespaces, as far as that can be seen.
    pub(super) namespaces_forbidden: Option<Cause>,
    flags: BTreeSet<String>,
    container: Option<&'static str>,
    masked: Vec<String>,
    ptrace_scope: Option<u8>,
    seccomp: bool,
}

impl Facts {
    pub(super) fn gather() -> Facts {
        let flags = cpu::offered();
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
        Facts {
            kernel: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            microarch: cpu::level(&flags).microarch(),
            time_namespace: Path::new("/proc/self/ns/time").exists(),
            namespaces_forbidden: namespaces::forbidden_by(),
            flags,
            container: namespaces::container(),
            masked: namespaces::masked_proc(),
            ptrace_scope: scope.and_then(|text| text.trim().parse().ok()),
            seccomp: namespaces::seccomp_filtered(),
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.kernel(), self.clocks()];
        let level = cpu::level(&self.flags);
        checks.push(Check::new(
            "processor",
            Status::Yes,
            format!("{level}; a job needs no more than its cpu_baseline"),
        ));
        if let Some(scope) = self.ptrace_scope {
            checks.push(match scope {
                0..3 => Check::new("ptrace", Status::Yes, format!("kernel.yama.ptrace_scope = {scope}")),
                _ => Check::new("ptrace", Status::No, "kernel.yama.ptrace_scope = 3 forbids it to everyone")
                    .remedy("the administrator sets it to 0, 1 or 2 and reboots: 3 cannot be taken back"),
            });
        }
        if let Some(kind) = self.container {
            checks.push(Check::new("container", Status::Yes, format!("this is a container of {kind}")));
        }
        if !self.masked.is_empty() {
            let shown = self.masked.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            checks.push(
                Check::new(
                    "/proc",
                    Status::Limited,
                    format!("parts are masked ({shown}): the kernel may refuse a fresh one"),
                )
                .remedy(namespaces::UNMASK),
            );
        }
        if self.seccomp {
            checks.push(
                Check::new("seccomp", Status::Limited, "a seccomp filter is active; no process under it can be saved")
                    .remedy("the administrator starts the container with --security-opt seccomp=unconfined"),
            );
        }
        checks
    }

    fn kernel(&self) -> Check {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let detail = self.kernel.clone();
        match version {
            // capabilities(7): CAP_CHECKPOINT_RESTORE came with 5.9
            (..=4, _) | (5, ..9) => {
                Check::new("kernel", Status::No, format!("{detail} lacks CAP_CHECKPOINT_RESTORE (5.9)"))
                    .remedy("the administrator installs a newer kernel")
            }
            // docs/measurements.md, "Kernels"
            (5, ..13) => Check::new(
                "kernel",
                Status::Limited,
                format!("{detail} saves programs with glibc 2.35 or newer only without rseq"),
            )
            .remedy("start the program with GLIBC_TUNABLES=glibc.pthread.rseq=0"),
            _ => Check::new("kernel", Status::Yes, detail),
        }
    }

    fn clocks(&self) -> Check {
        if self.time_namespace {
            return Check::new("clocks", Status::Yes, "monotonic clocks go on after a move (time namespaces)");
        }
        Check::new("clocks", Status::Limited, "no time namespaces: monotonic clocks jump when a job moves")
            .remedy("the administrator uses a kernel with CONFIG_TIME_NS (5.6)")
    }
}
