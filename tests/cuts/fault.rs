//! What is done to a run, and what it may come to.

use nix::errno::Errno;

/// What is done at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL to condor-criu, to the sandbox's init, to criu.
    Kill,
    Init,
    Criu,
    /// The file system becomes read-only.
    Disk,
    /// The call fails, and all that follow too if it is lasting.
    Error {
        errno: Errno,
        lasting: bool,
    },
    /// Half is written, and of all that is written later too if it is lasting.
    Short {
        lasting: bool,
    },
    /// The wall clock jumps by hours.
    Clock(i64),
}

impl Fault {
    /// As `cut` takes it.
    pub fn word(self) -> String {
        let lasts = |lasting: bool| if lasting { "+" } else { "" };
        match self {
            Fault::Kill => "kill".into(),
            Fault::Init => "init".into(),
            Fault::Criu => "criu".into(),
            Fault::Disk => "disk".into(),
            Fault::Error { errno, lasting } => format!("{}{}", errno as i32, lasts(lasting)),
            Fault::Short { lasting } => format!("short{}", lasts(lasting)),
            Fault::Clock(hours) => format!("{}s", hours * 3600),
        }
    }

    /// Whether the run can come to this: its exit code, or the signal's number below zero.
    pub fn allows(self, result: i32) -> bool {
        match self {
            Fault::Kill => matches!(result, -9 | 85),
            Fault::Init => matches!(result, 75 | 85),
            // The signal could not be answered with a checkpoint, which is said, and the payload got it itself or went
            // on to its end.
            Fault::Criu | Fault::Disk | Fault::Error { .. } => matches!(result, 85 | 75 | 42 | -15),
            // Nothing is wrong that anybody has to notice.
            Fault::Short { .. } | Fault::Clock(_) => result == 85,
        }
    }

    /// Whether the log and the payload's own files can be written after it.
    pub fn leaves_a_disk(self) -> bool {
        !matches!(self, Fault::Disk | Fault::Error { lasting: true, .. })
    }
}

/// A disk that is full stays full.
pub const ERRORS: [Fault; 3] = [
    Fault::Error { errno: Errno::EIO, lasting: false },
    Fault::Error { errno: Errno::ENOSPC, lasting: true },
    Fault::Error { errno: Errno::EDQUOT, lasting: false },
];
