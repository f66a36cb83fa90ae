//! How fast the archive is, alone and in its parts: `cargo bench --bench archive [MiB] [content]`, content as in
//! "float64 walk".
//!
//! No number is asserted: the machine decides. Each line is the best of five, since what disturbs only ever slows.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::process::Command;
use std::time::Instant;

use condor_criu::checkpoint::archive::{Compression, Reader, WriteOptions, Writer, filter, frame};

fn best(mut run: impl FnMut()) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn random() -> impl FnMut() -> u64 {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    }
}

/// Steps of normal distribution, as a sum of uniform ones.
fn normal(next: &mut impl FnMut() -> u64) -> f64 {
    (0..12).map(|_| (next() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0
}

/// Makes so many bytes.
type Make = fn(usize) -> Vec<u8>;

/// What the payloads are made of, one at a time: at 1 GiB each they would not fit together.
const CONTENTS: [(&str, Make); 6] = [
    ("float64 walk", walk),
    ("float64 normal", |bytes| {
        let mut next = random();
        (0..bytes / 8).flat_map(|_| normal(&mut next).to_le_bytes()).collect()
    }),
    ("float32 field", field),
    ("random", |bytes| {
        let mut next = random();
        (0..bytes / 8).flat_map(|_| next().to_le_bytes()).collect()
    }),
    ("text", text),
    ("zeros", |bytes| vec![0; bytes]),
];

fn walk(bytes: usize) -> Vec<u8> {
    let (mut next, mut at) = (random(), 0.0);
    let steps = (0..bytes / 8).flat_map(|_| {
        at += normal(&mut next);
        f64::to_le_bytes(at)
    });
    steps.collect()
}

fn field(bytes: usize) -> Vec<u8> {
    let mut next = random();
    let values = (0..bytes / 4).flat_map(|i| {
        let (x, y) = ((i % 4096) as f32, (i / 4096) as f32);
        ((x / 300.0).sin() * (y / 200.0).cos() + 0.001 * (next() % 1000) as f32 / 1000.0).to_le_bytes()
    });
    values.collect()
}

fn text(bytes: usize) -> Vec<u8> {
    let mut next = random();
    let mut text: Vec<u8> = Vec::with_capacity(bytes + 100);
    while text.len() < bytes {
        let (a, b) = (next() % 1000, next() % 37);
        writeln!(text, "step {a}: energy = -{b}.{a:03} kJ/mol, temperature {}", 300 + b).unwrap();
    }
    text.truncate(bytes);
    text
}

fn parts(content: &[u8]) {
    const CHUNK: usize = 1 << 20;
    let gb = |seconds: f64| content.len() as f64 / seconds / 1e9;
    let (mut planes, mut back) = (vec![0; CHUNK], vec![0; CHUNK]);
    for (elem, delta) in [(8, false), (8, true), (4, false), (4, true)] {
        let forward = best(|| {
            for chunk in content.chunks_exact(CHUNK) {
                let mut planes: Vec<&mut [u8]> = planes.chunks_exact_mut(CHUNK / usize::from(elem)).collect();
                filter::apply(black_box(chunk), elem, delta, &mut planes);
            }
        });
        let filter = filter::Filter { elem, delta, at: 0, len: CHUNK as u32 };
        let inverse = best(|| {
            for _ in content.chunks_exact(CHUNK) {
                filter.undo(black_box(&planes), &mut back);
            }
        });
        println!("  filter {elem} delta {delta:5}: {:5.2} GB/s, inverse {:5.2} GB/s", gb(forward), gb(inverse));
    }
    let hashed = best(|| {
        for chunk in content.chunks_exact(CHUNK) {
            black_box(blake3::hash(black_box(chunk)));
        }
    });
    println!("  blake3: {:5.2} GB/s", gb(hashed));
    for compression in [Compression::Auto, Compression::Zstd { level: 1 }] {
        let mut encoder = frame::Encoder::new(compression, Default::default()).unwrap();
        let mut out = frame::Out::default();
        let mut sum = 0;
        let encoded = best(|| {
            sum = 0;
            for chunk in content.chunks_exact(CHUNK) {
                black_box(encoder.encode(&[], black_box(chunk), CHUNK, true, &mut out).unwrap());
                sum += out.as_slice().len();
            }
        });
        println!("  encode {compression}: {:5.2} GB/s, {:.3}", gb(encoded), sum as f64 / content.len() as f64);
    }
}

fn whole(dir: &std::path::Path, content: &[u8], compression: Compression) {
    let path = dir.join("bench.tar.zst");
    let mut written = 0;
    let (mut unsynced, mut first) = (f64::MAX, true);
    let write = best(|| {
        if !std::mem::take(&mut first) {
            std::fs::remove_file(&path).unwrap();
        }
        let start = Instant::now();
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let writer = Writer::create(file, WriteOptions { compression, threads: 2, ..WriteOptions::default() }).unwrap();
        let mut stream = writer.stream("images/pages-1.img").unwrap();
        stream.write_all(content).unwrap();
        stream.finish().unwrap();
        unsynced = unsynced.min(start.elapsed().as_secs_f64());
        written = writer.finish(b"{}").unwrap().bytes_written;
    });
    let read = best(|| {
        let reader = Reader::open(&path).unwrap();
        let mut member = reader.open_member("images/pages-1.img", 2).unwrap();
        loop {
            let len = black_box(member.fill_buf().unwrap()).len();
            if len == 0 {
                break;
            }
            member.consume(len);
        }
    });
    let verify = best(|| Reader::open(&path).unwrap().verify(2).unwrap());
    println!(
        "  {compression:8} write {write:.2} s ({unsynced:.2} s before the sync), {:.3} of the size, read {read:.2} s, verify {verify:.2} s",
        written as f64 / content.len() as f64
    );
}

fn main() {
    let mib = std::env::args().filter_map(|arg| arg.parse::<usize>().ok()).next().unwrap_or(256);
    let dir = tempfile::tempdir().unwrap();
    let wanted = std::env::args().skip(1).find(|arg| arg.parse::<usize>().is_err() && !arg.starts_with('-'));
    for (name, make) in CONTENTS {
        if wanted.as_ref().is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        let content = make(mib << 20);
        println!("{name}, {mib} MiB");
        parts(&content[..content.len().min(64 << 20)]);
        for compression in [Compression::Auto, Compression::None, Compression::Zstd { level: 1 }] {
            whole(dir.path(), &content, compression);
        }
        let raw = dir.path().join("raw");
        std::fs::write(&raw, &content).unwrap();
        let zst = dir.path().join("raw.zst");
        let tool = best(|| {
            let status = Command::new("zstd").args(["-q", "-f", "-1", "-T2"]).arg(&raw).arg("-o").arg(&zst).status();
            assert!(status.unwrap().success());
        });
        let len = std::fs::metadata(&zst).unwrap().len();
        println!("  zstd -1 -T2: {tool:.2} s, {:.3} of the size", len as f64 / content.len() as f64);
    }
}
