"""The sides that ./bench compares: each saves a payload and brings it back, and says what that cost."""

import os
import shutil
import signal
import subprocess
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
USER = 5000  # need not exist in any passwd file, as an execution point's slot user need not here
TICK = os.sysconf("SC_CLK_TCK")
THEIRS = ("payload", "lmp")  # names of the payload's processes
PATIENCE = 900  # seconds; one step that takes longer hangs


class Broken(Exception):
    """A side that did not do its work: no number of it means anything."""


def as_user():
    """Jobs are an ordinary user's, even if root measures."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}


def folder(path):
    os.makedirs(path)
    if os.geteuid() == 0:
        os.chown(path, USER, USER)
    return path


def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass  # it ended meanwhile
    return found


def tree(pid):
    return [pid] + [deeper for child in children(pid) for deeper in tree(child)]


def stat(pid):
    """Its name, and its cpu seconds with those of the children that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            name, _, rest = file.read().split("(", 1)[1].rpartition(")")
    except OSError:
        return "", 0.0
    return name, sum(map(int, rest.split()[11:15])) / TICK


def cpu(pid):
    return sum(stat(each)[1] for each in tree(pid))


def split_cpu(pid):
    """Cpu seconds of all but the payload's processes, and of the payload's."""
    each = [stat(found) for found in tree(pid)]
    theirs = sum(seconds for name, seconds in each if name in THEIRS)
    return sum(seconds for _, seconds in each) - theirs, theirs


def status(pid, key):
    """A number of /proc/PID/status and its tasks', summed if it is counted by task."""
    places = [f"/proc/{pid}/status"]
    if key.endswith("switches"):
        places = [f"/proc/{pid}/task/{task}/status" for task in os.listdir(f"/proc/{pid}/task")]
    lines = (line for place in places for line in open(place))
    return sum(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


class Peak(threading.Thread):
    """The greatest sum of VmHWM (MiB) of a tree's processes with these names. criu is not among them: on its way back it
    becomes the payload, whose memory would be counted. Also the payload's last cpu seconds. What a process takes in its last moments
    is only seen by short steps, which take a processor of their own."""

    NAMES = ("condor-criu", "reaper", "tar", "gzip", "zstd")

    STEP, SHORT_STEP = 0.03, 0.001  # seconds

    def __init__(self, pid, step=STEP):
        super().__init__(daemon=True)
        self.pid, self.step, self.peak, self.cpu, self.done = pid, step, 0.0, 0.0, threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(self.step):
            total = 0
            payload = 0.0
            for pid in tree(self.pid):
                name, seconds = stat(pid)
                payload += seconds if name in THEIRS else 0.0
                try:
                    if name.startswith(self.NAMES):
                        total += status(pid, "VmHWM")
                except OSError:
                    pass
            self.peak, self.cpu = max(self.peak, total / 1024), max(self.cpu, payload)

    def end(self):
        self.done.set()
        self.join()
        return self.peak


def wait_for(what, condition, process):
    deadline = time.time() + PATIENCE
    while not (result := condition()):
        if process.poll() is not None:
            raise Broken(f"ended with {process.returncode} before {what}")
        if time.time() > deadline:
            raise Broken(f"{what} did not happen in {PATIENCE} s")
        time.sleep(0.003)
    return result


def ticks_after(path, moment):
    """The payload's first sign of life after a moment, in seconds since it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 65536))
        lines = file.read().split(b"\n")
    times = [int(line.split()[-1]) / 1e9 for line in lines[1:-1] if line.strip()]
    return min((tick - moment for tick in times if tick > moment), default=None)


def shows_ready(path):
    try:
        with open(path, "rb") as file:
            return b"ready" in file.read(64)
    except FileNotFoundError:
        return False  # the shell that makes it is not so far


def size_of(path):
    return sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(path) for name in names)


class Setting:
    """What all sides have in common."""

    def __init__(self, place, binary, criu, payload):
        self.place, self.binary, self.criu, self.payload = place, binary, criu, payload

    def scratch(self, name):
        path = folder(os.path.join(self.place, name))
        shutil.copy(self.payload, os.path.join(path, "payload"))
        return path

    def run(self, scratch, words):
        """`condor-criu run`, as a starter would start it."""
        with open(f"{scratch}/.job.ad", "w") as ad:
            ad.write("ClusterId = 7\nProcId = 0\nSuccessCheckpointExitCode = 85\nWantFTOnCheckpoint = true\n")
        streams = [open(f"{scratch}/{name}", "ab") for name in ("_condor_stdout", "_condor_stderr")]
        if os.geteuid() == 0:
            for stream in streams:
                os.chown(stream.fileno(), USER, USER)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CONDOR_CRIU_")}
        environment["_CONDOR_SCRATCH_DIR"] = scratch
        # LAMMPS listens on ports of its own, for MPI, which must be free where it comes back.
        network = "private" if words[0] == "lammps" else "auto"
        command = [self.binary, "run", "--criu", self.criu, "--interval", "never", "--network", network, "--", "./payload", *words]
        return subprocess.Popen(command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL,
                                stdout=streams[0], stderr=streams[1], **as_user())

    def condor_criu(self, words, step=Peak.STEP):
        """One generation: to another scratch directory, with what HTCondor would carry there. Peaks are sampled in steps of so many seconds."""
        first, second = self.scratch("first"), self.scratch("second")
        process = self.run(first, words)
        output = f"{first}/_condor_stdout"
        wait_for("the payload was ready", lambda: shows_ready(output), process)
        peak, before = Peak(process.pid, step), os.times()
        own, theirs = split_cpu(process.pid)
        began = time.time()
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        wall, after = time.time() - began, os.times()
        if code != 85:
            raise Broken(f"condor-criu ended with {code} and not with a checkpoint: {open(f'{first}/condor-criu.log').read()[-2000:]}")
        peak_memory = peak.end()
        log = open(f"{first}/condor-criu.log").read()
        line = next(line for line in reversed(log.splitlines()) if "committed" in line)
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        result = {"frozen": float(fields["frozen_seconds"]), "commit": float(fields["commit_seconds"]),
                  "wall": wall, "bytes": int(fields["bytes"]), "peak": peak_memory,
                  # What dies with its pid namespace is not in its ancestors' account: the payload, in which criu's parasite
                  # reads the pages.
                  "cpu": children_cpu(before, after) - own + max(0.0, peak.cpu - theirs)}
        for name in ("_condor_stdout", "_condor_stderr", "criu-checkpoint.tar.zst", "condor-criu.log"):
            os.rename(f"{first}/{name}", f"{second}/{name}")
        began = time.time()
        process = self.run(second, words)
        peak = Peak(process.pid, step)
        output = f"{second}/_condor_stdout"
        result["back"] = wait_for("the payload ran again", lambda: ticks_after(output, began), process)
        result["cpu back"], result["peak back"] = cpu(process.pid), peak.end()
        open(f"{second}/check", "w").close()
        if process.wait(PATIENCE) != 0:
            raise Broken(f"the restored payload ended with {process.returncode}: 6 means that its memory differs")
        shutil.rmtree(first)
        shutil.rmtree(second)
        return result

    def plain(self, words, packers):
        """criu by itself, and those of the ways to pack what it has written: one dump serves all three, since they differ only
        in what follows. Each comes back in fresh namespaces."""
        place = folder(os.path.join(self.place, "plain"))
        for name in ("img", "work", "scratch"):
            folder(f"{place}/{name}")
        shutil.copy(self.payload, f"{place}/scratch/payload")
        with Namespaces(self, place) as inside:
            inside.do(f"start {' '.join(words)}")
            output = f"{place}/scratch/ticks"
            wait_for("the payload was ready", lambda: shows_ready(output), inside.process)
            dump = inside.measured("dump")
            dump["bytes"] = size_of(f"{place}/img")
            results = {"criu": {**dump, "frozen": dump["wall"], "commit": dump["wall"]}}
            for name in sorted(packers):
                pack = PACKERS[name]
                packed = inside.measured(pack)
                results[name] = {"frozen": dump["wall"], "commit": dump["wall"] + packed["wall"],
                                 "cpu": dump["cpu"] + packed["cpu"], "peak": packed["peak"],
                                 "bytes": os.path.getsize(f"{place}/{name.split()[-1]}")}
        for name, result in results.items():
            with Namespaces(self, place) as inside:
                began = time.time()
                peak = Peak(inside.process.pid)
                if name in UNPACKERS:
                    inside.do(UNPACKERS[name])
                inside.do(f"restore {'un/' if name in UNPACKERS else ''}img")
                result["back"] = wait_for("the payload ran again", lambda: ticks_after(output, began), inside.process)
                result["cpu back"], result["peak back"] = cpu(inside.process.pid), peak.end()
            shutil.rmtree(f"{place}/un", ignore_errors=True)
        shutil.rmtree(place)
        return results


PACKERS = {"criu + tar gz": "tar czf gz img scratch", "criu + tar zstd": "tar cf - img scratch | zstd -q -1 -T2 -o zstd"}
UNPACKERS = {"criu + tar gz": "mkdir un && tar xzf gz -C un", "criu + tar zstd": "mkdir un && zstd -q -dc zstd | tar xf - -C un"}


def children_cpu(before, after):
    return after.children_user - before.children_user + after.children_system - before.children_system


class Namespaces:
    """A shell that is pid 1 of fresh namespaces and does what it is told, line by line."""

    SCRIPT = r"""
    set -u -o pipefail
    exec 8<&0 9>&1 </dev/null >>work/shell 2>&1
    caps=-all,+dac_read_search,+sys_ptrace,+checkpoint_restore
    criu() {
        setpriv --inh-caps=$caps --ambient-caps=$caps --bounding-set=$caps -- \
            "$CRIU/lib/ld-linux-x86-64.so.2" --library-path "$CRIU/lib" "$CRIU/criu" "$@" \
            --no-default-config --unprivileged -W work -v4 --file-locks --link-remap 8<&- 9>&-
    }
    start() {
        echo 299 > /proc/sys/kernel/ns_last_pid
        cd scratch
        setsid setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all \
            ./payload "$@" </dev/null >>ticks 2>&1 8<&- 9>&- &
        root=$!
        cd ..
    }
    dump() { criu dump -t $root -D img -o dump.log --ghost-limit 100M --leave-stopped; }
    restore() { criu restore -d -D "$1" -o restore.log; }
    while read -r line <&8; do eval "$line"; echo $? >&9; done
    """

    def __init__(self, setting, place):
        command = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--keep-caps", "-p", "-f", "-m", "-i", "--mount-proc",
                   "--kill-child", "bash", "-c", self.SCRIPT]
        self.place = place
        self.process = subprocess.Popen(command, cwd=place, env={**os.environ, "CRIU": setting.criu}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **as_user())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Whatever is left in the namespace ends with its first process.
        self.process.kill()
        self.process.communicate()

    def do(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        except BrokenPipeError:
            answer = "nothing"
        if answer != "0":
            logs = [f"{self.place}/work/{name}" for name in ("shell", "dump.log", "restore.log")]
            ends = "\n".join(open(log, errors="replace").read()[-1500:] for log in logs if os.path.exists(log))
            raise Broken(f"`{line}` answered {answer or 'nothing'} (unshare needs user namespaces):\n{ends}")

    def measured(self, line):
        peak, used, began = Peak(self.process.pid), cpu(self.process.pid), time.time()
        self.do(line)
        wall = time.time() - began
        return {"wall": wall, "cpu": cpu(self.process.pid) - used, "peak": peak.end()}
