# Twenty steps, each with a thread that is new and one that has been there since the start. Ends with 42.
import sys
import threading
import time

turn = threading.Condition()
state = {"asked": 0, "answered": 0}


def stays():
    with turn:
        while True:
            turn.wait_for(lambda: state["asked"] > state["answered"])
            state["answered"] += 1
            turn.notify_all()


def deep(levels):
    return 1 + deep(levels - 1) if levels else 0


threading.Thread(target=stays, daemon=True).start()
for number in range(1, 21):
    found = []
    thread = threading.Thread(target=lambda: found.append(deep(200)))
    thread.start()
    with turn:
        state["asked"] += 1
        turn.notify_all()
        turn.wait_for(lambda: state["answered"] == number)
    thread.join()
    print("step", number, found, flush=True)
    time.sleep(0.1)
sys.exit(42)
