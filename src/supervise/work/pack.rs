//! Adds the payload's files to the images of a dump, and commits. The tree is held meanwhile: nothing changes under the
//! packer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::OFlag;
use rustix::fs::{fgetxattr, flistxattr};

use crate::checkpoint::archive::{Kind, Meta, Mtime, Name, Summary, Writer, Xattr};
use crate::checkpoint::given::{Clock, Stamp};
use crate::checkpoint::manifest::{Input, Socket};
use crate::checkpoint::tree::{Entry, Stat, Tree, open_below, open_up};
use crate::checkpoint::{Draft, inventory};
use crate::clock;
use crate::host::{content, files};
use crate::supervise::work::checkpoint_file::{CALLS, COMPAT, Committed, HOST, REAPER, SHM, Stopped, WORK};

/// What packs.
pub struct Packer {
    /// What there is to save.
    stopped: Stopped,
    /// Where it goes.
    draft: Draft,
    /// The archive, with the images in it.
    writer: Writer,
    /// When the dump began.
    began: Instant,
    /// Bytes of the files that have been added.
    unpacked: Cell<u64>,
    /// And on the disk.
    stored: Cell<u64>,
    /// Names of sockets that have been met.
    sockets: RefCell<Vec<Socket>>,
    /// Whether what is packed is still what it was when criu had saved the memory.
    still: Box<dyn Fn() -> bool>,
}

impl Packer {
    /// Of what is stopped since `began`, into an archive that has the images.
    pub fn new(stopped: Stopped, draft: Draft, writer: Writer, began: Instant, still: Box<dyn Fn() -> bool>) -> Packer {
        Packer {
            stopped,
            draft,
            writer,
            began,
            unpacked: Cell::new(0),
            stored: Cell::new(0),
            sockets: RefCell::default(),
            still,
        }
    }

    /// Adds the files and `/dev/shm` to the images, and commits.
    pub fn pack(mut self) -> Result<Committed, String> {
        self.add_all().map_err(|error| format!("cannot pack: {error}"))?;
        let mut manifest = self.stopped.manifest;
        manifest.unpacked_bytes = Some(self.unpacked.get());
        manifest.sockets = self.sockets.take();
        manifest.cost.file_bytes = self.stored.get();
        manifest.created = clock::now();
        manifest.host.boot = clock::boot();
        manifest.cost.frozen_seconds = self.began.elapsed().as_secs_f64();
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| error.to_string())?;
        let Summary { bytes_written, .. } =
            self.writer.finish(&text).map_err(|error| format!("cannot pack: {error}"))?;
        // The payload may have closed its own directory, in which the checkpoint's name is.
        let open = open_up(&self.stopped.scratch).map_err(|error| format!("cannot commit: {error}"))?;
        if !(self.still)() {
            return Err("the tree went on before everything was packed".to_owned());
        }
        self.draft.commit().map_err(|error| format!("cannot commit: {error}"))?;
        drop(open);
        Ok(Committed { manifest, bytes: bytes_written, seconds: self.began.elapsed().as_secs_f64() })
    }

    fn add_all(&mut self) -> io::Result<()> {
        self.check_open_files()?;
        self.add_ours(REAPER, &self.stopped.reaper)?;
        if let Some(compat) = &self.stopped.compat {
            self.add_ours(COMPAT, compat)?;
        }
        if let Some(calls) = &self.stopped.calls {
            self.add_ours(CALLS, calls)?;
        }
        self.add_work()?;
        let mut shm = Tree::open(&self.stopped.shm)?;
        let entries = shm.walk(|_| false)?;
        self.add_tree(&shm, SHM, entries)?;
        self.add_host_files()
    }

    /// What stays out of the archive is another file at a restore, or has another size, and CRIU would refuse to open
    /// it.
    fn check_open_files(&self) -> io::Result<()> {
        let Stopped { root, manifest, not_carried, .. } = &self.stopped;
        let stays_out = |path: &Path| {
            let below = path.strip_prefix(&manifest.job_dir);
            below.is_ok_and(|path| {
                not_carried.excludes(path) && !manifest.streams.iter().any(|stream| stream.path == path)
            })
        };
        match files::open(&root.join("proc")).into_iter().find(|(_, path)| stays_out(path)) {
            None => Ok(()),
            Some((pid, path)) => Err(io::Error::other(format!(
                "process {pid} has {} open, which belongs to HTCondor or to condor-criu and is another file at a restore; what to do: let the \
                 program close it when it has read it",
                path.display()
            ))),
        }
    }

    /// Those of the host's files that are to be carried; the content of all that have no build id is noted.
    fn add_host_files(&mut self) -> io::Result<()> {
        let mut listed = std::mem::take(&mut self.stopped.manifest.files);
        let mut known = self.stopped.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for file in &mut listed {
            let full = files::below(&self.stopped.root, &file.path);
            let named = |error: io::Error| io::Error::other(format!("{}: {error}", file.path.display()));
            let noted = file.build_id.is_none() && content::is_steady(&file.path);
            if !noted && !file.carried {
                continue;
            }
            let opened = match File::open(&full) {
                Ok(opened) => opened,
                // It is only named.
                Err(error) if !file.carried => {
                    tracing::debug!("{}: {error}", file.path.display());
                    continue;
                }
                Err(error) => return Err(named(error)),
            };
            let stat = Stat::of_open(&opened)?;
            if noted {
                let stamp = Stamp::of(&stat);
                let digest = match known.host.get(&file.path) {
                    Some((before, digest)) if *before == stamp => digest.clone(),
                    _ => content::digest(&opened).map_err(named)?,
                };
                known.host.insert(file.path.clone(), (stamp, digest.clone()));
                file.digest = Some(digest);
            }
            if file.carried {
                let name = files::below(Path::new(HOST), &file.path);
                self.add_file(meta(&name, Kind::File, &stat), &opened)?;
            }
        }
        drop(known);
        self.stopped.manifest.files = listed;
        Ok(())
    }

    fn add_file(&self, meta: Meta, file: &File) -> io::Result<()> {
        self.unpacked.set(self.unpacked.get().saturating_add(meta.size));
        Ok(self.writer.add_file(meta, file)?)
    }

    fn add_ours(&self, name: &str, mut content: &[u8]) -> io::Result<()> {
        Ok(self.writer.add(Meta::file(name, content.len() as u64), Some(&mut content))?)
    }

    /// The scratch directory; notes the inputs that are left out.
    fn add_work(&mut self) -> io::Result<()> {
        let scratch = self.stopped.scratch.clone();
        let mut tree = Tree::open(&scratch)?;
        let entries = inventory::walk(&mut tree, &self.stopped.not_carried)?;
        let (mut inputs, mut carried) = (Vec::<Input>::new(), Vec::new());
        {
            let mut known = self.stopped.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            while known.digest_one(&scratch) {}
            let gone = known.gone(&entries);
            self.stopped.manifest.removed = gone.into_iter().map(Name::new).collect();
            let clock = Clock::of(&tree);
            for entry in entries {
                match known.unchanged(&tree, &entry, clock) {
                    Some(input) => inputs.push(input),
                    None => carried.push(entry),
                }
            }
        }
        self.stopped.manifest.inputs = inputs;
        let carried = self.without_names_of_streams(&tree, carried);
        self.add_tree(&tree, WORK, carried)
    }

    /// HTCondor carries the standard streams; a further name of one is only noted.
    fn without_names_of_streams(&mut self, tree: &Tree, entries: Vec<Entry>) -> Vec<Entry> {
        let streams = self.stopped.manifest.streams.iter().enumerate().rev();
        let found = streams.filter_map(|(number, stream)| {
            let handle = open_below(tree.base(), &stream.path, OFlag::O_PATH).ok()?;
            Some((Stat::of_open(handle).ok()?.identity(), number))
        });
        let found: HashMap<(u64, u64), usize> = found.collect();
        let (names, others) = entries.into_iter().partition::<Vec<_>, _>(|entry| {
            entry.stat.is_file() && entry.stat.links() > 1 && found.contains_key(&entry.stat.identity())
        });
        for entry in names {
            let stream = found.get(&entry.stat.identity()).and_then(|n| self.stopped.manifest.streams.get_mut(*n));
            if let Some(stream) = stream {
                stream.links.push(Name::new(&entry.path));
            }
        }
        others
    }

    fn add_tree(&self, tree: &Tree, prefix: &str, entries: Vec<Entry>) -> io::Result<()> {
        let mut linked: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for entry in entries {
            let (name, stat) = (Path::new(prefix).join(&entry.path), &entry.stat);
            if stat.is_dir() {
                let mut meta = meta(&name, Kind::Dir, stat);
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                meta.xattrs = open_below(tree.base(), &entry.path, flags).map(attributes).unwrap_or_default();
                self.writer.add(meta, None)?;
                continue;
            }
            let kind = match stat {
                _ if stat.is_file() => Kind::File,
                _ if stat.is_symlink() => Kind::Symlink,
                _ if stat.is_fifo() => Kind::Fifo,
                _ if stat.is_socket() => {
                    self.sockets.borrow_mut().push(Socket { path: Name::new(&name), mode: stat.mode() });
                    continue;
                }
                // Devices cannot be made without privilege, so there are none.
                _ => continue,
            };
            if stat.links() > 1 {
                let first = linked.entry(stat.identity()).or_insert_with(|| name.clone());
                if *first != name {
                    let mut meta = meta(&name, Kind::Hardlink, stat);
                    meta.link = Some(Name::new(&*first));
                    self.writer.add(meta, None)?;
                    continue;
                }
            }
            let mut meta = meta(&name, kind, stat);
            match kind {
                Kind::File => {
                    let reading = tree.read(&entry)?;
                    let file = &reading.file;
                    self.stored.set(self.stored.get().saturating_add(stat.stored()));
                    meta.xattrs = attributes(file);
                    self.add_file(meta, file)?;
                }
                Kind::Symlink => {
                    meta.link = Some(Name::new(tree.read_link(&entry)?));
                    self.writer.add(meta, None)?;
                }
                _ => self.writer.add(meta, None)?,
            }
        }
        Ok(())
    }
}

fn meta(name: &Path, kind: Kind, stat: &Stat) -> Meta {
    let size = if kind == Kind::File { stat.size() } else { 0 };
    let mut meta = Meta::file(name.as_os_str(), size);
    meta.kind = kind;
    meta.mode = stat.mode();
    meta.mtime = Mtime::from(stat.modified());
    let accessed = Mtime::from(stat.accessed());
    meta.atime = (accessed != meta.mtime).then_some(accessed);
    meta
}

/// Bytes of the names of a file's attributes, in most cases.
const NAMES: usize = 1024;
/// Bytes of the value of an attribute, and of all names, at most: XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux.
const VALUE: usize = 64 << 10;

/// The attributes that a user may give, and ACLs. What cannot be read has none.
fn attributes(file: impl AsFd) -> Vec<Xattr> {
    let file = file.as_fd();
    let mut names = vec![0_u8; NAMES];
    let length = match flistxattr(file, &mut names[..]) {
        // Most files have none.
        Ok(0) => return Vec::new(),
        Err(rustix::io::Errno::RANGE) => {
            names.resize(VALUE, 0);
            flistxattr(file, &mut names[..]).unwrap_or(0)
        }
        other => other.unwrap_or(0),
    };
    let names = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let ours = names.filter(|name| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_"));
    let read = |name: &[u8]| {
        let mut value = vec![0_u8; VALUE];
        let length = fgetxattr(file, name, &mut value[..]).ok()?;
        Some(Xattr {
            name: Name::new(OsStr::from_bytes(name)),
            value: Name::new(OsStr::from_bytes(value.get(..length)?)),
        })
    };
    ours.filter_map(read).collect()
}
