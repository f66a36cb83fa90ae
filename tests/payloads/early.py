#!/usr/bin/python3
"""early.py CASE [PORT]: has one thing that CRIU cannot carry without privilege (or, in the case `fine`, many that it can), says `ready`, and
waits. What the case asks of the kernel and does not get ends it with 3."""

import ctypes
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.shmat.restype = ctypes.c_void_p
libc.mmap.restype = ctypes.c_void_p
keep = []


def asked(result):
    if result in (-1, None):
        print("refused:", os.strerror(ctypes.get_errno()), flush=True)
        sys.exit(3)
    return result


def call(number, *arguments):
    return asked(libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments]))


def deleted(path):
    with open(path, "w+b") as file:
        file.truncate(4096)
        keep.append(mmap.mmap(file.fileno(), 4096))
    os.unlink(path)


def sysv():
    keep.append(asked(libc.shmat(asked(libc.shmget(0, 4096, 0o1600)), None, 0)))


def aio():
    context = ctypes.c_long(0)
    call(206, 8, ctypes.addressof(context))
    keep.append(context)


def uring():
    parameters = ctypes.create_string_buffer(120)
    keep.append(call(425, 4, ctypes.addressof(parameters)))


def secret():
    descriptor = call(447, 0)
    os.ftruncate(descriptor, 4096)
    keep.append(asked(libc.mmap(None, ctypes.c_size_t(4096), 3, 1, descriptor, ctypes.c_long(0))))


def seccomp():
    # One instruction: allow.
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
    asked(libc.prctl(22, ctypes.c_ulong(2), ctypes.c_ulong(ctypes.addressof(program)), 0, 0))


def nameless():
    # PR_SET_NAME, with what is not UTF-8.
    libc.prctl(15, b"\xff\xfe", 0, 0, 0)
    seccomp()


def memfd():
    descriptor = os.memfd_create("buffer")
    os.ftruncate(descriptor, 4096)
    keep.extend([descriptor, mmap.mmap(descriptor, 4096)])


def traced():
    child = os.fork()
    if child == 0:
        while True:
            time.sleep(1)
    asked(libc.ptrace(0x4206, child, None, None))


def unreadable():
    shutil.copy(shutil.which("sleep"), "sleeper")
    os.chmod("sleeper", 0o111)
    if os.fork() == 0:
        os.execv("./sleeper", ["sleeper", "60"])


def inside():
    server = socket.create_server(("127.0.0.1", 0))
    keep.extend([server, socket.create_connection(server.getsockname()), server.accept()])


def fine():
    epoll, inotify = select.epoll(), libc.inotify_init()
    asked(libc.inotify_add_watch(inotify, b".", 0x400))
    event, timer = libc.eventfd(1, 0), libc.timerfd_create(1, 0)
    epoll.register(event)
    keep.extend([epoll, socket.socketpair(), os.pipe(), os.openpty(), event, timer, os.pidfd_open(os.getpid())])
    keep.extend([socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)])
    keep.extend([socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), mmap.mmap(-1, 4096)])
    keep.extend([open("/dev/urandom"), open("/dev/zero"), open("/dev/full", "w"), open("named", "w+b")])
    os.write(keep[-1].fileno(), bytes(4096))
    keep.append(mmap.mmap(keep[-1].fileno(), 4096))
    only_open, only_mapped = os.memfd_create("open"), os.memfd_create("mapped")
    os.ftruncate(only_mapped, 4096)
    keep.extend([only_open, libc.mmap(None, ctypes.c_size_t(4096), 3, 1, only_mapped, ctypes.c_long(0))])
    os.close(only_mapped)
    gone = open("gone", "w+b")
    os.unlink("gone")
    keep.append(gone)
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)


cases = {
    "deleted": lambda: deleted("mapped"),
    "deleted-shm": lambda: deleted("/dev/shm/mapped"),
    "sysv": sysv,
    "aio": aio,
    "uring": uring,
    "secret": secret,
    "userfaultfd": lambda: keep.append(call(323, 1)),
    "fanotify": lambda: keep.append(call(300, 0x200, 0)),
    "landlock": lambda: keep.append(call(444, ctypes.addressof(keep[0]), 8, 0)),
    "eventfd": lambda: keep.append(asked(libc.eventfd(1, 1))),
    "queue": lambda: keep.append(asked(libc.mq_open(b"/queue", 0o102, 0o600, None))),
    "semaphores": lambda: keep.append(asked(libc.semget(0, 2, 0o600))),
    "seccomp": seccomp,
    "nameless": nameless,
    "memfd": memfd,
    "traced": traced,
    "namespace": lambda: asked(libc.unshare(0x10000000)),
    "unreadable": unreadable,
    "netlink": lambda: keep.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "vsock": lambda: keep.append(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
    "fuse": lambda: keep.append(os.open("fuse", os.O_RDWR)),
    "inside": inside,
    "outside": lambda: keep.append(socket.create_connection(("127.0.0.1", int(sys.argv[2])))),
    "fine": fine,
}
keep.append((ctypes.c_uint64 * 1)(1))
signal.signal(signal.SIGUSR1, lambda *_: keep.clear())
cases[sys.argv[1]]()
print("ready", flush=True)
while not os.path.exists("stop"):
    time.sleep(0.05)
os.killpg(0, signal.SIGKILL)
