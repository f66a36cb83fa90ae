"""One host of the pool: its disk, its namespaces, and what runs in it."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field

import network
from errors import PoolError

HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
DOMAIN = "pool"
GLIDEIN = "/srv/pilot/glidein"


@dataclass(frozen=True)
class Account:
    """A user of a host. Shells and passwords are of no use here."""
    name: str
    uid: int
    home: str


@dataclass(frozen=True)
class Spec:
    """What makes one host different from the others."""
    name: str
    address: str
    accounts: tuple = ()
    # Folders on a plain file system and not on the overlay, as on a real host: target → owner, mode.
    disks: dict = field(default_factory=dict)
    # Who runs HTCondor, and with which configuration.
    daemon_user: str = "root"
    condor_config: str = "/etc/condor/condor_config"


_TMP = {"/tmp": ("root", 0o1777), "/var/tmp": ("root", 0o1777)}

# alice has another uid on ep1 than on ap, and on ep2 the job's user is another one altogether:
# so no test can pass because the numbers happened to agree.
SPECS = {spec.name: spec for spec in (
    Spec("ap", "10.85.0.1", (Account("alice", 1000, "/home/alice"),),
         _TMP | {"/var/spool/condor": ("condor", 0o755)}),
    Spec("ep1", "10.85.0.2", (Account("alice", 1500, "/home/alice"),),
         _TMP | {"/var/lib/condor/execute": ("condor", 0o755)}),
    Spec("ep2", "10.85.0.3", (Account("pilot", 1600, "/srv/pilot"),),
         _TMP | {"/srv/pilot": ("pilot", 0o755)}, "pilot", f"{GLIDEIN}/condor_config"),
)}


class Host:
    """A host of one pool; `folder` is its disk, `cgroup` all its processes."""

    def __init__(self, spec, folder, cgroup, lower):
        self.spec = spec
        self.name = spec.name
        self.folder = folder
        self.cgroup = cgroup
        self.lower = lower

    # ---- the disk ---------------------------------------------------------------------------

    def _ids(self, name):
        for line in self._read_lower("etc/passwd").splitlines():
            entry = line.split(":")
            if entry[0] == name:
                return int(entry[2]), int(entry[3])
        for account in self.spec.accounts:
            if account.name == name:
                return account.uid, account.uid
        raise PoolError(f"host {self.name} has no user {name}; its people: " + ", ".join(a.name for a in self.spec.accounts))

    def _read_lower(self, path):
        with open(os.path.join(self.lower, path)) as file:
            return file.read()

    def _disk(self, target):
        return os.path.join(self.folder, "disks", target.strip("/").replace("/", "-"))

    def path(self, inside):
        """Where a path of the host is on this machine: while the host is up, through its own eyes, since
        an overlay must not be changed behind its back."""
        pid = self.pid()
        if pid is not None:
            return f"/proc/{pid}/root{inside}"
        for target in self.spec.disks:
            if inside == target or inside.startswith(target + "/"):
                return self._disk(target) + inside[len(target):]
        return os.path.join(self.folder, "upper", inside.lstrip("/"))

    def directory(self, inside, owner="root", mode=0o755):
        path = self.path(inside)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        os.chown(path, *self._ids(owner))
        return path

    def write(self, inside, text, owner="root", mode=0o644):
        """Writes a file of the host in one step: a daemon never reads half of it."""
        path = self.path(inside)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.new", "w") as file:
            os.chmod(path + ".new", mode)
            file.write(text)
        os.chown(path + ".new", *self._ids(owner))
        os.rename(path + ".new", path)

    def install(self):
        """Fills the new disk with what a host must know before it boots."""
        accounts = self.spec.accounts
        for file, line in (("etc/passwd", "{0.name}:x:{0.uid}:{0.uid}::{0.home}:/bin/bash\n"),
                           ("etc/group", "{0.name}:x:{0.uid}:\n")):
            self.write(f"/{file}", self._read_lower(file) + "".join(line.format(a) for a in accounts))
        names = "".join(f"{s.address} {s.name}.{DOMAIN} {s.name}\n" for s in SPECS.values())
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{names}")
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/resolv.conf", "")
        # There is no name server: a look-up would wait for one.
        lines = self._read_lower("etc/nsswitch.conf").splitlines()
        self.write("/etc/nsswitch.conf", "".join("hosts: files\n" if l.startswith("hosts:") else f"{l}\n" for l in lines))
        for target, (owner, mode) in self.spec.disks.items():
            self.directory(target, owner, mode)
        for account in accounts:
            self.directory(account.home, account.name)
        with open(os.path.join(HERE, "init")) as file:
            self.write("/usr/local/sbin/pool-init", file.read(), mode=0o755)

    # ---- its life ---------------------------------------------------------------------------

    def boot(self, binds):
        """Starts the namespaces and pid 1. Returns at once; `await_boot` waits."""
        self.cgroup.make()
        binds = [f"{self._disk(target)}:{target}:rw" for target in self.spec.disks] + binds
        # The cgroup is entered before its namespace is made, so that it is the root of that one. A
        # background shell's ignored SIGINT would be inherited by every job: --default-signal.
        script = ('echo 0 >"$1/cgroup.procs" && shift && exec env -i --default-signal PATH=/usr/sbin:/usr/bin:/sbin:/bin '
                  'unshare --mount --propagation private --net --pid --uts --ipc --cgroup --fork "$@"')
        with open(os.path.join(self.folder, "boot.log"), "w") as log:
            self._booting = subprocess.Popen(
                ["/bin/sh", "-c", script, "boot", self.cgroup.path, os.path.join(HERE, "boot"), self.lower, self.folder, self.name, *binds],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True)

    def await_boot(self, keepers, switch_pid):
        """Waits until pid 1 has handed over to `init`, then connects the host."""
        if self._booting.stdout.readline() != b"up\n":
            with open(os.path.join(self.folder, "boot.log")) as log:
                raise PoolError(f"host {self.name} did not boot: {log.read().strip() or 'without a word'}")
        # unshare waits for pid 1 from outside; in the host's own cgroup it would keep controllers
        # from being passed on.
        for pid in self.cgroup.own_processes():
            keepers.join(pid)
        self.cgroup.pass_controllers()
        network.connect(switch_pid, self.name, self.spec.address, self.pid())

    def pid(self):
        """This machine's number of the host's pid 1, or None when the host is down."""
        for pid in self.cgroup.child("init.scope").own_processes():
            try:
                with open(f"/proc/{pid}/status") as file:
                    numbers = next(line for line in file if line.startswith("NSpid:")).split()[1:]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if numbers[1:] == ["1"]:    # one namespace below us; a job's own pid 1 is two below
                return pid
        return None

    def die(self):
        """What a power cut does: nothing in the host gets to know."""
        self.cgroup.kill()
        if self.cgroup.exists():
            self.cgroup.remove()

    # ---- commands in it ---------------------------------------------------------------------

    def command(self, argv, user="root"):
        """The command line that runs another one inside, as that user in his home."""
        pid = self.pid()
        if pid is None:
            raise PoolError(f"host {self.name} is down: pool start it")
        uid, _ = self._ids(user)
        home = next((a.home for a in self.spec.accounts if a.name == user), "/root" if uid == 0 else "/")
        environment = [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "LANG=C.UTF-8", "SHELL=/bin/bash",
                       "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"TERM={os.environ.get('TERM', 'dumb')}"]
        if user == self.spec.daemon_user:
            environment.append(f"CONDOR_CONFIG={self.spec.condor_config}")
        # --pdeathsig: whoever ends the nsenter outside, a test's deadline above all, ends this too.
        return ["nsenter", "--target", str(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--",
                "env", "-i", *environment, "setpriv", "--reuid", user, "--regid", user, "--init-groups", "--pdeathsig", "KILL",
                "--", "env", "--default-signal", "-C", home, *argv]

    def run(self, argv, user="root", text_in="", check=True):
        """Runs a command inside and returns what it said."""
        done = subprocess.run(["/bin/sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', self.cgroup.child("init.scope").path,
                               *self.command(argv, user)], input=text_in, text=True, capture_output=True)
        if check and done.returncode != 0:
            raise PoolError(f"`{' '.join(argv)}` on {self.name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def logs(self):
        """The folder with HTCondor's logs, on this machine."""
        return self.path(f"{GLIDEIN}/log" if self.name == "ep2" else "/var/log/condor")

    def erase(self):
        shutil.rmtree(self.folder, ignore_errors=True)
