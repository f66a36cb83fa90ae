"""HDF5 and NetCDF-4 files that are open for writing all the time, chunked, compressed and growing."""
import time

import h5py
import netCDF4
import numpy as np

random = np.random.default_rng(2)
with h5py.File("data.h5", "w") as h5, netCDF4.Dataset("data.nc", "w") as nc:
    grown = h5.create_dataset("grown", (0, 500), maxshape=(None, 500), chunks=(8, 500), compression="gzip")
    nc.createDimension("time", None)
    nc.createDimension("x", 500)
    variable = nc.createVariable("field", "f8", ("time", "x"), zlib=True)
    for n in range(60):
        row = random.standard_normal(500)
        grown.resize(n + 1, axis=0)
        grown[n] = row
        variable[n] = row
        h5.flush()
        nc.sync()
        print("step", n, round(float(grown[: n + 1].sum()), 9), round(float(variable[: n + 1].sum()), 9), flush=True)
        time.sleep(0.1)
