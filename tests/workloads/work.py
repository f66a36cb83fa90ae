"""Threads, a generator that is half used, a subprocess, a heap that has grown, files in three modes."""
import hashlib
import random
import subprocess
import sys
import threading
import time


def numbers():
    random.seed(7)
    while True:
        yield random.random()


source, results, lock = numbers(), [], threading.Lock()
echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
ballast = {n: str(n) * 10 for n in range(100_000)}


def count():
    for n in range(60):
        with lock:
            results.append(n)
        time.sleep(0.1)


thread = threading.Thread(target=count)
thread.start()
digest = hashlib.sha256()
with open("log", "a") as log, open("state", "w+b") as state:
    for n in range(60):
        digest.update(str(next(source)).encode())
        echo.stdin.write(f"{n}\n")
        echo.stdin.flush()
        print("step", n, echo.stdout.readline().strip(), digest.hexdigest()[:16], flush=True)
        print(n, file=log, flush=True)
        state.seek(0)
        state.write(digest.digest())
        time.sleep(0.1)
thread.join()
echo.stdin.close()
print(len(results), sum(results), len(ballast[99_999]), echo.wait())
sys.exit(5)
