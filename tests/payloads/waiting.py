"""Each case makes something, says `ready`, and says what has become of it when a file `go` appears."""

import ctypes
import fcntl
import os
import socket
import struct
import sys
import termios
import time

libc = ctypes.CDLL(None, use_errno=True)


def go():
    print("ready", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)


def terminal():
    """/dev/tty stays open, and what was written to the other end waits."""
    if os.fork() == 0:
        os.setsid()
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        own = os.open("/dev/tty", os.O_RDWR)
        os.write(master, b"one\n")
        go()
        os.write(master, b"two\n")
        print(os.read(own, 100), os.read(own, 100), flush=True)
        os._exit(0)
    os.wait()


def ended():
    """A file below /proc of a process that has ended."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
    file = os.open(f"/proc/{child}/mountinfo", os.O_RDONLY)
    os.kill(child, 9)
    os.wait()
    go()
    print(len(os.read(file, 1)), flush=True)


def sender():
    """A datagram that says who sent it."""
    one, other = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    one.bind("one")
    other.bind("other")
    other.sendto(b"hello", "one")
    print("ready", flush=True)
    time.sleep(3)
    print(*one.recvfrom(100), flush=True)
    go()


def watch(path, flags):
    file = libc.inotify_init1(0)
    assert libc.inotify_add_watch(file, path, flags) >= 0
    return file


IN_CREATE, IN_ATTRIB, IN_DONT_FOLLOW = 0x100, 0x4, 0x02000000


def told(file):
    return hex(struct.unpack("iIII", os.read(file, 4096)[:16])[1])


def events():
    """inotify has told something that is read later."""
    os.mkdir("watched")
    file = watch(b"watched", IN_CREATE)
    open("watched/new", "w").close()
    print("ready", flush=True)
    time.sleep(3)
    print(told(file), flush=True)
    go()


def link():
    """A symbolic link that is watched, and leads nowhere."""
    os.symlink("nowhere", "link")
    file = watch(b"link", IN_ATTRIB | IN_DONT_FOLLOW)
    go()
    os.utime("link", (1, 1), follow_symlinks=False)
    print(told(file), flush=True)


def session():
    """A session whose first process has ended, and which the parent of its last one has left."""
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(600)
            os.setsid()
            os.write(writing, b".")
            time.sleep(600)
        os.read(reading, 1)
        os._exit(0)
    os.waitpid(first, 0)
    go()


globals()[sys.argv[1]]()
