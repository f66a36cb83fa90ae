"""Gathers what a person needs who looks at a failed run; it works on a broken pool too, and after a
host has died."""

import glob
import os
import shutil
import sys

from errors import PoolError


def logs(pool, destination):
    os.makedirs(destination, exist_ok=True)
    for name, host in pool.hosts.items():
        target = os.path.join(destination, name)
        _copy(os.path.join(host.folder, "boot.log"), target)
        for path in glob.glob(os.path.join(host.logs(), "*")):
            _copy(path, os.path.join(target, "condor"))
        # What condor-criu says is in the scratch directories, and between two hosts in the spool.
        for root in ("/var/lib/condor/execute", "/srv/pilot/glidein/a", "/var/spool/condor"):
            base = host.path(root)
            for path in glob.glob(os.path.join(base, "**", "condor-criu.log"), recursive=True):
                _copy(path, os.path.join(target, "scratch", os.path.relpath(os.path.dirname(path), base)))
    shared = os.path.join(pool.folder, "shared")
    if os.path.isdir(shared):
        shutil.copytree(shared, os.path.join(destination, "shared"), dirs_exist_ok=True, ignore=_large)
    ap = pool.hosts["ap"]
    if ap.pid() is not None:
        for name, command in (("queue", ["condor_q", "-allusers", "-long"]), ("history", ["condor_history", "-long"]),
                              ("status", ["condor_status", "-long"])):
            try:
                text = ap.run(["timeout", "20", *command])
            except PoolError as error:
                text = f"{error}\n"
            with open(os.path.join(destination, f"{name}.txt"), "w") as file:
                file.write(text)


def _large(folder, names):
    """Checkpoints and data stay where they are; what explains a failure is small."""
    paths = ((name, os.path.join(folder, name)) for name in names)
    return [name for name, path in paths if not os.path.isdir(path) and (not os.path.isfile(path) or os.path.getsize(path) > 10 << 20)]


def _copy(path, folder):
    if os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        shutil.copy(path, folder)


def keep_boot_logs(pool):
    """Where `up` failed, all is removed again: what it had to say goes to a folder that stays."""
    if glob.glob(os.path.join(pool.folder, "hosts", "*")):
        destination = os.path.join(pool.folder, "failed")
        logs(pool, destination)
        print(f"pool: its logs are in {destination}", file=sys.stderr)
