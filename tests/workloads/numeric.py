"""Linear algebra, an integrator and an optimiser, with state in each."""
import numpy as np
from scipy import integrate, linalg, optimize

random = np.random.default_rng(5)
state = random.standard_normal((300, 300))
solver = integrate.RK45(lambda t, y: np.array([y[1], -np.sin(y[0])]), 0, [1, 0], 1e9, max_step=0.01)
for n in range(120):
    values = linalg.eigvalsh(state @ state.T)
    state = linalg.qr(state + 0.1 * random.standard_normal(state.shape))[0]
    for _ in range(50):
        solver.step()
    best = optimize.minimize(lambda x: (x[0] - n) ** 2 + x[1] ** 4, [0, 1])
    print("step", n, round(values[-1], 6), round(solver.y[0], 9), round(best.x[0], 3), flush=True)
    np.save("state.npy", state)
