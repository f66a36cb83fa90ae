//! A stand-in for HTCondor's starter and access point. It makes scratch directories with a job ad and a machine ad,
//! starts this very binary with `run`, and evicts. It carries what HTCondor would carry (docs/measurements.md, "What
//! the starter carries").

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGCHLD;

use super::life::{Ending, Eviction, EvictionKind, Life, host};
use super::{Options, is_checkpoint, progress};
use crate::checkpoint::ended::EndRecord;
use crate::checkpoint::tree::Tree;
use crate::clock::now;
use crate::exit::{DEFAULT_CHECKPOINT_CODE, Ended};
use crate::journal::{self, Record};

/// An eviction sooner than this would only test the start.
pub(super) const SHORTEST_LIFE: Duration = Duration::from_millis(500);
/// HTCondor's default `MachineMaxVacateTime`.
pub(super) const VACATE_TIME: Duration = Duration::from_secs(600);
/// The names by which HTCondor carries the standard streams.
pub(super) const STDOUT: &str = "_condor_stdout";
/// See [`STDOUT`].
pub(super) const STDERR: &str = "_condor_stderr";

/// Where the scratch directories are.
pub(super) enum Base {
    /// Removed at the end.
    Temporary(PathBuf),
    /// The user's.
    Kept(PathBuf),
}

impl Base {
    pub(super) fn temporary() -> io::Result<Base> {
        let template = std::env::temp_dir().join("condor-criu-rehearse.XXXXXX");
        Ok(Base::Temporary(nix::unistd::mkdtemp(&template)?))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Base::Temporary(path) | Base::Kept(path) => path,
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Base::Temporary(path) = self {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// The stand-in.
pub(super) struct Starter<'a> {
    options: &'a Options,
    base: &'a Path,
    /// What is transferred: source, and name in the scratch directory.
    inputs: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Starter<'a> {
    pub(super) fn new(options: &'a Options, base: &'a Path) -> io::Result<Starter<'a>> {
        let mut inputs = Vec::new();
        // The program and every argument that names something in this directory, and what else is asked for.
        let named = options.command.iter().map(PathBuf::from).filter(|path| path.is_relative() && path.exists());
        for path in named.chain(options.transfer.iter().cloned()) {
            let source = path.canonicalize()?;
            let name = if path.is_relative()
                && path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
            {
                path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
            } else {
                PathBuf::from(path.file_name().unwrap_or_default())
            };
            if name.as_os_str().is_empty() || inputs.iter().any(|(_, known)| *known == name) {
                continue;
            }
            inputs.push((source, name));
        }
        Ok(Starter { options, base, inputs })
    }

    /// One life without evictions.
    pub(super) fn peacefully(&self, name: &str) -> io::Result<Life> {
        let scratch = self.scratch(name, None)?;
        let began = now();
        let status = self.start(&scratch, &["--interval", "never"])?.wait()?;
        Ok(Life { ending: ending(&scratch, status), scratch, began, ended: now() })
    }

    /// Lives until the payload's end, evicted after every `every`, each in another directory.
    pub(super) fn with_evictions(&self, every: Duration, evictions: &mut Vec<Eviction>) -> io::Result<Life> {
        let spool = self.base.join("spool");
        fs::create_dir_all(&spool)?;
        let mut number = 0;
        let mut left = self.options.evictions;
        let mut scratch = self.scratch(&life_name(number), Some(&spool))?;
        // Restarts in place do not put an eviction off.
        let mut due = Instant::now() + every;
        loop {
            let seen = journal::records(&scratch).len();
            let began = now();
            progress(&format!("eviction {} of {}", self.options.evictions - left, self.options.evictions));
            let (kind, status) = self.live(&scratch, (left > 0).then_some(due))?;
            let Some(kind) = kind else {
                self.note(&scratch, seen, None, evictions);
                return Ok(Life { ending: ending(&scratch, status), scratch, began, ended: now() });
            };
            if kind == EvictionKind::Vacate && !is_checkpoint(of(status)) {
                self.note(&scratch, seen, None, evictions);
                return Ok(Life { ending: unsaved(&scratch, of(status)), scratch, began, ended: now() });
            }
            self.note(&scratch, seen, Some((kind, began)), evictions);
            if kind != EvictionKind::Hard {
                self.carry(&scratch, &spool)?;
            }
            // A periodic checkpoint is uploaded, then the job is restarted in place.
            if kind != EvictionKind::Interval {
                left -= 1;
                number += 1;
                due = Instant::now() + every;
                scratch = self.scratch(&life_name(number), Some(&spool))?;
            }
        }
    }

    /// One life, evicted at `due`; `None` if it ended for good before that.
    fn live(&self, scratch: &Path, due: Option<Instant>) -> io::Result<(Option<EvictionKind>, ExitStatus)> {
        let mut child = self.start(scratch, &[])?;
        let status = match due {
            Some(due) => wait_until(&mut child, due)?,
            None => Some(child.wait()?),
        };
        if let Some(status) = status {
            return Ok((is_checkpoint(of(status)).then_some(EvictionKind::Interval), status));
        }
        let (kind, signal) = match self.options.hard {
            true => (EvictionKind::Hard, Signal::SIGKILL),
            false => (EvictionKind::Vacate, self.options.signal),
        };
        kill(Pid::from_raw(child.id() as i32), signal)?;
        if let Some(status) = wait_until(&mut child, Instant::now() + VACATE_TIME)? {
            return Ok((Some(kind), status));
        }
        child.kill()?;
        Ok((Some(kind), child.wait()?))
    }

    /// Reads what this life has added to the log.
    fn note(&self, scratch: &Path, seen: usize, why: Option<(EvictionKind, f64)>, evictions: &mut Vec<Eviction>) {
        let records: Vec<Record> = journal::records(scratch).into_iter().skip(seen).collect();
        for record in &records {
            if let (Record::Restored { seconds, .. }, Some(last)) = (record, evictions.last_mut()) {
                last.running_again_seconds = Some(*seconds);
            }
        }
        let Some((why, began)) = why else { return };
        let mut eviction = Eviction { began, ended: now(), host: host(scratch), ..Eviction::new(why) };
        for record in records {
            if let Record::Committed { generation, frozen_seconds, commit_seconds, bytes, .. } = record {
                eviction.generation = Some(generation);
                eviction.frozen_seconds = Some(frozen_seconds);
                eviction.commit_seconds = Some(commit_seconds);
                eviction.bytes = Some(bytes);
                // The old one was there until this one took its name.
                eviction.disk = Some(used(scratch).saturating_add(bytes));
            }
        }
        evictions.push(eviction);
    }

    /// A new scratch directory with what HTCondor puts there: ads, inputs, then the spool, which wins.
    pub(super) fn scratch(&self, name: &str, spool: Option<&Path>) -> io::Result<PathBuf> {
        let scratch = self.base.join(name).join("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir_all(&scratch)?;
        let code = DEFAULT_CHECKPOINT_CODE;
        let ad = format!(
            "ClusterId = 1\nProcId = 0\nSuccessCheckpointExitCode = {code}\nWantFTOnCheckpoint = true\n\
             WhenToTransferOutput = \"ON_EXIT_OR_EVICT\"\n\
             TransferCheckpoint = \"criu-checkpoint.tar.zst,condor-criu.log\"\n"
        );
        fs::write(scratch.join(".job.ad"), ad)?;
        fs::write(scratch.join(".machine.ad"), "Machine = \"rehearsal\"\n")?;
        for (source, name) in &self.inputs {
            copy(source, &scratch.join(name))?;
        }
        for entry in spool.map(fs::read_dir).transpose()?.into_iter().flatten() {
            let entry = entry?;
            copy(&entry.path(), &scratch.join(entry.file_name()))?;
        }
        Ok(scratch)
    }

    pub(super) fn start(&self, scratch: &Path, more: &[&str]) -> io::Result<Child> {
        let stream = |name: &str| File::options().append(true).create(true).open(scratch.join(name));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("run")
            .args(&self.options.run_flags)
            .args(more)
            .arg("--")
            .args(self.options.command.iter().map(|word| self.renamed(word)))
            .current_dir(scratch)
            .env("_CONDOR_SCRATCH_DIR", scratch)
            .env("_CONDOR_JOB_AD", scratch.join(".job.ad"))
            .env("_CONDOR_MACHINE_AD", scratch.join(".machine.ad"))
            .stdin(Stdio::null())
            .stdout(stream(STDOUT)?)
            .stderr(stream(STDERR)?);
        command.spawn()
    }

    /// A word of the command as the job will see it: `../in.melt` is transferred as `in.melt`.
    fn renamed(&self, word: &OsString) -> OsString {
        let path = Path::new(word);
        if path.is_absolute() || !path.exists() {
            return word.clone();
        }
        let source = path.canonicalize().ok();
        let name = self.inputs.iter().find(|(known, _)| Some(known) == source.as_ref()).map(|(_, name)| name);
        match name {
            // A program in the scratch directory is no program of PATH.
            Some(name) if Some(word) == self.options.command.first() => Path::new(".").join(name).into_os_string(),
            Some(name) => name.clone().into_os_string(),
            None => word.clone(),
        }
    }

    /// What HTCondor carries without a list: changed top-level files. Directories stay behind.
    pub(super) fn carry(&self, scratch: &Path, spool: &Path) -> io::Result<()> {
        for entry in fs::read_dir(scratch)? {
            let entry = entry?;
            let name = entry.file_name();
            let given = self.inputs.iter().any(|(_, input)| input.as_os_str() == name);
            let ad = [".job.ad", ".machine.ad"].iter().any(|ad| name == *ad);
            if entry.metadata()?.is_file() && !given && !ad {
                copy(&entry.path(), &spool.join(name))?;
            }
        }
        Ok(())
    }
}

/// Another path each time, and not of the same length.
fn life_name(number: u32) -> String {
    format!("host{number}/{}dir_{}", "deeper/".repeat(number as usize % 3), 1000 + number * 37)
}

/// What the program, and condor-criu before it, has written to stderr; any bytes.
pub(super) fn stderr(scratch: &Path) -> String {
    String::from_utf8_lossy(&fs::read(scratch.join(STDERR)).unwrap_or_default()).into_owned()
}

/// The errors in the log, for a user who will not look there.
fn errors(scratch: &Path) -> String {
    let errors = journal::records(scratch)
        .into_iter()
        .filter_map(|record| match record {
            Record::Error(words) => Some(format!("\n  {words}")),
            _ => None,
        })
        .collect::<Vec<_>>();
    errors.into_iter().rev().take(6).rev().collect()
}

fn ending(scratch: &Path, status: ExitStatus) -> Ending {
    let ours = match of(status) {
        Ended::Exited(75 | 125 | 126 | 127) => {
            let words = errors(scratch);
            let words = if words.is_empty() { stderr(scratch) } else { words };
            // The payload may have such a code of its own; ours comes with words in the log.
            (!words.is_empty()).then_some(words)
        }
        _ => None,
    };
    ours.map_or_else(|| Ending::Payload(of(status)), Ending::Ours)
}

/// A vacate that ended without a checkpoint: by the payload's own end in the moment of the signal, or because it could
/// not be saved.
fn unsaved(scratch: &Path, ended: Ended) -> Ending {
    // By itself: then the log's last line says so, and the next start would tell that status.
    if EndRecord::read(&scratch.join(journal::NAME)).is_some_and(|record| record.ended == ended) {
        return Ending::Payload(ended);
    }
    Ending::Ours(format!("at the vacate the job ended by {ended} instead of saving itself{}", errors(scratch)))
}

pub(super) fn of(status: ExitStatus) -> Ended {
    status.signal().map_or_else(|| Ended::Exited(status.code().unwrap_or(0) as u8), Ended::Signaled)
}

/// Waits for the child, but not beyond `deadline`.
pub(super) fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let signals = signal_hook::iterator::Signals::new([SIGCHLD])?;
    let (sender, ended) = crossbeam_channel::bounded(1);
    let handle = signals.handle();
    let thread = std::thread::spawn(move || {
        let mut signals = signals;
        for _ in signals.forever() {
            let _ = sender.try_send(());
        }
    });
    // From here on an end is heard of; one that came before is seen at once.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if ended.recv_deadline(deadline).is_err() {
            break child.try_wait()?;
        }
    };
    handle.close();
    let _ = thread.join();
    Ok(status)
}

/// A file or a whole directory; modes are kept, as HTCondor keeps them.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).map(drop)
}

/// Bytes on the disk of all files of a directory.
fn used(directory: &Path) -> u64 {
    let entries = Tree::open(directory).and_then(|mut tree| tree.look(|_| false)).unwrap_or_default();
    entries.iter().map(|entry| entry.stat.stored()).fold(0, u64::saturating_add)
}
