"""Frames, groups and joins; the frame is written in the end."""
import time

import numpy as np
import pandas as pd

random = np.random.default_rng(11)
frame = pd.DataFrame({"key": random.integers(0, 50, 20000), "value": random.standard_normal(20000)})
for n in range(100):
    sums = frame.groupby("key")["value"].agg(["sum", "mean", "max"])
    frame = frame.join(sums["mean"].rename(f"mean{n % 5}"), on="key", rsuffix="_old")
    frame["value"] = frame["value"].rolling(3, min_periods=1).mean() + frame[f"mean{n % 5}"]
    frame = frame[["key", "value"]].sample(frac=1, random_state=n).reset_index(drop=True)
    print("step", n, sums["sum"].round(9).iloc[n % 50], len(frame), flush=True)
    time.sleep(0.1)
frame.to_csv("frame.csv", float_format="%.12g")
