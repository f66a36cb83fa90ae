//! What the processor says of itself. The call is safe in new versions of Rust and `unsafe` in older ones, and so it is
//! here.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

/// The instruction of this name (Intel SDM, volume 2).
pub fn cpuid(leaf: u32, sub_leaf: u32) -> CpuidResult {
    #[allow(unused_unsafe, reason = "needed by the oldest Rust that we build with")]
    // SAFETY: every x86-64 processor has it, and it touches no memory.
    unsafe {
        __cpuid_count(leaf, sub_leaf)
    }
}
