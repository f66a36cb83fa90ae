# Twenty steps, each with the limits of open files as they are; before them, what the words ask for, and after them a look at it.
# Ends with 42.
import ctypes
import mmap
import os
import resource
import signal
import sys
import time

PAGE = 4096
# Linux 6.13, <asm-generic/mman-common.h>; Python has no name for it.
MADV_GUARD_INSTALL = 102
PATTERN = bytes(range(256)) * 16

with open("written", "wb") as file:
    file.write(PATTERN * 64)
if "descriptors" in sys.argv:
    os.dup2(0, 1500)
memory = None
if "guard" in sys.argv:
    memory = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = PATTERN * 64
if "guard-file" in sys.argv:
    with open("written", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 64 * PAGE)
if memory is not None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.madvise(address + 16 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL) != 0:
        print("no guard pages", flush=True)
for number in range(1, 21):
    print("step", number, "limits", resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
    time.sleep(0.1)


def ends_by(page):
    pid = os.fork()
    if pid == 0:
        os._exit(memory[page * PAGE + 5] == PATTERN[5])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if memory is not None:
    found = [ends_by(page) for page in (0, 15, 16, 17, 18, 63)]
    print("guarded", found == [1, 1, -signal.SIGSEGV, -signal.SIGSEGV, 1, 1] or found, flush=True)
    print("whole", memory[: 16 * PAGE] == PATTERN * 16 and memory[18 * PAGE :] == PATTERN * 46, flush=True)
sys.exit(42)
