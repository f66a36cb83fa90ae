//! A tar member as a part of a member of the archive.

/// What a tar member has of a member of the archive.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Number of the member in the table.
    pub member: u32,
    number: u32,
}

impl Part {
    /// Chunk `number` of a member, or all of it.
    pub fn new(member: usize, number: Option<u32>) -> Self {
        Self { member: member as u32, number: number.unwrap_or(u32::MAX) }
    }

    /// Number of the chunk; none if it is the whole member.
    pub fn number(self) -> Option<u32> {
        (self.number < u32::MAX).then_some(self.number)
    }
}
