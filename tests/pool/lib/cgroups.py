"""The pool's cgroups. Each process that belongs to a pool lives below one cgroup, from birth: so
stopping a pool is one write to cgroup.kill, which reaches all of them and nobody else, whatever
forked, and needs no pid that could have been reused."""

import os
import select
import time

from errors import PoolError


def _mount_point():
    with open("/proc/mounts") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    raise PoolError("no cgroup v2 hierarchy is mounted; HTCondor's jobs and the pool's clean-up need one: "
                    "mount -t cgroup2 none /sys/fs/cgroup/unified")


class Cgroup:
    """One directory of the hierarchy, which need not exist."""

    def __init__(self, path):
        self.path = path

    @classmethod
    def of_pool(cls, name):
        return cls(os.path.join(_mount_point(), name))

    def child(self, name):
        return Cgroup(os.path.join(self.path, name))

    def exists(self):
        return os.path.isdir(self.path)

    def make(self):
        os.makedirs(self.path, exist_ok=True)

    def pass_controllers(self):
        """Gives what controllers it has to those below, so that MemoryUsage works where it can. The
        kernel wants it empty of processes for that."""
        with open(os.path.join(self.path, "cgroup.controllers")) as file:
            wanted = [f"+{c}" for c in file.read().split() if c in ("memory", "cpu", "pids")]
        if wanted:
            self._write("cgroup.subtree_control", " ".join(wanted))

    def _write(self, file, text):
        with open(os.path.join(self.path, file), "w") as out:
            out.write(text)

    def join(self, pid=0):
        self._write("cgroup.procs", str(pid))

    def own_processes(self):
        try:
            with open(os.path.join(self.path, "cgroup.procs")) as file:
                return [int(line) for line in file]
        except OSError:     # not there, or just removed
            return []

    def processes(self):
        return [pid for path, _, _ in os.walk(self.path) for pid in Cgroup(path).own_processes()]

    def kill(self):
        """SIGKILL to all below; returns when all are gone."""
        try:
            self._write("cgroup.kill", "1")
        except FileNotFoundError:
            if self.exists():
                raise PoolError("this kernel has no cgroup.kill: Linux 5.14 or newer is needed") from None
            return
        self.wait_empty(30)

    def wait_empty(self, timeout):
        deadline = time.monotonic() + timeout
        with open(os.path.join(self.path, "cgroup.events")) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while True:
                events.seek(0)
                if "populated 0" in events.read():
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise PoolError(f"processes {self.processes()} below {self.path} are still there {timeout} s after "
                                    "SIGKILL: a device or a file system keeps them (see /proc/PID/stack)")
                poll.poll(left * 1000)

    def remove(self):
        """Removes it and all below; they must be empty."""
        for path, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(path)
