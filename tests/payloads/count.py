"""Counts, and keeps a random number only in memory: a silent start from the beginning would show."""
import random
import sys
import time

number = random.random()
data = open("data.txt", "w")
for i in range(int(sys.argv[1])):
    print(f"line{i} {number}", flush=True)
    data.write(f"{i} {number}\n")
    data.flush()
    time.sleep(0.05)
sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 42)
