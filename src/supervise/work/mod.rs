//! What takes long, in threads of its own, and the streams and files that it works on.

pub mod checkpoint_file;
pub mod open_beneath;
pub mod pack;
pub mod relay;
pub mod save;
pub mod stdio;
pub mod target;
pub mod unpack;
