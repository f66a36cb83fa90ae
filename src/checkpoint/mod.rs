//! The checkpoint: one committed archive of a frozen process tree and its files.

pub mod archive;
pub mod commit;
pub mod ended;
pub mod given;
pub mod inspect;
pub mod inventory;
pub mod manifest;
pub mod streaming;
pub mod tree;

pub use commit::{Draft, Place};
pub use given::Inputs;
pub use inventory::NotCarried;
pub use manifest::{Manifest, Reason};

use archive::Compression;

/// What the names of all our checkpoint files begin with.
pub const NAME: &str = "criu-checkpoint.";

/// Name of the checkpoint file in the scratch directory.
pub fn file_name(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip { .. } => "criu-checkpoint.tar.gz",
        _ => "criu-checkpoint.tar.zst",
    }
}

/// Name of the file with the generation before it, with `keep = 2`.
pub fn previous_name(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip { .. } => "criu-checkpoint.previous.tar.gz",
        _ => "criu-checkpoint.previous.tar.zst",
    }
}
