//! What a worker of a writer does with a job.

use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use super::error::ArchiveError;
use super::frame::{Decoder, Encoder, Out};
use super::index::Extent;
use super::lock::lock;
use super::part::Part;
use super::shared::{Job, Shared};
use super::tarhead;

/// A worker: takes jobs until the queue is closed.
pub(super) fn work(shared: &Shared, jobs: &Receiver<Job>, encoder: Encoder) {
    let mut worker = Worker { shared, encoder, decoder: None, out: Out::default(), head: Vec::new() };
    for job in jobs {
        // After an error jobs are only taken, so that nobody waits for room in the queue.
        if shared.check().is_err() {
            continue;
        }
        match worker.run(job) {
            Ok(()) => {
                shared.pending.fetch_sub(1, Ordering::AcqRel);
            }
            Err(error) => shared.fail(error),
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    encoder: Encoder,
    decoder: Option<Decoder>,
    out: Out,
    head: Vec<u8>,
}

impl Worker<'_> {
    fn run(&mut self, job: Job) -> Result<(), ArchiveError> {
        match job {
            Job::Batch(batch) => {
                let place = (&batch.tar[..], 0, false);
                let shared = self.shared;
                shared.write_frame(&mut self.encoder, &mut self.out, &[], place, |frame| {
                    for (member, at, len) in &batch.parts {
                        shared.set_extent(*member, 0, Extent::Data { frame, at: *at, len: *len });
                    }
                })?;
                Ok(())
            }
            Job::Chunk { part, slot, mut bytes, len } => {
                // Padding for the tar; what stood there is of an earlier chunk.
                let padded = len + tarhead::padding(len);
                bytes[len..padded].fill(0);
                let result = self.chunk(part, slot, &bytes[..padded], len);
                self.shared.give_back(bytes);
                result
            }
        }
    }

    fn chunk(&mut self, part: Part, slot: usize, body: &[u8], len: usize) -> Result<(), ArchiveError> {
        let content = &body[..len];
        if is_zero(content) {
            return Ok(());
        }
        let shared = self.shared;
        let (member, name) = (part.member as usize, shared.name_of(part)?);
        let print = super::dedup::print(content);
        let look_up = |number| shared.frame(number);
        if let Some((original, extent)) =
            shared.originals.find(print, content, &shared.out, look_up, &mut self.decoder)?
        {
            shared.set_extent(member, slot, extent);
            let target = shared.name_of(original)?;
            let mut links = lock(&shared.links);
            return shared.head(member, &name, 0, Some(&target), &mut links);
        }
        self.head.clear();
        shared.head(member, &name, len as u64, None, &mut self.head)?;
        let at = self.head.len() as u32;
        let place = (body, len, true);
        let number = shared.write_frame(&mut self.encoder, &mut self.out, &self.head, place, |frame| {
            shared.set_extent(member, slot, Extent::Data { frame, at, len: len as u32 });
        })?;
        if part.number().is_none() {
            shared.set_whole(member);
        }
        shared.originals.remember(print, part, number);
        Ok(())
    }
}

/// Whether all bytes are zero; stops at the first block that is not.
fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<128>();
    let zero =
        |block: &[u8; 128]| block.as_chunks::<8>().0.iter().fold(0, |or, word| or | u64::from_le_bytes(*word)) == 0;
    blocks.iter().all(zero) && rest.iter().all(|byte| *byte == 0)
}
