//! The gate: what a checkpoint needs, compared with this host before anything of it is unpacked. What does not fit ends
//! with exit 75 and the reason, and the checkpoint is intact. The host's files are compared where they are laid out, in
//! [`super::carry`].

use std::collections::BTreeSet;

use crate::checkpoint::Manifest;
use crate::criu::executable::{self, Version};
use crate::exit::{Exit, Failure};
use crate::host::kernel::lacks;
use crate::host::{cpu, limits};

/// This host.
pub struct Here<'a> {
    /// What its processor offers.
    pub flags: &'a BTreeSet<String>,
    /// `uname -r`
    pub kernel: &'a str,
    /// criu's version.
    pub criu: Version,
}

/// Lets a checkpoint through, or says why not.
pub fn pass(manifest: &Manifest, here: &Here<'_>) -> Result<(), Failure> {
    let refused = |why: String, remedy: &str| {
        Err(Failure::start("cannot restore on this host", why)
            .with_remedy(format!("the checkpoint is intact; {remedy}"))
            .with_exit(Exit::CannotRestoreHere))
    };
    if let Some(why) =
        cpu::refusal(&manifest.host.cpu.needs, here.flags).or_else(|| registers(manifest, cpu::xsave().features))
    {
        return refused(
            why,
            "restrict Requirements to machines with the same Microarch, or start jobs with a lower cpu_baseline",
        );
    }
    let (pages, pages_here) = (manifest.host.page_size, cpu::page_size());
    if pages != 0 && pages != pages_here {
        return refused(
            format!("it was made with memory pages of {pages} bytes, and this host has {pages_here}"),
            "let the job run on a host like the first one",
        );
    }
    if let Some(why) = kernel(manifest, here.kernel) {
        return refused(why, "let the job run on a host with a newer kernel (advertised as CriuKernel)");
    }
    if let Some(why) = criu(&manifest.host.criu, here.criu) {
        return refused(why, "use the same CRIU on all hosts: a bundle that the job brings (condor-criu bundle)");
    }
    let given = limits::here();
    if let Some(why) = limits::refusal(&manifest.limits, &given) {
        return refused(why, "let the job run on a host with higher limits, or have the administrator raise this one");
    }
    for words in limits::lowered(&manifest.limits, &given) {
        tracing::warn!("{words}: lowered");
    }
    Ok(())
}

/// Registers that a payload without a baseline may use and this processor cannot save.
fn registers(manifest: &Manifest, here: u64) -> Option<String> {
    let cpu = &manifest.host.cpu;
    let missing = cpu.xsave.features & !here;
    (cpu.needs == cpu.offered && missing != 0)
        .then(|| format!("it may use registers (XSAVE features {missing:#x}) that this processor does not have"))
}

/// Why this kernel cannot restore what the images have, if so.
fn kernel(manifest: &Manifest, release: &str) -> Option<String> {
    let lacking =
        manifest.kernel_features.iter().find(|feature| !feature.is_replaced() && lacks(release, **feature))?;
    let since =
        lacking.since().map(|(major, minor)| format!(", which came with Linux {major}.{minor}")).unwrap_or_default();
    Some(format!("it has {}{since}; this host has Linux {release}", lacking.words()))
}

/// An older CRIU passes over what it does not know in the images of a newer one, without an error. A fix (4.2.1 after
/// 4.2.0) adds nothing.
fn criu(made_with: &str, here: Version) -> Option<String> {
    let made = executable::number(made_with)?;
    ((here.0, here.1) < (made.0, made.1))
        .then(|| format!("it was made by CRIU {made}, and an older one may misread its images: this host has {here}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_criu_is_refused() {
        let refused = |here| criu("4.2.1", here).is_some();
        assert!(refused(Version(4, 1, 1)) && refused(Version(3, 19, 0)));
        assert!(!refused(Version(4, 2, 0)) && !refused(Version(4, 2, 1)) && !refused(Version(5, 0, 0)));
        assert_eq!(criu("", Version(4, 1, 0)), None);
    }
}
