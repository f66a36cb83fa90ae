"""A process tree with what batch programs use: a thread, a pipe to a child, an orphan that has daemonised, files in /tmp and
/dev/shm, a deleted file that is still open, an append log, a subdirectory. Prints one line a step, the same in every run."""
import os
import sys
import threading
import time

STEPS = int(sys.argv[1])
to_child, from_parent = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(to_child[1]), os.close(from_parent[0])
    received = 0
    while True:
        got = os.read(to_child[0], 1)
        if not got:
            os._exit(received % 200)
        received += 1
        os.write(from_parent[1], b"%c" % (received % 256))
os.close(to_child[0]), os.close(from_parent[1])

if os.fork() == 0:
    os.setsid()
    os.close(to_child[1]), os.close(from_parent[0])  # the child waits for the end of its pipe
    if os.fork() == 0:  # the orphan
        for step in range(10_000):
            with open("/tmp/orphan.tmp", "w") as f:
                f.write(str(os.getppid()))
            os.rename("/tmp/orphan.tmp", "/tmp/orphan")
            time.sleep(0.02)
    os._exit(0)

counter = [0]
def count():
    while True:
        counter[0] += 1
        time.sleep(0.01)
threading.Thread(target=count, daemon=True).start()

shm = open("/dev/shm/segment", "w+b")
shm.write(b"s" * 100_000)
shm.flush()
temporary = open("/tmp/kept", "w+")
deleted = open("/tmp/deleted", "w+")
os.unlink("/tmp/deleted")
os.makedirs("out/deep", exist_ok=True)
started = time.monotonic()
for step in range(STEPS):
    os.write(to_child[1], b"x")
    answer = os.read(from_parent[0], 1)[0]
    temporary.write(f"{step}\n"), temporary.flush()
    deleted.write(f"{step}\n"), deleted.flush()
    with open("out/deep/log", "a") as f:
        f.write(f"{step} {answer}\n")
    print(f"step {step} {answer}", flush=True)
    time.sleep(0.05)
deleted.seek(0), temporary.seek(0), shm.seek(0)
os.close(to_child[1])
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("files", len(deleted.readlines()), len(temporary.readlines()), len(shm.read()))
print("thread ran", counter[0] > 10, "orphan lives", os.path.exists("/tmp/orphan"))
print("clock", time.monotonic() - started < STEPS * 0.05 + 20, flush=True)
