//! Everything that knows CRIU: finding it, its command lines, its log, its streaming protocol.

pub mod images;
pub mod stream;
mod wire;
