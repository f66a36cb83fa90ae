//! Everything that knows CRIU: finding it, its command lines, its log, its streaming protocol.

pub mod bundle;
pub mod closure;
pub mod command;
pub mod executable;
pub mod features;
pub mod find;
pub mod images;
pub mod locks;
pub mod log;
pub mod owners;
pub mod stream;
mod wire;

pub use executable::{Criu, TESTED, Version};
pub use find::find;
