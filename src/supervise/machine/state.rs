//! The words of the machine: states, inputs, actions, ends. Each state carries what is valid in it.

use std::time::Duration;

use crate::checkpoint::Reason;
use crate::exit::{Ended, Failure};

/// Time since the supervisor began.
pub type Moment = Duration;

/// A cause that may be gone in a moment is tried again so often before it is a failure: a vacate has no more time.
pub const SOON_TRIES: u32 = 8;

/// What does not change in the life of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The job's checkpoint exit code, if it has one.
    pub code: Option<u8>,
}

/// Whether HTCondor wants the slot back, with the signal that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It does not.
    No,
    /// It does, and we are to answer.
    Asked(i32),
    /// It does. There is nothing that we can do, and the payload has got the signal.
    PassedOn(i32),
}

/// Where the supervisor is in the life of the job.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// The payload has been asked for and does not run yet.
    Starting {
        /// A checkpoint is taken as soon as it runs.
        wanted: bool,
        /// Of a vacate.
        deadline: Option<Moment>,
    },
    /// The checkpoint's files are being put back.
    Unpacking {
        /// As above.
        wanted: bool,
        /// Of a vacate.
        deadline: Option<Moment>,
    },
    /// criu is restoring.
    Restoring {
        /// As above.
        wanted: bool,
        /// When criu is given up.
        deadline: Moment,
    },
    /// The payload runs.
    Running {
        /// Saves that failed for a cause that passes by itself, one after the other.
        tries: u32,
    },
    /// A save has begun: the relays of the standard streams come to rest.
    Quieting {
        /// Why it is taken.
        reason: Reason,
        /// As in [`State::Running`].
        tries: u32,
        /// When they are waited for no longer.
        deadline: Moment,
    },
    /// What criu needs is being made, at once.
    Preparing {
        /// Why.
        reason: Reason,
        /// As above.
        tries: u32,
    },
    /// criu is saving.
    Dumping {
        /// Why.
        reason: Reason,
        /// As above.
        tries: u32,
        /// How long packing may take.
        patience: Duration,
        /// What has been done about a criu that is too slow.
        then: Patience,
        /// When the next thing is done about it.
        deadline: Moment,
    },
    /// Every image has been written, criu holds the tree, and the archive is being finished and committed.
    Packing {
        /// Why.
        reason: Reason,
        /// What is left of what was saved.
        tree: Tree,
        /// When it is given up.
        deadline: Moment,
    },
    /// criu has been told to let the tree go on.
    Releasing {
        /// What the save came to.
        outcome: Outcome,
        /// criu was killed.
        killed: bool,
        /// When that is done, or given up.
        deadline: Moment,
    },
    /// The payload has ended by itself, and that is being saved: the status comes after the checkpoint.
    SavingEnd {
        /// How.
        ended: Ended,
        /// When it is told at once instead.
        deadline: Moment,
    },
    /// It is known how this ends. What is left of the payload's output is on its way.
    Draining {
        /// How.
        end: End,
        /// When the rest is given up.
        deadline: Moment,
    },
    /// Nothing follows any more.
    Over,
}

/// What is done about a criu that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing yet.
    Waiting,
    /// Its pipes are closed, so that it fails and puts everything back.
    GivenUp,
    /// It was killed.
    Killed,
}

/// The tree whose checkpoint is being packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// criu holds it.
    Held,
    /// criu has ended, and it runs on.
    Loose,
    /// It was killed (too little memory, say).
    Ended(Ended),
    /// Its sandbox was.
    Gone,
}

/// What a save came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Committed,
    /// It is not.
    Failed {
        /// Why it was taken.
        reason: Reason,
        /// The cause may be gone in a moment; tries before this one.
        passes: Option<u32>,
    },
}

/// How criu ended at a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpEnd {
    /// It has put everything back, as it was told to, or because it failed.
    PutBack {
        /// The cause of a failure may be gone in a moment.
        passes: bool,
    },
    /// It was killed while it worked inside the tree, which may be damaged.
    Harmed(Ended),
}

/// What putting the files back came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Unpacked {
    /// They are in place.
    Files {
        /// How long the restore may take.
        patience: Duration,
    },
    /// The payload had ended before the checkpoint; there is nothing to restore.
    Ended(Ended),
    /// It failed.
    Failed(Failure),
}

/// What happens to the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A signal that asks us to leave.
    Vacate(i32),
    /// A signal that asks for a checkpoint.
    Checkpoint {
        /// HTCondor expects the next exit to be one.
        promised: bool,
    },
    /// A signal that is the payload's.
    Signal(i32),
    /// The payload runs.
    Spawned,
    /// It cannot be started.
    NotSpawned(Failure),
    /// The checkpoint's files.
    Unpacked(Unpacked),
    /// The images cannot be given to criu.
    StreamBroken,
    /// The payload runs again.
    Restored,
    /// It does not.
    NotRestored(Failure),
    /// The time of the next checkpoint has come.
    Due(Reason),
    /// The relays of the standard streams rest.
    Quiet,
    /// criu has been started.
    DumpBegun {
        /// How long it may take, and packing as long again.
        patience: Duration,
    },
    /// It was not, and nothing was touched.
    DumpRefused,
    /// A vacate leaves no time for a checkpoint, and the last one stands.
    NoTime,
    /// Every image has been written, and criu waits.
    Held,
    /// The same, but what was saved must not be committed.
    Unfit {
        /// The cause may be gone in a moment.
        passes: bool,
    },
    /// criu has ended.
    DumpEnded(DumpEnd),
    /// The checkpoint is committed, or not.
    Packed(bool),
    /// The root of the payload's tree has ended.
    PayloadEnded(Ended),
    /// It has ended because the processor lacks what the first one had.
    WrongProcessor(Failure),
    /// The sandbox's init is gone.
    SandboxGone,
    /// Who started us is gone.
    StarterGone,
    /// A reader has taken some of the payload's output.
    StreamsMoved,
    /// All of it has been taken, or nobody takes it any more.
    StreamsDone,
    /// The deadline may have passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start the payload.
    Spawn,
    /// Put the checkpoint's files back.
    Unpack,
    /// Let criu restore.
    Restore,
    /// The payload has begun, or goes on here: carry its streams, look at it.
    Begun,
    /// Set the time of the next checkpoint.
    Schedule {
        /// Saves that failed in a row.
        failures: u32,
    },
    /// Set it to a moment from now, for this reason.
    ScheduleSoon(Reason),
    /// There is to be none.
    Unschedule,
    /// One more vacate in the job's history.
    CountVacate,
    /// Bring the relays to rest; the answer is [`Input::Quiet`].
    Quiet,
    /// Start criu; the answer is one of [`Input::DumpBegun`], [`Input::DumpRefused`], [`Input::NoTime`].
    Dump(Reason),
    /// Close criu's pipes.
    GiveUp,
    /// Kill criu.
    KillCriu,
    /// Pack and commit; the answer is [`Input::Packed`].
    Pack(Reason),
    /// What is packed must not be committed any more.
    CancelPacking,
    /// Let criu let the tree go on.
    LetGo,
    /// The tree goes on after a save: carry its streams again, take away what criu has left.
    GoOn,
    /// Give the payload this signal.
    PassSignal(i32),
    /// Say that it was passed on because nothing newer is saved.
    SayPassedOn,
    /// Save that the payload has ended; the answer is [`Input::Packed`].
    SaveEnd(Ended),
    /// Say that it could not be.
    SayEndNotSaved,
    /// Carry what is left of the payload's output and end; the answer is [`Input::StreamsDone`].
    Drain,
    /// The end.
    End(End),
}

/// Every end of a supervisor.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The payload's own.
    Payload(Ended),
    /// The payload's own code is the checkpoint code.
    Ambiguous,
    /// A checkpoint is committed.
    Checkpointed,
    /// The payload had not begun when this signal asked us to leave.
    NeverRan(i32),
    /// A failure that was told.
    Failed(Failure),
    /// criu was killed while it worked inside the tree.
    Harmed(Ended),
    /// criu did not end in time at a restore.
    RestoreTooSlow,
    /// The sandbox does not answer.
    Stuck {
        /// There is a checkpoint to go on from.
        saved: bool,
    },
    /// The sandbox was killed from outside.
    SandboxGone {
        /// There is a checkpoint to go on from.
        saved: bool,
        /// It was being restored.
        restoring: bool,
    },
    /// Who started us is gone.
    StarterGone,
}
