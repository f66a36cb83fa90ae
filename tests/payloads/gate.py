# Twenty steps, each with the limits of open files as they are; before them, what the words ask for. Ends with 42.
import ctypes
import mmap
import os
import resource
import sys
import time

if "descriptors" in sys.argv:
    os.dup2(0, 1500)
if "guard" in sys.argv:
    # Linux 6.13, <asm-generic/mman-common.h>; Python has no name for it.
    MADV_GUARD_INSTALL = 102
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.madvise(address + 65536, 8192, MADV_GUARD_INSTALL) != 0:
        print("no guard pages", flush=True)
with open("written", "w") as file:
    file.write("x")
for number in range(1, 21):
    print("step", number, "limits", resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
    time.sleep(0.1)
sys.exit(42)
