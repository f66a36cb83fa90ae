//! The archive: one file that holds a checkpoint, an ordinary tar in independent zstd frames with an index at its end.
//!
//! It exists because neither half is enough alone. A plain `tar | zstd` must be read from its start to find anything,
//! is compressed by one thread, and hides a flipped bit in an image that criu then restores without a word. A private
//! format could do all that, but nobody could look into it with the tools that they have. So every large piece is a tar
//! member in a frame of its own. An index says where each frame is and what its digest must be. `tar --zstd -tf` lists
//! the file all the same. The layout is written down in `docs/format.md`.
//!
//! * [`Writer`] takes members from any number of threads, compresses in a fixed number of workers and holds a bounded
//!   amount of memory whatever the size of the payload.
//! * [`Reader`] finds any member through the index, decompresses ahead in parallel, and hands out no byte of a frame
//!   before the whole frame has been compared with its digest.
//! * [`extract`] writes members into a directory and trusts nothing that the archive says.
//!
//! The files, from the bottom up: [`crate::name`] (what a member may be called), [`format`](mod@format) (opening,
//! locator, versions), [`index`], [`tarhead`] (tar headers), [`filter`] (byte shuffle), [`sample`] (what to do with a
//! frame), [`frame`] (encode and decode one frame), [`writer`], [`stream`], [`reader`], [`member`], [`extract`].

pub mod codec;
mod dedup;
pub mod error;
pub mod extract;
pub mod filter;
mod flush;
pub mod format;
pub mod frame;
pub mod index;
mod inner;
mod lock;
pub mod member;
pub mod meta;
mod part;
pub mod reader;
pub mod sample;
mod shared;
pub mod stream;
mod tail;
mod tarhead;
mod work;
pub mod writer;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub use crate::name::Name;
pub use error::ArchiveError;
pub use extract::{Existing, ExtractOptions, Extracted, extract};
pub use frame::Compression;
pub use index::{Extent, Kind, Member, Mtime, Xattr};
pub use member::{Lent, MemberReader, Piece};
pub use meta::Meta;
pub use reader::Reader;
pub use stream::MemberStream;
pub use writer::{Summary, WriteOptions, Writer};
