# Processes of all kinds of kinship: orphans and daemons, in sessions and groups whose leaders have ended, and children that have ended and
# are waited for late. What they say in the end must be what it would have been without a save.
import os, signal, time

here, said = os.pipe()
adopter = os.getppid()
go = lambda: os.path.exists('go')


def wait_and_say(name):
    before = (os.getsid(0), os.getpgrp(), os.getppid())
    while not go():
        time.sleep(0.05)
    after = (os.getsid(0), os.getpgrp(), os.getppid())
    os.write(said, f'{name} {"as before" if before == after else (before, after)}\n'.encode())
    os._exit(0)


def orphan(name, own_session=False, own_group=False):
    if os.fork():
        os.wait()
        return
    if own_session:
        os.setsid()
    if os.fork():
        os._exit(0)
    while os.getppid() != adopter:
        time.sleep(0.01)
    if own_group:
        os.setpgid(0, 0)
    wait_and_say(name)


orphan('orphan')
orphan('daemon', own_session=True)
orphan('daemon in a group', own_session=True, own_group=True)
ended = []
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, 0):
    child = os.fork()
    if child == 0:
        if number:
            os.kill(os.getpid(), number)
        os._exit(7)
    ended.append(child)
print('ready', flush=True)
while not go():
    time.sleep(0.05)
for child in ended:
    print('status', os.waitpid(child, 0)[1], flush=True)
time.sleep(0.5)
print(''.join(sorted(os.read(here, 4096).decode().splitlines(True))), end='', flush=True)
