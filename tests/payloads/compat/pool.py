"""Python's multiprocessing and concurrent.futures, whose locks and queues are named semaphores that are removed while they are
mapped: prints the same lines however often it is moved."""

import multiprocessing as mp
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory


def square(n):
    time.sleep(0.05)
    return n * n


def produce(queue, lock, name, total, steps):
    memory = shared_memory.SharedMemory(name)
    for n in range(steps):
        with lock:
            memory.buf[n] = n
            with total.get_lock():
                total.value += n
        queue.put(n)
        time.sleep(0.1)
    memory.close()
    queue.put(None)


if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    queue, lock, total = mp.Queue(), mp.Lock(), mp.Value("i", 0)
    memory = shared_memory.SharedMemory(create=True, size=256)
    child = mp.Process(target=produce, args=(queue, lock, memory.name, total, steps))
    child.start()
    with mp.Pool(2) as pool, ProcessPoolExecutor(2) as executor:
        while (n := queue.get()) is not None:
            print("step", n, pool.apply(square, (n,)), executor.submit(square, n + 1).result(), flush=True)
    child.join()
    print("total", total.value, bytes(memory.buf[:30]).hex(), child.exitcode, flush=True)
    memory.close()
    memory.unlink()
    # Nothing that the program removed is there (Python keeps its own semaphores to the end, if it spawns), and a child of an emptied environment still has the helper.
    print(sorted(name for name in os.listdir("/dev/shm") if not name.startswith((".", "sem.mp-"))))
    bare = subprocess.run(["/bin/sh", "-c", "grep -c condor-criu/compat /proc/self/maps"], env={}, capture_output=True, text=True)
    print("bare", int(bare.stdout or 0) > 0)
