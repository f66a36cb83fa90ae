"""The pool's network: a bridge in a network namespace of its own, one cable to each host, nothing
else. The namespaces have no name and are held by the pool's own processes: they go when those do, and
the machine's own network never sees any of it."""

import subprocess

from errors import PoolError

BRIDGE = "switch"
PREFIX = 24


_SWITCH = '''
echo 0 >"$1/cgroup.procs" &&
exec env --default-signal unshare --net sh -c '
    ip link set lo up && ip link add "$0" type bridge && ip link set "$0" up && echo up &&
    exec sleep infinity </dev/null >/dev/null 2>&1' "$2"
'''


def start_switch(cgroup):
    """Starts the process that holds the switch's namespace."""
    cgroup.make()
    process = subprocess.Popen(["/bin/sh", "-c", _SWITCH, "switch", cgroup.path, BRIDGE], start_new_session=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if process.stdout.readline() != b"up\n":
        raise PoolError("the pool's switch did not come up (its reason is above): "
                        "it needs network namespaces and the kernel's bridge")


def _ip(pid, *commands, check=True):
    """Runs `ip` commands in the network namespace of a process."""
    done = subprocess.run(["nsenter", "-t", str(pid), "--net", "ip", "-batch", "-"], text=True,
                          input="".join(f"{c}\n" for c in commands), capture_output=True)
    if check and done.returncode != 0:
        raise PoolError(f"ip failed in the pool's network: {done.stderr.strip()}; commands: {'; '.join(commands)}")


def connect(switch_pid, host, address, host_pid):
    """A new cable from the switch to a host."""
    _ip(switch_pid, f"link del {host}", check=False)    # the end of a cable to the host's dead predecessor
    _ip(switch_pid,
        f"link add {host} type veth peer name eth0 netns {host_pid}",
        f"link set {host} master {BRIDGE} up")
    _ip(host_pid, f"addr add {address}/{PREFIX} dev eth0", "link set eth0 up")


def cable(switch_pid, host, plugged):
    """Pulls a host's cable out, or plugs it in again."""
    _ip(switch_pid, f"link set {host} {'up' if plugged else 'down'}")
