//! What integration tests share. Each test file is a crate of its own and uses only a part of it.
#![allow(dead_code, reason = "no test file uses all of it")]

pub mod count;
pub mod job;
pub mod local;
pub mod long;
pub mod place;
pub mod pool;
pub mod random;
pub mod rehearsals;
pub mod workload;
