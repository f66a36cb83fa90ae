//! When: the interval between checkpoints, and what fits into a vacate.

pub mod interval;
pub mod vacate_window;
