"""HTCondor on the hosts: configuration, credentials, start, and the wait until they have found each
other."""

import os
import secrets
import time

from errors import PoolError
from hosts import DOMAIN, GLIDEIN, HERE

# The ad in the collector that shows that a host works.
ADS = {"ap": "Scheduler ap.pool", "ep1": "Machine slot1@ep1.pool", "ep2": "Machine slot1@ep2.pool"}


def _settings(*names):
    parts = []
    for name in names:
        with open(os.path.join(HERE, "config", f"{name}.conf")) as file:
            parts.append(file.read())
    return "\n".join(parts)


def _places(host):
    """Owner of HTCondor's files on a host, and where extra configuration, keys and tokens are."""
    if host.name == "ep2":
        return "pilot", f"{GLIDEIN}/config.d", f"{GLIDEIN}/passwords.d", f"{GLIDEIN}/tokens.d"
    return "root", "/etc/condor/config.d", "/etc/condor/passwords.d", "/etc/condor/tokens.d"


def install(hosts):
    """Configures the hosts, before they boot. One signing key makes their tokens good everywhere."""
    key = secrets.token_hex(32)
    for host in hosts.values():
        owner, config, passwords, tokens = _places(host)
        for folder in (passwords, tokens):
            host.directory(folder, owner, 0o700)
        host.write(f"{passwords}/POOL", key, owner, 0o600)
        if host.name == "ap":
            host.write(f"{config}/10-pool.conf", _settings("common", "ap"))
        elif host.name == "ep1":
            host.write(f"{config}/10-pool.conf", _settings("common", "ep", "ep1"))
        else:
            # HTCondor's master makes none of its own folders.
            for folder in ("", "log", "lock", "run", "spool", "config.d", "tokens.d", "passwords.d", "a", "a/longer",
                           "a/longer/path", "a/longer/path/to", "a/longer/path/to/execute"):
                host.directory(os.path.join(GLIDEIN, folder).rstrip("/"), owner, 0o700 if folder.endswith("s.d") else 0o755)
            host.write(host.spec.condor_config, _settings("common", "ep", "ep2"), owner)


def share_token(hosts):
    """One token, made by HTCondor itself on the access point, for the daemons of all hosts."""
    token = hosts["ap"].run(["condor_token_create", "-identity", f"condor@{DOMAIN}"])
    for host in hosts.values():
        owner, _, _, tokens = _places(host)
        host.write(f"{tokens}/pool", token, owner, 0o600)


def start(host):
    """Starts HTCondor on a host that is up; the master goes to the background by itself."""
    host.run(["condor_master"], host.spec.daemon_user)


def wait(hosts, booted, timeout=60):
    """Waits until all of these hosts have been heard of by the collector since they were booted."""
    deadline = time.monotonic() + timeout
    missing = {}
    while True:
        said = hosts["ap"].run(["condor_status", "-any", "-af", "MyType", "Name", "LastHeardFrom"], check=False)
        heard = dict(line.rsplit(None, 1) for line in said.splitlines())
        missing = [n for n in hosts if int(heard.get(ADS[n], 0)) <= booted[n]]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise PoolError(f"after {timeout} s the collector has not heard of {', '.join(missing)}:\n" +
                            "\n".join(_tail(hosts[name]) for name in missing))
        time.sleep(0.1)     # HTCondor offers no event to wait for


def _tail(host):
    """The last lines of what the host's master wrote, for an error message."""
    path = os.path.join(host.logs(), "MasterLog")
    try:
        with open(path, errors="replace") as file:
            return f"--- {path}\n" + "".join(file.readlines()[-8:])
    except FileNotFoundError:
        return f"--- {host.name}: HTCondor's master wrote no log ({path})"


def configure(host, ap, name, text):
    """Adds a file of configuration and returns when the host's main daemon has read it."""
    owner, config, _, _ = _places(host)
    host.write(f"{config}/{name}.conf", text, owner)
    query = ["condor_status", *(["-schedd"] if host.name == "ap" else ["-startd", "-constraint", f'Machine == "{host.name}.{DOMAIN}"']),
             "-af", "DaemonLastReconfigTime"]
    before = ap.run(query).split()
    while str(int(time.time())) in before:      # the ad has whole seconds: let this one pass
        time.sleep(0.05)
    host.run(["condor_reconfig"], host.spec.daemon_user)
    deadline = time.monotonic() + 30
    while not (now := ap.run(query).split()) or set(now) & set(before):
        if time.monotonic() > deadline:
            raise PoolError(f"{host.name} did not read its new configuration within 30 s:\n{_tail(host)}")
        time.sleep(0.1)
