//! What a payload needs of a host, and what this host offers.

pub mod baseline;
pub mod cpu;
pub mod doctor;
pub mod files;
pub mod mpi;
pub mod namespaces;
pub mod scan;
