//! Looking into a checkpoint: `inspect`, `verify` and `extract`. They change nothing in it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use super::Manifest;
use super::archive::{ArchiveError, ExtractOptions, Reader, extract};
use crate::exit::{Exit, Failure};
use crate::host::cpu;

fn cannot(what: &str, path: &Path, error: &ArchiveError) -> Failure {
    Failure::start(format!("cannot {what} {}", path.display()), error).with_exit(Exit::Negative)
}

fn manifest(path: &Path, reader: &Reader) -> Result<Manifest, Failure> {
    super::manifest::parse(&format!("cannot inspect {}", path.display()), reader.manifest())
        .map_err(|failure| failure.with_exit(Exit::Negative))
}

/// Prints what the checkpoint holds and what it needs from a host.
pub fn inspect(path: &Path, json: bool) -> Result<Exit, Failure> {
    let reader = Reader::open(path).map_err(|error| cannot("inspect", path, &error))?;
    let manifest = manifest(path, &reader)?;
    let members: Vec<_> = reader.members().collect();
    let content: u64 = members.iter().map(|member| member.size).sum();
    let stored = path.metadata().map_or(0, |metadata| metadata.len());
    if json {
        let value = serde_json::json!({
            "manifest": manifest, "bytes": stored, "content_bytes": content, "members": members.len(),
        });
        crate::say!("{value:#}");
        return Ok(Exit::Success);
    }
    say_origin(&manifest);
    crate::say!("size        {stored} bytes for {content} bytes of content in {} members", members.len());
    say_needs(&manifest);
    say_files(&manifest);
    for member in members {
        crate::say!("{:>12}  {}", member.size, member.name.as_path().display());
    }
    Ok(Exit::Success)
}

/// Of which job it is, when and where it was made.
fn say_origin(manifest: &Manifest) {
    let Manifest { generation, reason, program, host, history, condor_criu, .. } = manifest;
    let of_job = manifest.job.as_deref().map(|job| format!(" of job {job}")).unwrap_or_default();
    crate::say!("generation  {generation}{of_job}, taken at a {reason}, of {program}");
    crate::say!("made        {} by condor-criu {condor_criu} with CRIU {}", when(manifest.created), host.criu);
    crate::say!("on          {}, kernel {}", host.name, host.kernel);
    crate::say!("run so far  {:.0} s", history.run_seconds);
}

/// What a host must be like.
fn say_needs(manifest: &Manifest) {
    let Manifest { host, identity, job_dir, network, .. } = manifest;
    let (uid, gid) = (identity.uid, identity.gid);
    crate::say!("needs       uid {uid} and gid {gid} inside, the job's directory at {}", job_dir.display());
    let needs: Vec<&str> = host.cpu.needs.iter().map(String::as_str).collect();
    crate::say!("processor   {}: {}", cpu::level(&host.cpu.needs), needs.join(" "));
    crate::say!("baseline    {}", host.cpu.baseline);
    for feature in &manifest.kernel_features {
        let how = match feature.since() {
            _ if feature.is_replaced() => "made ordinary on older kernels".to_owned(),
            Some((major, minor)) => format!("the host must have Linux {major}.{minor}"),
            None => "a newer condor-criu knows which".to_owned(),
        };
        crate::say!("kernel      {}, {how}", feature.words());
    }
    for (name, used) in &manifest.limits.used {
        crate::say!("limit       \"{name}\" must allow {used}");
    }
    crate::say!("network     {}", serde_json::to_string(network).unwrap_or_default().trim_matches('"'));
}

/// The files that it counts on, and how far the output had come.
fn say_files(manifest: &Manifest) {
    for input in &manifest.inputs {
        crate::say!("input       {} ({} bytes), brought by HTCondor", input.path.display(), input.size);
    }
    for file in &manifest.files {
        let how = if file.carried { "carried" } else { "the host must have it" };
        crate::say!("host file   {} ({} bytes), {how}", file.path.display(), file.size);
    }
    for stream in manifest.streams.iter().filter(|stream| stream.descriptor != 0) {
        crate::say!("output      {} up to byte {}", stream.path.display(), stream.size);
    }
}

/// Seconds since the epoch as a date, UTC.
fn when(seconds: f64) -> String {
    // A manifest may say anything; the end of representable time is late enough.
    let since = std::time::Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .min(std::time::Duration::from_secs(1 << 36));
    let time = std::time::UNIX_EPOCH + since;
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Reads every byte against its digests.
pub fn verify(path: &Path, threads: usize) -> Result<Exit, Failure> {
    let reader = Reader::open(path).map_err(|error| cannot("verify", path, &error))?;
    manifest(path, &reader)?;
    reader.verify(threads).map_err(|error| cannot("verify", path, &error))?;
    crate::say!("{}: whole, {} members in {} frames", path.display(), reader.members().count(), reader.frames().len());
    Ok(Exit::Success)
}

/// Writes everything into a new directory, plain.
pub fn extract_to(path: &Path, directory: &Path, threads: usize) -> Result<Exit, Failure> {
    let reader = Reader::open(path).map_err(|error| cannot("extract", path, &error))?;
    let what = format!("cannot extract into {}", directory.display());
    match fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::start(what, error).with_exit(Exit::Negative));
        }
        _ => {}
    }
    let into = File::open(directory).map_err(|error| Failure::start(what, error).with_exit(Exit::Negative))?;
    let options = ExtractOptions { threads, ..ExtractOptions::default() };
    let extracted =
        extract::extract(&reader, "", into.as_fd(), &options).map_err(|error| cannot("extract", path, &error))?;
    crate::say!("{} members, {} bytes", extracted.members, extracted.bytes);
    Ok(Exit::Success)
}
