// Runs a program and cuts it off before a chosen system call that changes a file or a process, or lets that call fail.
//
//   cut REPORT cut N -- PROGRAM…             SIGKILL before the N-th counted call is carried out (0: only count)
//   cut REPORT ERRNO once|on N -- PROGRAM…   the N-th counted call on a regular file fails with ERRNO, with `on` all after it too
//
// Traced are the program's threads and nothing that it forks: CRIU could not save a payload that is traced. In the environment:
// CUT_USER, whose the program is; CUT_SIGNAL, which it gets as soon as CUT_FILE has CUT_TEXT; CUT_HURRY, a file that is made a second
// later. REPORT gets one line: the exit code (or the signal below zero), how many calls were counted, how many failed, which was hit.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct call {
    long number;
    const char *name;
    int flags_at;  // which argument has open(2)'s flags; -1: none
    int file_at;   // which argument is a descriptor that must be a regular file's for an error; -1: none, -2: never an error
};

#define CALL(name, flags, file) {SYS_##name, #name, flags, file}
static const struct call calls[] = {
    CALL(open, 1, -1), CALL(openat, 2, -1), CALL(creat, -1, -1),
    CALL(write, -1, 0), CALL(pwrite64, -1, 0), CALL(writev, -1, 0), CALL(pwritev, -1, 0), CALL(pwritev2, -1, 0),
    CALL(sendfile, -1, 0), CALL(copy_file_range, -1, 2), CALL(splice, -1, 2), CALL(fallocate, -1, 0),
    CALL(truncate, -1, -1), CALL(ftruncate, -1, 0), CALL(fsync, -1, 0), CALL(fdatasync, -1, 0), CALL(syncfs, -1, 0),
    CALL(rename, -1, -1), CALL(renameat, -1, -1), CALL(renameat2, -1, -1),
    CALL(link, -1, -1), CALL(linkat, -1, -1), CALL(symlink, -1, -1), CALL(symlinkat, -1, -1),
    CALL(mkdir, -1, -1), CALL(mkdirat, -1, -1), CALL(mknod, -1, -1), CALL(mknodat, -1, -1),
    CALL(unlink, -1, -2), CALL(unlinkat, -1, -2), CALL(rmdir, -1, -2),
    CALL(chmod, -1, -2), CALL(fchmod, -1, -2), CALL(fchmodat, -1, -2), CALL(chown, -1, -2), CALL(fchown, -1, -2),
    CALL(fchownat, -1, -2), CALL(utimensat, -1, -2), CALL(flock, -1, -2),
    CALL(kill, -1, -2), CALL(tgkill, -1, -2), CALL(tkill, -1, -2), CALL(pidfd_send_signal, -1, -2),
    CALL(clone, -1, -2), CALL(clone3, -1, -2), CALL(fork, -1, -2), CALL(vfork, -1, -2),
    CALL(sendmsg, -1, -2), CALL(sendto, -1, -2), CALL(exit_group, -1, -2),
};

static unsigned long long argument(const struct user_regs_struct *regs, int at)
{
    const unsigned long long all[] = {regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9};
    return all[at];
}

static const struct call *counted(const struct user_regs_struct *regs)
{
    for (size_t at = 0; at < sizeof calls / sizeof *calls; at++) {
        const struct call *call = &calls[at];
        if (call->number != (long)regs->orig_rax)
            continue;
        if (call->flags_at < 0 || argument(regs, call->flags_at) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
            return call;
    }
    return NULL;
}

// Whether a disk could let it fail.
static int may_fail(pid_t tid, const struct call *call, const struct user_regs_struct *regs)
{
    if (call->file_at == -2)
        return 0;
    // Without O_CREAT nothing new is written by open(2).
    if (call->flags_at >= 0)
        return (argument(regs, call->flags_at) & O_CREAT) != 0;
    if (call->file_at == -1)
        return 1;
    char path[64];
    struct stat found;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, (int)argument(regs, call->file_at));
    return stat(path, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

static void die(const char *what)
{
    perror(what);
    exit(200);
}

// Whether the file has the text.
static int has(const char *file, const char *text)
{
    static char content[1 << 20];
    int from = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = read(from, content, sizeof content - 1);
    close(from);
    content[length > 0 ? length : 0] = 0;
    return strstr(content, text) != NULL;
}

// Sends the signal when the file has the text; if that cannot be written, at some time all the same.
static pid_t watch(pid_t program)
{
    const char *file = getenv("CUT_FILE"), *text = getenv("CUT_TEXT"), *number = getenv("CUT_SIGNAL");
    const char *hurry = getenv("CUT_HURRY");
    if (!file || !text || !number || !hurry)
        die("CUT_");
    pid_t parent = getpid(), child = fork();
    if (child != 0)
        return child;
    struct timespec pause = {0, 2000000};
    for (int tries = 0; getppid() == parent && tries < 1500 && !has(file, text); tries++)
        nanosleep(&pause, NULL);
    if (getppid() == parent)
        kill(program, atoi(number));
    sleep(1);
    if (getppid() == parent)
        close(open(hurry, O_WRONLY | O_CREAT, 0644));
    _exit(0);
}

int main(int argc, char **argv)
{
    int at = 1;
    const char *report = argv[at++], *what = argv[at++];
    int cut = strcmp(what, "cut") == 0, error = cut ? 0 : atoi(what);
    int on = !cut && strcmp(argv[at++], "on") == 0;
    long nth = atol(argv[at++]);
    at++;
    if (at >= argc)
        return 200;
    // The program goes with us (PTRACE_O_EXITKILL), and we with the test.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uid_t user = (uid_t)atoi(getenv("CUT_USER") ? getenv("CUT_USER") : "0");
    int go[2];
    if (pipe2(go, O_CLOEXEC) != 0)
        die("pipe2");
    pid_t program = fork();
    if (program == 0) {
        char byte;
        if (user && (setgid(user) != 0 || setuid(user) != 0))
            die("setuid");
        close(go[1]);
        while (read(go[0], &byte, 1) < 0 && errno == EINTR)
            ;
        execv(argv[at], argv + at);
        die(argv[at]);
    }
    if (ptrace(PTRACE_SEIZE, program, 0,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) != 0)
        die("PTRACE_SEIZE");
    close(go[0]);
    close(go[1]);
    pid_t watcher = watch(program);

    long count = 0, failing = 0;
    int running = 0, result = 0;
    char told[96] = "nothing";
    // Whose present call is to fail; indexed by tid, which pid_max bounds.
    static char fails[1 << 22];
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        if (tid == watcher)
            continue;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            fails[tid] = 0;
            if (tid != program)
                continue;
            result = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
            break;
        }
        int signal = WSTOPSIG(status), event = status >> 16, deliver = 0;
        if (event == PTRACE_EVENT_EXEC) {
            running = 1;
        } else if (event == PTRACE_EVENT_STOP) {
            if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
                ptrace(PTRACE_LISTEN, tid, 0, 0);
                continue;
            }
        } else if (event == 0 && signal == (SIGTRAP | 0x80)) {
            struct user_regs_struct regs;
            struct __ptrace_syscall_info info;
            // Counting the stops does not tell which is which: a thread begins with the end of a clone(2) that it never called.
            if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) <= 0 || ptrace(PTRACE_GETREGS, tid, 0, &regs) != 0)
                continue;
            int entering = info.op == PTRACE_SYSCALL_INFO_ENTRY;
            if (entering && running) {
                const struct call *call = counted(&regs);
                if (call && cut && ++count == nth) {
                    snprintf(told, sizeof told, "%s", call->name);
                    kill(program, SIGKILL);
                    continue;
                }
                if (call && !cut && may_fail(tid, call, &regs) && (++count == nth || (on && count > nth && nth > 0))) {
                    if (count == nth)
                        snprintf(told, sizeof told, "%s", call->name);
                    fails[tid] = 1;
                    failing++;
                    regs.orig_rax = (unsigned long long)-1;
                    ptrace(PTRACE_SETREGS, tid, 0, &regs);
                }
            } else if (!entering && fails[tid]) {
                fails[tid] = 0;
                regs.rax = (unsigned long long)-(long)error;
                ptrace(PTRACE_SETREGS, tid, 0, &regs);
            }
        } else if (event == 0) {
            deliver = signal;
        }
        // A failure means that it was killed meanwhile; its end is reported next.
        ptrace(PTRACE_SYSCALL, tid, 0, (void *)(long)deliver);
    }
    kill(watcher, SIGKILL);
    waitpid(watcher, NULL, 0);
    FILE *out = fopen(report, "w");
    if (!out)
        die(report);
    fprintf(out, "%d %ld %ld %s\n", result, count, failing, told);
    return fclose(out) == 0 ? 0 : 200;
}
