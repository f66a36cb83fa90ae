//! What a payload needs of a host, and what this host offers.

pub mod baseline;
pub mod content;
pub mod cpu;
pub mod files;
pub mod kernel;
pub mod limits;
pub mod mpi;
pub mod namespaces;
pub mod privilege;
pub mod scan;

/// Processors that this process may use: affinity and cgroup quota, not what the host has.
pub fn allowed_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
