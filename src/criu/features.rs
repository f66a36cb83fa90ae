//! What is in the images of a dump that an older kernel cannot restore. It is read from the images themselves, as they
//! pass, so that a host is asked for exactly what they have.

use serde::{Deserialize, Serialize};

use super::images::guards;
use super::images::{DROPPABLE, ImageError, MM, entries, number, number_in};
use super::wire::{Value, fields};

/// A feature of the kernel that a payload uses. Ordered by the kernel that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Memory made with MAP_DROPPABLE; rewritten where the kernel does not have it.
    DroppableMemory,
    /// Guard pages (MADV_GUARD_INSTALL) in private anonymous memory, as glibc 2.42 makes them below the stack of each
    /// thread; rewritten where the kernel does not have them.
    StackGuards,
    /// Guard pages anywhere else.
    GuardPages,
    /// One that this version of condor-criu does not know.
    #[serde(other)]
    Unknown,
}

impl Feature {
    /// The first kernel with it.
    pub fn since(self) -> Option<(u32, u32)> {
        match self {
            Feature::DroppableMemory => Some((6, 11)),
            Feature::StackGuards => Some((6, 13)),
            // In files and shared memory.
            Feature::GuardPages => Some((6, 15)),
            Feature::Unknown => None,
        }
    }

    /// Whether [`super::images::Rewrite`] can do without it.
    pub fn is_replaced(self) -> bool {
        matches!(self, Feature::DroppableMemory | Feature::StackGuards)
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Feature::DroppableMemory => "droppable memory",
            Feature::StackGuards => "guard pages below stacks",
            Feature::GuardPages => "guard pages in a file or in shared memory",
            Feature::Unknown => "a feature of the kernel that this condor-criu does not know",
        }
    }
}

/// Whether [`of_image`] has something to say about the image of this name.
pub fn concerns(name: &str) -> bool {
    name.starts_with("mm-") && name.ends_with(".img")
}

/// The features in an image that [`concerns`] us.
pub fn of_image(name: &str, image: &[u8]) -> Result<Vec<Feature>, ImageError> {
    let message = |source| ImageError::Message { name: name.into(), source };
    let mut found = Vec::new();
    for entry in entries(name, MM, image)? {
        found.extend(
            guards::of(entry)
                .map_err(message)?
                .map(|replaceable| if replaceable { Feature::StackGuards } else { Feature::GuardPages }),
        );
        for field in fields(entry) {
            let field = field.map_err(message)?;
            let (number::VMAS, Value::Bytes(vma)) = (field.number, field.value) else { continue };
            if number_in(vma, number::FLAGS).map_err(message)? == DROPPABLE {
                found.push(Feature::DroppableMemory);
            }
        }
    }
    Ok(found)
}
