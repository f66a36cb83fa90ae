"""Starts one of CRIU's own test programs (the arguments), which becomes a daemon, and asks for its verdict when a file `go` appears.

With `--late` first, an orphan keeps a deleted file open, which is the last that a dump comes to.
"""

import os
import subprocess
import sys
import time

# A program that says nothing for longer hangs.
PATIENCE = 20
OUT = "verdict.out"


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def said():
    for name in (OUT, OUT + ".inprogress"):
        if os.path.exists(name):
            with open(name, errors="replace") as file:
                return file.read()
    return ""


def keep_a_deleted_file_open():
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            file = open("last", "w")
            os.unlink("last")
            file.write("x" * 4096)
            file.flush()
            open("ready", "w").close()
            time.sleep(600)
        os._exit(0)
    os.wait()
    until(lambda: os.path.exists("ready"))


words = sys.argv[1:]
late = words[0] == "--late"
words = words[late:]
# A program that stays in the foreground would be waited for without end.
started = subprocess.Popen(words, stdin=subprocess.DEVNULL)
try:
    status = started.wait(PATIENCE)
except subprocess.TimeoutExpired:
    status = "nothing"
if status != 0 or not os.path.exists("verdict.pid"):
    print(said(), f"does not start: {status}", sep="\n", flush=True)
    sys.exit(3)
with open("verdict.pid") as file:
    pid = int(file.read())
if late:
    keep_a_deleted_file_open()
print("it stands", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
try:
    os.kill(pid, 15)
except ProcessLookupError:
    print("it has died", flush=True)
ended = until(lambda: os.path.exists(OUT) or not os.path.exists(f"/proc/{pid}"))
print(said(), flush=True)
lines = said().strip().split("\n")
if os.path.exists(OUT) and "PASS" in lines[-1].split():
    print("verdict: pass", flush=True)
else:
    print("verdict: " + ("wrong" if ended else "it hangs"), flush=True)
    sys.exit(4)
