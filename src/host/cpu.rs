//! The processor: what a checkpoint needs of one, and whether this one has it.
//!
//! Programs choose code by the processor they find when they start (glibc's string functions, OpenBLAS, numpy), and a
//! checkpoint keeps the choice. CRIU checks next to nothing of that: a restore on a lesser processor succeeds, and the
//! program dies by SIGILL some time later (docs/measurements.md, "Processors"). So what the first processor offered is
//! what the checkpoint needs.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sandbox::cpuid::cpuid;

/// The x86-64 levels of the psABI, by the names in /proc/cpuinfo of what each adds to the one before.
/// Source: x86-64 psABI, section 3.1.1, "Processor Architecture".
const LEVELS: [(u8, &[&str]); 3] = [
    (2, &["cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"]),
    (3, &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
    (4, &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// What programs choose code by beyond the levels. Other flags of /proc/cpuinfo are the kernel's business, or matter
/// only to programs that are written for one machine.
const BEYOND: [&str; 26] = [
    "adx",
    "aes",
    "amx_bf16",
    "amx_int8",
    "amx_tile",
    "avx512_bf16",
    "avx512_bitalg",
    "avx512_fp16",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_vpopcntdq",
    "avx512ifma",
    "avx512vbmi",
    "avx_vnni",
    "fma4",
    // In every processor: what was read is never empty, what could not be read is.
    "fpu",
    "gfni",
    "pclmulqdq",
    "rdrand",
    "rdseed",
    "rtm",
    "sha_ni",
    "sse4a",
    "vaes",
    "vpclmulqdq",
    "xop",
];

/// A level of x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u8);

impl Level {
    /// As HTCondor's machine attribute `Microarch` spells it; such texts compare as the levels do.
    pub fn microarch(self) -> String {
        format!("x86_64-v{}", self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x86-64-v{}", self.0)
    }
}

/// What this host's processor offers, of what programs choose code by; empty if that cannot be read.
pub fn offered() -> BTreeSet<String> {
    relevant(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Bytes of a page of memory.
pub fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| size.try_into().ok())
        .unwrap_or(0)
}

/// The state that a processor saves with XSAVE. Where a program is within its baseline, the area is no obstacle: CRIU
/// restores it where it is larger or smaller, and leaves out what the host lacks (measured from 832 to 2560 bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xsave {
    /// Bytes, for what the kernel has switched on.
    pub size: u32,
    /// Bits as in XCR0: 5 to 7 are AVX-512, 17 and 18 AMX.
    pub features: u64,
}

/// What this host's processor can save with XSAVE; nothing if it has no XSAVE.
pub fn xsave() -> Xsave {
    /// Intel SDM, volume 1, section 13.2: leaf 0xD, sub-leaf 0: EDX and EAX are the features, EBX is the size.
    const LEAF: u32 = 0xd;
    if cpuid(0, 0).eax < LEAF {
        return Xsave::default();
    }
    let found = cpuid(LEAF, 0);
    Xsave { size: found.ebx, features: u64::from(found.edx) << 32 | u64::from(found.eax) }
}

/// The relevant flags in the text of /proc/cpuinfo: those that every processor has.
fn relevant(cpuinfo: &str) -> BTreeSet<String> {
    let known = |flag: &&str| BEYOND.contains(flag) || LEVELS.iter().any(|(_, flags)| flags.contains(flag));
    let lines = cpuinfo.lines().filter_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let each = lines
        .map(|(_, flags)| flags.split_ascii_whitespace().filter(known).map(str::to_owned).collect::<BTreeSet<_>>());
    each.reduce(|all, one| all.intersection(&one).cloned().collect()).unwrap_or_default()
}

/// The level that this flag belongs to, if it belongs to one.
pub fn level_of(flag: &str) -> Option<Level> {
    LEVELS.iter().find(|(_, flags)| flags.contains(&flag)).map(|(level, _)| Level(*level))
}

/// The level that these flags make.
pub fn level(flags: &BTreeSet<String>) -> Level {
    let reached = LEVELS.iter().take_while(|(_, needed)| needed.iter().all(|flag| flags.contains(*flag)));
    Level(reached.last().map_or(1, |(level, _)| *level))
}

/// Why a processor that offers `here` cannot run what needs `needed`, if so.
pub fn refusal(needed: &BTreeSet<String>, here: &BTreeSet<String>) -> Option<String> {
    let missing: Vec<&str> = needed.difference(here).map(String::as_str).collect();
    if missing.is_empty() || here.is_empty() {
        return None;
    }
    let (level_needed, level_here) = (level(needed), level(here));
    Some(if level_needed > level_here {
        format!("the checkpoint needs {} ({level_needed}), this processor is {level_here}", missing.join(", "))
    } else {
        format!("the checkpoint needs {}, which this processor ({level_here}) does not have", missing.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> BTreeSet<String> {
        relevant(&format!("processor : 0\nflags\t\t: {text}\n"))
    }

    const V3: &str = "fpu cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";

    #[test]
    fn levels_are_those_of_the_psabi() {
        assert_eq!(level(&flags("fpu")), Level(1));
        assert_eq!(level(&flags("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2")), Level(2));
        assert_eq!(level(&flags(V3)), Level(3));
        assert_eq!(level(&flags(&format!("{V3} avx512f avx512bw avx512cd avx512dq avx512vl"))), Level(4));
        // A hole below keeps a processor down.
        assert_eq!(level(&flags("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave")), Level(1));
    }

    #[test]
    fn a_lesser_processor_is_refused_in_the_words_of_the_contract() {
        let needed = flags(&format!("{V3} avx512f avx512bw avx512cd avx512dq avx512vl"));
        let why = refusal(&needed, &flags(V3)).unwrap();
        assert!(
            why.contains(
                "needs avx512bw, avx512cd, avx512dq, avx512f, avx512vl (x86-64-v4), this processor is x86-64-v3"
            ),
            "{why}"
        );
        assert_eq!(refusal(&flags(V3), &needed), None);
        assert!(refusal(&flags(&format!("{V3} sha_ni")), &flags(V3)).unwrap().contains("needs sha_ni, which"));
        assert_eq!(refusal(&needed, &BTreeSet::new()), None);
        assert!(refusal(&needed, &flags("fpu sse2")).unwrap().ends_with("this processor is x86-64-v1"));
    }

    #[test]
    fn only_what_every_processor_has_counts() {
        let text = "flags : avx avx2 aes\nbugs : x\n\nflags : avx aes\nvmx flags : avx2\n";
        assert_eq!(relevant(text), BTreeSet::from(["aes".to_owned(), "avx".to_owned()]));
    }
}
