//! What can go wrong with an archive. It is told apart because the callers act differently: an empty file is a job's
//! first start, a newer format is another host's business, damage is a checkpoint lost.

use std::io;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file has no byte: the placeholder that lies there before the first commit.
    #[error("the file is empty: no checkpoint has been committed to it")]
    Empty,
    /// The file does not begin as our archives do.
    #[error("this is not a checkpoint archive of condor-criu")]
    NotOurs,
    /// The file is ours, of a major version that this program does not know.
    #[error("the archive has format {found}, and this condor-criu reads up to format {known}: use a newer one")]
    NewerFormat {
        /// Major version of the file.
        found: u16,
        /// Newest major version that this program reads.
        known: u16,
    },
    /// The file begins as ours and its end is missing.
    #[error("the archive is cut off: its end is missing")]
    Truncated,
    /// A digest, or a number that must agree with another, does not.
    #[error("the archive is damaged: {what}")]
    Damaged {
        /// Which part, and what is wrong with it.
        what: String,
    },
    /// No member has this name.
    #[error("the archive has no member {name:?}")]
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// A member was handed to the writer that cannot be stored, or a caller broke the order of calls.
    #[error("cannot store this member: {what}")]
    BadMember {
        /// What is wrong.
        what: String,
    },
    /// A member of an archive must not, or cannot, be written to the place that was named.
    #[error("cannot extract {name:?}: {what}")]
    Extract {
        /// The member.
        name: String,
        /// Why not.
        what: String,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ArchiveError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    pub(super) fn bad(what: impl Into<String>) -> Self {
        Self::BadMember { what: what.into() }
    }

    pub(super) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// A second copy of the same error, since the first one to happen has to be told to every caller that follows.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::NotOurs => Self::NotOurs,
            Self::NewerFormat { found, known } => Self::NewerFormat { found: *found, known: *known },
            Self::Truncated => Self::Truncated,
            Self::Damaged { what } => Self::Damaged { what: what.clone() },
            Self::NotFound { name } => Self::NotFound { name: name.clone() },
            Self::BadMember { what } => Self::BadMember { what: what.clone() },
            Self::Extract { name, what } => Self::Extract { name: name.clone(), what: what.clone() },
            Self::Io { doing, source } => Self::Io {
                doing: doing.clone(),
                source: match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                },
            },
        }
    }
}

impl From<ArchiveError> for io::Error {
    /// For the places where an archive stands behind `Read` or `Write`. The system's error number survives.
    fn from(e: ArchiveError) -> Self {
        match e {
            ArchiveError::Io { source, .. } if source.raw_os_error().is_some() => source,
            ArchiveError::Truncated => io::Error::new(io::ErrorKind::UnexpectedEof, ArchiveError::Truncated),
            ArchiveError::Damaged { .. } => io::Error::new(io::ErrorKind::InvalidData, e),
            other => io::Error::other(other),
        }
    }
}
