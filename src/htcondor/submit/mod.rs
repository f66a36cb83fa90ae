//! Submit descriptions, as condor_submit reads them, and `condor-criu wrap`, which makes a checkpointing one of a
//! user's.
//!
//! [`statement`] takes a description apart and keeps every byte, so that what is not changed is written back as it was.
//! [`wrap`] decides what has to change, [`refuse`] what cannot; each change is in the line that it concerns.

pub mod refuse;
pub mod statement;
pub mod wrap;

pub use refuse::Refused;
pub use wrap::wrap;
