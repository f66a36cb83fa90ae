//! What is done with hostile bytes: one function for each reader of what comes from outside. cargo fuzz calls them with what it invents,
//! `tests/corpora.rs` with everything that is kept in `fuzz/corpus`. None may panic, hang, or take memory without a bound.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use condor_criu::checkpoint::archive::codec::Container;
use condor_criu::checkpoint::archive::format::{self, Digest, Locator, MAJOR, MINOR};
use condor_criu::checkpoint::archive::frame::{Compression, Encoder, Out};
use condor_criu::checkpoint::archive::index::Index;
use condor_criu::checkpoint::archive::{ArchiveError, ExtractOptions, Kind, Reader, extract};
use condor_criu::checkpoint::manifest;
use condor_criu::criu::images::Rewrite;
use condor_criu::criu::log;
use condor_criu::criu::stream::proto;
use condor_criu::htcondor::submit::{statement, wrap};
use condor_criu::htcondor::{ClassAd, userlog};
use condor_criu::report::{history, own_log};

/// What is done with bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("archive", archive),
    ("archive_index", archive_index),
    ("manifest", manifest_json),
    ("images", images),
    ("stream_request", stream_request),
    ("job_ad", job_ad),
    ("submit_file", submit_file),
    ("user_log", user_log),
    ("criu_log", criu_log),
];

/// Bytes of content beyond which a member is not read here: a hole of a terabyte is allowed, and reading it takes its time.
const READ_MAX: u64 = 4 << 20;

/// A file as it is: most of what is invented dies at the digests.
pub fn archive(data: &[u8]) {
    let _ = use_archive(data);
}

/// A forged index behind honest frames: bytes 0 and 1 say how long the frames are, the rest is the index. All digests are made right, so
/// that only the numbers are left to be wrong.
pub fn archive_index(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let (frames, json) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let mut file = format::opening(Container::Zstd);
    let json = match serde_json::from_slice::<Index>(json) {
        Ok(mut index) => {
            let mut left = frames;
            for frame in &mut index.frames {
                let (one, after) = left.split_at((frame.stored as usize).min(left.len()));
                (frame.blake3, left) = (Digest::of(one), after);
            }
            serde_json::to_vec(&index).unwrap_or_default()
        }
        Err(_) => json.to_vec(),
    };
    file.extend_from_slice(frames);
    let (at, mut out) = (file.len() as u64, Out::default());
    let Ok(mut encoder) = Encoder::new(Compression::None, Default::default()) else { return };
    if encoder.encode(&[], &json, 0, false, &mut out).is_err() {
        return;
    }
    let (stored, decoded) = (out.as_slice(), json.len() as u64);
    let blake3 = Digest::of(stored);
    let version = (MAJOR, MINOR);
    let locator = Locator { version, at, stored: stored.len() as u64, decoded, json_at: 0, json_len: decoded, blake3 };
    file.extend_from_slice(stored);
    file.extend(locator.write(Container::Zstd));
    let _ = use_archive(&file);
}

/// Everything that is done with an archive.
fn use_archive(bytes: &[u8]) -> Result<(), ArchiveError> {
    let reader = Reader::from_file(in_memory(bytes))?;
    reader.verify(1)?;
    let mut sum = 0;
    for member in reader.members() {
        sum += member.size;
        if member.kind == Kind::File && member.size <= READ_MAX {
            reader.copy_to(&member.name, &mut std::io::sink())?;
        }
    }
    if sum <= READ_MAX && reader.members().count() < 100 {
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let directory = File::open(place.path()).expect("it can be opened");
        extract(&reader, "", directory.as_fd(), &ExtractOptions::default())?;
    }
    Ok(())
}

/// A file without a name.
fn in_memory(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").expect("there is memory for a file");
    file.write_all(bytes).expect("it can be written");
    file.seek(SeekFrom::Start(0)).expect("it can be read from its start");
    file
}

/// The manifest of a checkpoint.
pub fn manifest_json(data: &[u8]) {
    let _ = manifest::parse("a checkpoint", data);
}

/// A CRIU image on its way to a host with other groups and an old kernel; the first byte says which.
pub fn images(data: &[u8]) {
    let Some((which, image)) = data.split_first() else { return };
    let name = ["files.img", "pstree.img", "core-1.img", "mm-1.img"][usize::from(which % 4)];
    let limits = Some(vec![Some(1000); 16]);
    let rewrite = Rewrite { groups: Some(vec![7, 65534]), undrop: true, unguard: true, limits };
    if let Ok(once) = rewrite.apply(name, image) {
        // What has been rewritten is an image, and needs no more.
        assert_eq!(rewrite.apply(name, &once).as_ref(), Ok(&once));
    }
}

/// What CRIU says on the streamer's socket.
pub fn stream_request(data: &[u8]) {
    let _ = proto::parse_request(data);
}

/// A job ad.
pub fn job_ad(data: &[u8]) {
    let ad = ClassAd::parse(&String::from_utf8_lossy(data));
    let names: BTreeSet<String> = ad.names().map(str::to_owned).collect();
    for name in &names {
        let _ = (
            ad.expression(name),
            ad.string(name),
            ad.integer(name),
            ad.number(name),
            ad.boolean(name),
            ad.literal(name),
        );
    }
}

/// A submit description, and `wrap`.
pub fn submit_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let again: String = statement::parse(&text).iter().map(|one| one.text.as_str()).collect();
    assert_eq!(again, text, "what is taken apart is whole");
    if let Ok(wrapped) = wrap(&text, "/opt/condor-criu", &|_| None) {
        let twice = wrap(&wrapped, "/opt/condor-criu", &|_| None);
        assert_eq!(twice.ok().as_deref(), Some(wrapped.as_str()), "what is wrapped stays as it is");
    }
}

/// A user log, and condor-criu's own.
pub fn user_log(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let events = userlog::parse(&text, &jiff::tz::TimeZone::UTC, 2026);
    let mut jobs = history::jobs(&events);
    for (_, checkpoint) in own_log::checkpoints(&text) {
        if let Some(job) = jobs.first_mut() {
            own_log::add(job, checkpoint);
        }
    }
}

/// CRIU's log.
pub fn criu_log(data: &[u8]) {
    let _ = log::explain(&String::from_utf8_lossy(data));
}
