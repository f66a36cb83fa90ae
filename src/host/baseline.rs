//! Which processor a payload may count on: `cpu_baseline`.
//!
//! A program that chooses code by the processor it finds at its start keeps that choice in every checkpoint. So what it
//! needs is decided before its exec, by the environment: each library that dispatches has a variable that bounds it.
//! What follows was measured with glibc 2.36 and 2.41, OpenBLAS and NumPy 2.2 (docs/measurements.md, "Processors"); the
//! variables of MKL, oneDNN, PyTorch and OpenSSL are from their manuals. A program that asks cpuid itself is not bound
//! by any of this; [`used_avx512`] sees one kind of it, and the supervisor refuses to believe a SIGILL on a lesser
//! processor.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::cpu::{self, Level};
use crate::procfs;

/// What a payload may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// All that the first host offers.
    Host,
    /// No more than this level, 1 to 4.
    Level(Level),
}

/// Every processor since Haswell (2013) and Excavator (2015) has it. docs/portability.md argues for it with what it
/// costs.
pub const DEFAULT: Baseline = Baseline::Level(Level(3));

/// What is in no level of the psABI, but in every processor of level 3 that is sold; it stays allowed there, because
/// cryptography without it is many times slower.
const WITH_LEVEL_3: [&str; 3] = ["aes", "pclmulqdq", "rdrand"];

impl ValueEnum for Baseline {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Baseline; 5] = [
            Baseline::Level(Level(1)),
            Baseline::Level(Level(2)),
            Baseline::Level(Level(3)),
            Baseline::Level(Level(4)),
            Baseline::Host,
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Baseline::Host => PossibleValue::new("host").alias("x86-64-host").help("All that the first host offers"),
            Baseline::Level(Level(1)) => PossibleValue::new("x86-64-v1").alias("v1").help("Up to SSE2"),
            Baseline::Level(Level(2)) => PossibleValue::new("x86-64-v2").alias("v2").help("Up to SSE4.2"),
            Baseline::Level(Level(3)) => PossibleValue::new("x86-64-v3").alias("v3").help("Up to AVX2"),
            Baseline::Level(_) => PossibleValue::new("x86-64-v4").alias("v4").help("Up to AVX-512"),
        })
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Baseline::Host => f.write_str("host"),
            Baseline::Level(level) => level.fmt(f),
        }
    }
}

impl Baseline {
    /// What a payload that was started with this baseline needs, of what its first host offered.
    pub fn needs(self, offered: &BTreeSet<String>) -> BTreeSet<String> {
        let Baseline::Level(level) = self else { return offered.clone() };
        let allowed = |flag: &String| {
            cpu::level_of(flag).is_some_and(|of| of <= level)
                || level >= Level(3) && WITH_LEVEL_3.contains(&flag.as_str())
                || level >= Level(4) && flag.starts_with("avx512")
        };
        offered.iter().filter(|flag| allowed(flag)).cloned().collect()
    }

    /// The variables that keep a program within this baseline.
    fn variables(self) -> Vec<(&'static str, String)> {
        let Baseline::Level(Level(level)) = self else { return Vec::new() };
        // Level 4 is what libraries stop at by themselves, but for what came after it.
        if level >= 4 {
            return Vec::new();
        }
        let text = |name, value: &str| (name, value.to_owned());
        let mut variables =
            vec![(TUNABLES, format!("{HWCAPS}={}", hwcaps(level))), ("OPENSSL_ia32cap", openssl(level))];
        variables.extend(match level {
            3 => [
                text("OPENBLAS_CORETYPE", "Haswell"),
                text("NPY_DISABLE_CPU_FEATURES", NUMPY_ABOVE_3),
                text("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
                text("ONEDNN_MAX_CPU_ISA", "AVX2"),
                text("ATEN_CPU_CAPABILITY", "avx2"),
            ],
            2 => [
                text("OPENBLAS_CORETYPE", "Nehalem"),
                ("NPY_DISABLE_CPU_FEATURES", format!("AVX F16C FMA3 AVX2 X86_V3 {NUMPY_ABOVE_3}")),
                text("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
                text("ONEDNN_MAX_CPU_ISA", "SSE41"),
                text("ATEN_CPU_CAPABILITY", "default"),
            ],
            _ => [
                text("OPENBLAS_CORETYPE", "Prescott"),
                (
                    "NPY_DISABLE_CPU_FEATURES",
                    format!("SSSE3 SSE41 POPCNT SSE42 AVX F16C FMA3 AVX2 X86_V3 {NUMPY_ABOVE_3}"),
                ),
                text("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
                text("ONEDNN_MAX_CPU_ISA", "SSE41"),
                text("ATEN_CPU_CAPABILITY", "default"),
            ],
        });
        variables
    }

    /// Adds them to a payload's environment. A variable that the user has set is left as it is: he knows his program.
    pub fn add_to(self, environment: &mut Vec<(OsString, OsString)>) {
        for (name, value) in self.variables() {
            match environment.iter_mut().find(|(known, _)| known == name) {
                None => environment.push((name.into(), value.into())),
                // Tunables are a list of their own.
                Some((_, given)) if name == TUNABLES && !given.to_string_lossy().contains(HWCAPS) => {
                    given.push(":");
                    given.push(value);
                }
                Some(_) => {}
            }
        }
    }
}

const TUNABLES: &str = "GLIBC_TUNABLES";
const HWCAPS: &str = "glibc.cpu.hwcaps";
/// The names before and since NumPy 2.4; a name that a version does not know makes an ImportWarning, which Python does
/// not show.
const NUMPY_ABOVE_3: &str = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4";

/// What glibc's dispatch must not see, and with XSAVEC not which way of saving registers the processor has: the dynamic
/// linker would use an instruction that lesser ones lack.
fn hwcaps(level: u8) -> String {
    const ABOVE_3: &str = "-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD,-XSAVEC";
    const ABOVE_2: &str =
        "-XSAVE,-AVX_Fast_Unaligned_Load,-AVX,-AVX2,-FMA,-FMA4,-BMI1,-BMI2,-LZCNT,-MOVBE,-F16C,-ERMS,-RTM";
    const ABOVE_1: &str = "-SSSE3,-SSE4_1,-SSE4_2,-POPCNT";
    match level {
        3 => ABOVE_3.to_owned(),
        2 => format!("{ABOVE_3},{ABOVE_2}"),
        _ => format!("{ABOVE_3},{ABOVE_2},{ABOVE_1}"),
    }
}

/// OPENSSL_ia32cap(3): two words of capabilities, `~` takes bits away. The first is cpuid leaf 1, EDX below ECX, the
/// second leaf 7, EBX below ECX.
fn openssl(level: u8) -> String {
    let bits = |numbers: &[u32]| numbers.iter().fold(0_u64, |all, bit| all | 1 << bit);
    // ADX, RDSEED, SHA, AVX512 F DQ IFMA CD BW VL; then VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ
    let above_3 = bits(&[16, 17, 18, 19, 21, 28, 29, 30, 31, 33, 38, 40, 41, 42, 43, 44, 46]);
    // PCLMULQDQ, XOP, FMA, AES, AVX, RDRAND
    let above_2 = bits(&[33, 43, 44, 57, 60, 62]);
    // SSSE3
    let above_1 = bits(&[41]);
    match level {
        3 => format!(":~{above_3:#x}"),
        2 => format!("~{above_2:#x}:0"),
        _ => format!("~{:#x}:0", above_2 | above_1),
    }
}

/// Names the first process below `proc` (a mounted procfs) that has used AVX-512 registers since its program began, as
/// far as the kernel knows (`arch_status`, proc.rst: sampled at context switches). `uptime` is this host's
/// CLOCK_BOOTTIME, in which start times are given. `ran` is how long the payload runs since its start or restore: what
/// criu does in a process that it restores is not the program's doing, and on a busy machine that takes longer than any
/// fixed time.
pub fn used_avx512(proc: &Path, uptime: Duration, ran: Duration, criu: Option<i32>) -> Option<String> {
    /// What a process does before its exec is not the program's: fork(2) copies the mark, and we fork.
    const BEFORE_EXEC: Duration = Duration::from_millis(250);
    let criu = criu.map(i32::cast_unsigned);
    for (pid, path) in procfs::processes(proc).filter(|(pid, _)| *pid != 1 && Some(*pid) != criu) {
        let tasks = std::fs::read_dir(path.join("task")).into_iter().flatten().flatten();
        for task in tasks {
            let (Some(used), Some(age)) = (elapsed(&task.path()), age(&task.path(), uptime)) else { continue };
            if used + BEFORE_EXEC < age.min(ran) {
                return Some(format!("process {pid} ({})", procfs::name(&path)));
            }
        }
    }
    None
}

/// Since the last use, if there was one.
fn elapsed(task: &Path) -> Option<Duration> {
    // -1 if there was none.
    procfs::number(&task.join("arch_status"), "AVX512_elapsed_ms").map(Duration::from_millis)
}

fn age(task: &Path, uptime: Duration) -> Option<Duration> {
    /// USER_HZ of the x86-64 ABI, whatever the kernel's own frequency.
    const TICK_MS: u64 = 10;
    let started = procfs::Stat::read(task)?.started?;
    uptime.checked_sub(Duration::from_millis(started.checked_mul(TICK_MS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(flags: &[&str]) -> BTreeSet<String> {
        flags.iter().map(|flag| (*flag).to_owned()).collect()
    }

    #[test]
    fn a_level_needs_no_more_than_its_flags_and_what_everyone_has() {
        let offered = set(&["avx2", "avx512f", "avx512_vnni", "sha_ni", "aes", "ssse3"]);
        let needs = |text: &str| Baseline::from_str(text, false).unwrap().needs(&offered);
        assert_eq!(needs("host"), offered);
        assert_eq!(needs("x86-64-v3"), set(&["aes", "avx2", "ssse3"]));
        assert_eq!(needs("v4"), set(&["aes", "avx2", "avx512_vnni", "avx512f", "ssse3"]));
        assert_eq!(needs("v2"), set(&["ssse3"]));
        assert_eq!(needs("x86-64-v1"), set(&[]));
        assert!(["v5", ""].iter().all(|text| Baseline::from_str(text, false).is_err()));
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let mut environment: Vec<(OsString, OsString)> =
            vec![("GLIBC_TUNABLES".into(), "glibc.malloc.check=1".into()), ("OPENBLAS_CORETYPE".into(), "Zen".into())];
        DEFAULT.add_to(&mut environment);
        let value = |name: &str| environment.iter().find(|(known, _)| known == name).unwrap().1.to_str().unwrap();
        assert!(value("GLIBC_TUNABLES").starts_with("glibc.malloc.check=1:glibc.cpu.hwcaps=-AVX512F,"));
        assert_eq!((value("OPENBLAS_CORETYPE"), value("ATEN_CPU_CAPABILITY")), ("Zen", "avx2"));
        let before = environment.clone();
        DEFAULT.add_to(&mut environment);
        assert_eq!(environment, before);
        let mut untouched = Vec::new();
        Baseline::Host.add_to(&mut untouched);
        assert!(untouched.is_empty());
    }

    #[test]
    fn a_mark_from_before_the_exec_is_not_the_program_s() {
        let dir = tempfile::tempdir().unwrap();
        let task = dir.path().join("7/task/7");
        std::fs::create_dir_all(&task).unwrap();
        // Started 10 s after the boot.
        let stat = "7 (a b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1000 0 0\n";
        std::fs::write(task.join("stat"), stat).unwrap();
        let seen = |ms: i64, ran: u64| {
            std::fs::write(task.join("arch_status"), format!("AVX512_elapsed_ms:\t{ms}\n")).unwrap();
            used_avx512(dir.path(), Duration::from_secs(15), Duration::from_secs(ran), None).is_some()
        };
        assert!(!seen(-1, 9) && !seen(5100, 9) && !seen(4900, 9) && seen(3000, 9) && seen(0, 9));
        // Restored two seconds ago.
        assert!(!seen(3000, 2) && !seen(1900, 2) && seen(1000, 2));
    }
}
