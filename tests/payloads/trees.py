"""Makes a tree of files from a seed, has files of it open in every way, and tells at the end whether all of it is what it was.

    trees.py SEED     waits for a file `go` in its directory; prints what has changed meanwhile, then what it reads and writes at the end
"""
import fcntl, hashlib, json, mmap, os, random, socket, stat, struct, sys, time

seed = int(sys.argv[1])
rnd = random.Random(seed)
home = os.getcwd()
OURS = {b"go", b"trees.py", b"condor-criu.log", b"criu-checkpoint.tar.zst", b"_condor_stdout", b"_condor_stderr",
        b"criu-checkpoint.previous.tar.zst", b".job.ad"}
ROOTS = [os.fsencode(home), b"/tmp/t", b"/var/tmp/t", b"/dev/shm/t"]
FILE_MODES = [0o644, 0o444, 0o600, 0o400, 0o200, 0o000, 0o755, 0o4755, 0o2711, 0o1666, 0o555]
DIR_MODES = [0o755, 0o700, 0o555, 0o500, 0o300, 0o000, 0o2755, 0o1777, 0o444]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in
      [(1, 6, 0xffffffff), (2, 4, 12345), (4, 4, 0xffffffff), (0x10, 4, 0xffffffff), (0x20, 0, 0xffffffff)])
used = set()


def name():
    while True:
        kind = rnd.randrange(6)
        length = rnd.choice([1, 3, 8, 30, 200, 240])  # of a longer one criu cannot see that it is deleted
        if kind == 0:
            text = bytes(rnd.choice([c for c in range(1, 256) if c != 47]) for _ in range(length))
        elif kind == 1:
            text = ("ü漢 \n\"'$" * length).encode()[:length]
        elif kind == 2:
            text = b"." + b"h" * (length - 1) + str(rnd.randrange(99)).encode()
        else:
            text = rnd.choice([b"file", b"a b", b"link_remap.x", b"%s", b"-rf", b"core"]) + str(rnd.randrange(1000)).encode()
        text = text[:240]
        if text not in (b".", b"..") and text not in OURS and text not in used:
            used.add(text)
            return text


def content():
    kind = rnd.randrange(5)
    if kind == 0:
        return b""
    if kind == 1:
        return rnd.randbytes(rnd.choice([1, 100, 4096, 70000]))
    if kind == 2:
        return b"0123456789" * rnd.randrange(1, 3000)
    if kind == 3:
        return bytes(rnd.randrange(1, 9000)) + b"end"
    return rnd.randbytes(rnd.choice([5000, 200000]))


files, dirs = [], []


def make(where, depth):
    for _ in range(rnd.randrange(2, 6)):
        path = os.path.join(where, name())
        kind = rnd.randrange(12)
        try:
            if kind < 2 and depth < 4:
                os.mkdir(path)
                dirs.append(path)
                make(path, depth + 1)
            elif kind == 2:
                os.symlink(rnd.choice([b"nowhere", b"/etc/passwd", b"..", name(), b"/job"]), path)
            elif kind == 3:
                os.mkfifo(path)
                files.append(path)
            elif kind == 4 and files:
                old = rnd.choice(files)
                if os.stat(old).st_dev == os.stat(where).st_dev:
                    os.link(old, path)
            elif kind == 5:
                with open(path, "wb") as f:
                    size = rnd.choice([1 << 20, 1 << 30, 1 << 38])
                    f.truncate(size)
                    for _ in range(rnd.randrange(3)):
                        f.seek(rnd.randrange(size))
                        f.write(b"island")
                files.append(path)
            elif kind == 6 and len(path) < 100:
                s = socket.socket(socket.AF_UNIX)
                s.bind(path)
                if rnd.randrange(2):
                    s.listen()
                    keep.append(s)
            else:
                with open(path, "wb") as f:
                    f.write(content())
                files.append(path)
        except OSError as e:
            if e.errno not in (1, 36, 18, 22, 31):  # what the file system does not do, the undisturbed run does not do either
                raise


keep = []
opened = []  # (what, descriptor, path)
maps = []
for root in ROOTS:
    os.makedirs(root, exist_ok=True)
    make(root, 0)
deep = os.path.join(ROOTS[rnd.randrange(2)], b"deep")
os.mkdir(deep)
at = os.open(deep, os.O_RDONLY)
if rnd.randrange(3) == 0:
    for _ in range(30):
        os.mkdir(b"d" * 200, dir_fd=at)
        lower = os.open(b"d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = lower
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
os.close(at)

for path in files:
    st = os.stat(path)
    if stat.S_ISFIFO(st.st_mode):
        if rnd.randrange(2):
            fd = os.open(path, os.O_RDWR)
            os.write(fd, b"waiting")
            opened.append(("fifo", fd, path))
        continue
    if rnd.randrange(3) == 0:
        try:
            os.setxattr(path, b"user.k\xc3\xbc", rnd.choice([b"", b"v", rnd.randbytes(300)]))
            if rnd.randrange(2):
                os.setxattr(path, "system.posix_acl_access", ACL)
        except OSError:
            pass
    for _ in range(rnd.choice([0, 0, 1, 2])):
        how = rnd.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_APPEND])
        fd = os.open(path, how)
        os.lseek(fd, rnd.randrange(10), os.SEEK_SET)
        opened.append((how, fd, path))
        if rnd.randrange(4) == 0:
            fcntl.flock(fd, fcntl.LOCK_SH)
    # A line end in the name of what is mapped is nothing that criu can read.
    if st.st_size in range(1, 1 << 20) and rnd.randrange(4) == 0 and b"\n" not in path:
        fd = os.open(path, os.O_RDWR)
        share = rnd.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])
        m = mmap.mmap(fd, st.st_size, flags=share)
        m[0:1] = b"M"
        maps.append((share, m, path))
        os.close(fd)

mapped = {os.stat(path).st_ino for _, _, path in maps}
for what, fd, path in opened:
    act = rnd.randrange(6)
    try:
        if os.stat(path).st_ino in mapped or what == "fifo":
            continue
        if act == 0:
            os.unlink(path)
        elif act == 1:
            os.rename(path, os.path.join(os.path.dirname(path), name()))
        elif act == 2 and what != os.O_RDONLY:
            os.ftruncate(fd, rnd.randrange(100))
        elif act == 3 and what != os.O_RDONLY:
            os.write(fd, b"written")
    except FileNotFoundError:
        pass
for path in rnd.sample(dirs, min(2, len(dirs))):
    opened.append(("dir", os.open(path, os.O_RDONLY), path))

# Modes and times last: who has closed a directory cannot go in.
for path in files:
    if os.path.lexists(path):
        os.utime(path, ns=(rnd.randrange(2 ** 60), rnd.randrange(2 ** 60)))
        os.chmod(path, rnd.choice(FILE_MODES))
for path in reversed(dirs):
    os.utime(path, ns=(rnd.randrange(2 ** 60), rnd.randrange(2 ** 60)))
closed = [(path, rnd.choice(DIR_MODES)) for path in dirs]


def digest(fd):
    h = hashlib.blake2b(digest_size=8)
    at = 0
    size = os.fstat(fd).st_size
    while at < size:  # by islands: a hole of terabytes is not read
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        while start < end:
            piece = os.pread(fd, min(1 << 20, end - start), start)
            for offset in range(0, len(piece), 4096):  # where holes are is not content
                block = piece[offset:offset + 4096]
                if block.strip(b"\0"):
                    h.update(b"%d:" % (start + offset) + block)
            start += len(piece)
        at = end
    return h.hexdigest()


def shown(path):
    return path.decode("latin-1").encode("unicode_escape").decode()


def look(times=True):
    """Everything about the trees, with every directory and file opened up and closed again."""
    found, inodes = {}, {}

    def one(parent, entry, path):
        st = os.stat(entry, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(st.st_mode)
        facts = [kind, oct(st.st_mode & 0o7777)]
        if kind != stat.S_IFDIR:
            facts.append(inodes.setdefault((st.st_dev, st.st_ino), len(inodes)))
            facts.append(st.st_nlink)
        if kind == stat.S_IFLNK:
            facts.append(shown(os.readlink(entry, dir_fd=parent)))
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            mode = st.st_mode & 0o7777
            need = 0o400 if kind == stat.S_IFREG else 0o500
            if mode & need != need:
                os.chmod(entry, mode | need, dir_fd=parent)
            fd = os.open(entry, os.O_RDONLY | os.O_NOATIME, dir_fd=parent)
            try:
                facts.append(sorted((n, os.getxattr(fd, n).hex()) for n in os.listxattr(fd)))
            except OSError:
                pass
            if kind == stat.S_IFREG:
                facts += [st.st_size, digest(fd), st.st_blocks * 512 < st.st_size or st.st_size < 100000, times and st.st_mtime_ns]
            else:
                for below in sorted(os.listdir(fd)):
                    below = os.fsencode(below)
                    # What criu leaves beside a deleted file with another name is its own.
                    if not (path + b"/" == ROOTS[0] + b"/" and (below in OURS or below == b".condor-criu")) and not (
                            below.startswith(b"link_remap.") and below[11:].isdigit()):
                        one(fd, below, path + b"/" + below)
            os.close(fd)
            if mode & need != need:
                os.chmod(entry, mode, dir_fd=parent)
        found[shown(path)] = facts

    for root in ROOTS:
        one(None, root, root)
    for number, (what, fd, path) in enumerate(opened):
        if what in ("fifo", "dir"):
            continue
        st = os.fstat(fd)
        facts = [os.lseek(fd, 0, os.SEEK_CUR), oct(st.st_mode), st.st_size, fcntl.fcntl(fd, fcntl.F_GETFL)]
        if what & 3 != os.O_WRONLY:
            where = os.lseek(fd, 0, os.SEEK_CUR)
            facts.append(digest(fd))
            os.lseek(fd, where, os.SEEK_SET)
        found["fd %d" % number] = facts
    for number, (share, m, path) in enumerate(maps):
        found["map %d" % number] = hashlib.blake2b(m[:], digest_size=8).hexdigest()
    return found


# A second process has the same descriptors, and a lock of its own.
asked, answer = os.pipe(), os.pipe()
lock = os.open(os.path.join(home.encode(), b"lock"), os.O_CREAT | os.O_RDWR, 0o444)
child = os.fork()
if child == 0:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    os.write(answer[1], b"locked")
    os.read(asked[0], 1)
    sums = []
    for what, fd, path in opened:
        if what == "fifo":
            sums.append("fifo")
        elif what != "dir":
            sums.append(os.lseek(fd, 0, os.SEEK_CUR))
    os.write(answer[1], json.dumps(sums).encode())
    os._exit(0)
os.read(answer[0], 100)

for path, mode in sorted(closed, key=lambda e: -len(e[0])):
    os.chmod(path, mode)
before = look()
print("ready", len(before), len(opened), len(maps), flush=True)
while not os.path.exists(home + "/go"):
    time.sleep(0.02)
after = look()
for key in sorted(set(before) | set(after)):
    if before.get(key) != after.get(key):
        print("CHANGED", key[:300], before.get(key), "->", after.get(key))
try:
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("CHANGED: the lock is lost")
except OSError:
    pass
os.write(asked[1], b"x")
print("child", os.read(answer[0], 100000).decode(), os.waitpid(child, 0)[1])
for number, (what, fd, path) in enumerate(opened):
    if what == "fifo":
        print(number, os.read(fd, 100))
    elif what != "dir" and what & 3 != os.O_RDONLY:
        print(number, os.write(fd, b"at the end"), os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size)
for share, m, path in maps:
    m[-1:] = b"Z"
    print(hashlib.blake2b(m[:], digest_size=8).hexdigest())
for s in keep:
    c = socket.socket(socket.AF_UNIX)
    try:
        c.connect(s.getsockname())
        print("connected")
    except OSError as e:
        print("connect", e.errno)
print("end", hashlib.blake2b(json.dumps(look(False), sort_keys=True).encode(), digest_size=8).hexdigest())
