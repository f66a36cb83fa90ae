"""Reads its input, and a module of its own, from a read-only FUSE mount, as from CVMFS: one file open all the time, one mapped, others opened
anew in each step."""
import hashlib
import mmap
import sys
import time

ROOT = "/run/cvmfs"
sys.path.insert(0, ROOT)
import constants  # noqa: E402

with open(f"{ROOT}/lines") as lines, open(f"{ROOT}/large", "rb") as large:
    mapped = mmap.mmap(large.fileno(), 0, prot=mmap.PROT_READ)
    for n in range(100):
        with open(f"{ROOT}/part{n % 10}", "rb") as part:
            digest = hashlib.sha256(part.read()).hexdigest()[:12]
        piece = mapped[n * 60_000 : n * 60_000 + 1000]
        print("step", n, lines.readline().strip(), digest, sum(piece), constants.FACTOR * n, flush=True)
        time.sleep(0.1)
