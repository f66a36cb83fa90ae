//! The content of a host's file, as a digest that two hosts can compare. A program has a build id, which CRIU compares;
//! a table that a program has open has only its length, and another content of that length would be read without a
//! word.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes; of a larger file samples are read.
const WHOLE: u64 = 64 << 20;
/// So many, evenly spread from the first byte to the last.
const SAMPLES: u64 = 256;
/// Bytes of each.
const SAMPLE: u64 = 64 << 10;

/// What the daemons of a host keep for all processes, and change all the time.
const LIVE: [&str; 5] = ["/run", "/var/run", "/var/lib/sss", "/var/cache/nscd", "/var/db/nscd"];

/// Whether the file at `path` is one of which two hosts have the same, or not the same.
pub fn is_steady(path: &Path) -> bool {
    !LIVE.iter().any(|live| path.starts_with(live))
}

/// blake3, in hex: of the whole of up to 64 MiB, of samples of what is larger.
pub fn digest(file: &File) -> io::Result<String> {
    let size = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    if size <= WHOLE {
        hasher.update_reader(file)?;
        return Ok(hasher.finalize().to_hex().to_string());
    }
    let mut sample = vec![0; SAMPLE as usize];
    for number in 0..SAMPLES {
        file.read_exact_at(&mut sample, (size - SAMPLE) / (SAMPLES - 1) * number)?;
        hasher.update(&sample);
    }
    file.read_exact_at(&mut sample, size - SAMPLE)?;
    hasher.update(&sample);
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_of_the_same_length_has_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, size: u64, at: u64, byte: u8| {
            let file = File::options().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap();
            file.set_len(size).unwrap();
            file.write_all_at(&[byte], at).unwrap();
            digest(&file).unwrap()
        };
        assert_ne!(of("a", 1000, 500, b'a'), of("b", 1000, 500, b'b'));
        // The last byte of a large one is looked at.
        let large = (200 << 20) + 1;
        assert_ne!(of("c", large, large - 1, b'a'), of("d", large, large - 1, b'b'));
        assert_eq!(of("e", large, 0, b'a'), of("f", large, 0, b'a'));
    }
}
