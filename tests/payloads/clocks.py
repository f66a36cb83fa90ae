# Three sleeps, one for each host, and a thread that waits until an absolute time of the monotonic clock over all of them. Ends with 42.
import os
import threading
import time

CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
# Uptimes differ by days; a busy machine costs minutes at most.
MOST = 600


def now():
    return [time.clock_gettime(clock) for clock in CLOCKS]


def since(then):
    return [after - before for before, after in zip(then, now())]


def right(elapsed, least):
    return all(least <= value < least + MOST for value in elapsed)


start = last = now()
backwards = threading.Event()
woken = threading.Event()


def watch():
    before = now()
    while not woken.is_set():
        if any(elapsed < 0 for elapsed in since(before)):
            backwards.set()
        before = now()
        time.sleep(0.01)


waiter = threading.Thread(target=lambda: threading.Event().wait(9) or woken.set())
watcher = threading.Thread(target=watch)
waiter.start()
watcher.start()
for number in range(3):
    print("sleeping", number, flush=True)
    before = now()
    # Python sleeps until an absolute time: on a clock that has jumped back it would sleep for days.
    time.sleep(3)
    elapsed = since(before)
    print("slept", number, right(elapsed, 3) or elapsed, flush=True)
waiter.join()
watcher.join()
print("all", right(since(start), 9) or since(start), "backwards", backwards.is_set(), flush=True)
os._exit(42)
