"""numpy with OpenBLAS: the same numbers wherever it goes on."""
import sys
import time

import numpy as np
import numpy.linalg

state = np.random.default_rng(7).standard_normal((180, 180))
for step in range(1, 61):
    q, r = np.linalg.qr(state @ state.T + np.eye(180))
    state = q @ np.sort(state, axis=0) * 0.99
    copied = bytes(bytearray(state.tobytes()))
    print("step", step, "norm %.15g" % np.linalg.norm(state), len(copied), flush=True)
    time.sleep(0.08)
np.save("state.npy", state)
sys.exit(42)
