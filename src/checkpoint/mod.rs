//! The checkpoint: one committed archive of a frozen process tree and its files.

pub mod archive;
pub mod streaming;
