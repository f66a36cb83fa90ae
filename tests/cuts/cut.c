// Runs a program and does it some harm at a chosen moment, from outside.
//
//   cut REPORT FAULT N -- PROGRAM…      N counts the moments; 0: only count
//
// FAULT      a moment is                              what happens
// kill       a call that changes a file or process    SIGKILL to the program, before the call
// init       the same                                 SIGKILL to the sandbox's init, before the call
// disk       the same                                 the file system becomes read-only for all, before the call
// criu       a system call of criu                    SIGKILL to criu, before the call
// ERRNO      such a call on a file                    it fails with ERRNO
// ERRNO+     the same                                 it and all after it fail
// short      a write of more than one byte to a file  only half is written
// short+     the same                                 also of all after it
// SECONDSs   a look at the wall clock                 from then on it is wrong by SECONDS
//
// Traced are the program's threads, and criu where it is the one that is killed. Nothing else is: CRIU could not save a payload that is
// traced. In the environment: CUT_USER, whose the program is; CUT_SIGNAL, which it gets as soon as CUT_FILE has CUT_TEXT; CUT_HURRY, a file
// that is made when it has CUT_ENOUGH, or some seconds later; CUT_DISK, ext4's trigger_fs_error of the file system. REPORT gets one line: the exit code (or the signal below
// zero), how many moments were counted, and the call at which it happened.
#define _GNU_SOURCE
#include "calls.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static enum { KILL, INIT, DISK, CRIU, ERROR, SHORT, CLOCK } fault;
static int is_lasting, error, running;
static long shift, nth, count;
static pid_t program, criu;
static char told[96] = "nothing";

// What is to be undone or done when the present call of a thread returns; indexed by tid, which pid_max bounds.
static struct pending { char kind; signed char at; unsigned long long value; } pending[1 << 22];
enum { NOTHING, FAILS, SHORTENED };

static void die(const char *what)
{
    perror(what);
    exit(200);
}

// Whether this is the moment, or a later one that is meant too.
static int is_due(const char *name)
{
    if (++count == nth)
        snprintf(told, sizeof told, "%s", name);
    return count == nth || (is_lasting && nth > 0 && count > nth);
}

static void break_disk(void)
{
    int file = open(getenv("CUT_DISK"), O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, "1", 1) != 1)
        die("CUT_DISK");
    close(file);
}

// The program's clock is the kernel's and not the vDSO's, where nobody could see it being looked at.
static void without_vdso(pid_t tid)
{
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, tid, 0, &regs) != 0)
        return;
    unsigned long long at = regs.rsp + 8 * (1 + peek(tid, regs.rsp) + 1);
    while (peek(tid, at) != 0)
        at += 8;
    for (at += 8; peek(tid, at) != AT_NULL; at += 16)
        if (peek(tid, at) == AT_SYSINFO_EHDR)
            ptrace(PTRACE_POKEDATA, tid, (void *)at, (void *)AT_IGNORE);
}

// At the begin of a call; returns whether the thread may go on.
static int entering(pid_t tid, struct user_regs_struct *regs)
{
    if (criu > 0 && tid == criu) {
        char number[24];
        snprintf(number, sizeof number, "criu's call %lld", (long long)regs->orig_rax);
        if (is_due(number))
            kill(criu, SIGKILL);
        return 1;
    }
    const struct call *call = counted(regs);
    if (!running || !call)
        return 1;
    struct pending *later = &pending[tid];
    if (fault == KILL || fault == INIT || fault == DISK) {
        pid_t init = fault == INIT ? init_of(program) : 1;
        // Before there is an init, none can be killed.
        if (init == 0 || !is_due(call->name))
            return 1;
        if (fault == DISK)
            break_disk();
        else
            kill(fault == INIT ? init : program, SIGKILL);
        return fault != KILL;
    }
    if (fault == ERROR && may_fail(tid, call, regs) && is_due(call->name)) {
        *later = (struct pending){FAILS, 0, 0};
        regs->orig_rax = (unsigned long long)-1;
        ptrace(PTRACE_SETREGS, tid, 0, regs);
    }
    if (fault == SHORT && call->length_at > 0 && is_file(tid, call, regs)) {
        unsigned long long length = argument(regs, call->length_at);
        if (length > 1 && is_due(call->name)) {
            *later = (struct pending){SHORTENED, (signed char)call->length_at, length};
            set_argument(regs, call->length_at, length / 2);
            ptrace(PTRACE_SETREGS, tid, 0, regs);
        }
    }
    return 1;
}

static void leaving(pid_t tid, struct user_regs_struct *regs)
{
    struct pending *later = &pending[tid];
    if (later->kind == FAILS) {
        regs->rax = (unsigned long long)-(long)error;
        ptrace(PTRACE_SETREGS, tid, 0, regs);
    } else if (later->kind == SHORTENED) {
        // The compiler relies on it that a call keeps its arguments.
        set_argument(regs, later->at, later->value);
        ptrace(PTRACE_SETREGS, tid, 0, regs);
    } else if (fault == CLOCK && running && tid != criu && (long long)regs->rax == 0 && regs->rsi != 0 &&
               (long)regs->orig_rax == SYS_clock_gettime && (regs->rdi == CLOCK_REALTIME || regs->rdi == CLOCK_REALTIME_COARSE)) {
        if (is_due("clock_gettime"))
            ptrace(PTRACE_POKEDATA, tid, (void *)regs->rsi, (void *)(peek(tid, regs->rsi) + (unsigned long)shift));
    }
    later->kind = NOTHING;
}

// Until the file has the text or so many seconds are over, or nobody waits for it any more.
static void wait_for(pid_t parent, const char *file, const char *text, int seconds)
{
    struct timespec now, pause = {0, 2000000};
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (time_t until = now.tv_sec + seconds; getppid() == parent && now.tv_sec < until && !has(file, text);) {
        nanosleep(&pause, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
}

// Sends the signal when the file has the text; if that cannot be written, at some time all the same.
static pid_t watch(void)
{
    const char *file = getenv("CUT_FILE"), *text = getenv("CUT_TEXT"), *number = getenv("CUT_SIGNAL");
    const char *hurry = getenv("CUT_HURRY"), *enough = getenv("CUT_ENOUGH");
    if (!file || !text || !number || !hurry || !enough)
        die("CUT_");
    pid_t parent = getpid(), child = fork();
    if (child != 0)
        return child;
    // The text may be lost with a disk, and the payload goes on for ten seconds; otherwise it comes, on a busy machine late.
    wait_for(parent, file, text, fault == DISK || fault == ERROR ? 5 : 30);
    if (getppid() == parent)
        kill(program, atoi(number));
    // criu is slow where each of its calls is looked at.
    wait_for(parent, file, enough, fault == CRIU ? 5 : 2);
    if (getppid() == parent)
        close(open(hurry, O_WRONLY | O_CREAT, 0644));
    _exit(0);
}

static void read_fault(const char *word)
{
    char *end;
    long number = strtol(word, &end, 10);
    is_lasting = *word && word[strlen(word) - 1] == '+';
    if (end != word && *end == 's') {
        fault = CLOCK, shift = number, is_lasting = 1;
    } else if (end != word) {
        fault = ERROR, error = (int)number;
    } else {
        static const char *const words[] = {"kill", "init", "disk", "criu", "", "short"};
        for (size_t at = 0; at < sizeof words / sizeof *words; at++)
            if (strncmp(word, words[at], strlen(word) - (size_t)is_lasting) == 0 && *words[at]) {
                fault = at;
                return;
            }
        exit(200);
    }
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 200;
    const char *report = argv[1];
    read_fault(argv[2]);
    nth = atol(argv[3]);
    char **words = argv + 5;
    // The program goes with us (PTRACE_O_EXITKILL), and we with the test.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uid_t user = (uid_t)atoi(getenv("CUT_USER") ? getenv("CUT_USER") : "0");
    int go[2];
    if (pipe2(go, O_CLOEXEC) != 0)
        die("pipe2");
    program = fork();
    if (program == 0) {
        char byte;
        // What is not to be read by others is not to depend on it.
        umask(0);
        if (user && (setgid(user) != 0 || setuid(user) != 0))
            die("setuid");
        close(go[1]);
        while (read(go[0], &byte, 1) < 0 && errno == EINTR)
            ;
        execv(words[0], words);
        die(words[0]);
    }
    if (ptrace(PTRACE_SEIZE, program, 0,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) != 0)
        die("PTRACE_SEIZE");
    close(go[0]);
    close(go[1]);
    pid_t watcher = watch();

    int result = 0;
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
            pending[tid].kind = NOTHING;
            if (tid == criu)
                criu = 0;
            if (tid != program)
                continue;
            result = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
            break;
        }
        int signal = WSTOPSIG(status), event = status >> 16, deliver = 0;
        if (event == PTRACE_EVENT_EXEC) {
            running |= tid == program;
            if (fault == CLOCK)
                without_vdso(tid);
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
            if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
                leaving(tid, &regs);
            else if (!entering(tid, &regs))
                continue;
            // It is there as soon as we are waited for by it, or by the init.
            if (fault == CRIU && running && criu == 0 && (criu = criu_of(program)) != 0 &&
                ptrace(PTRACE_SEIZE, criu, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0)
                ptrace(PTRACE_INTERRUPT, criu, 0, 0);
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
    fprintf(out, "%d %ld %s\n", result, count, told);
    return fclose(out) == 0 ? 0 : 200;
}
