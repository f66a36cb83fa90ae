// Which system calls change a file or a process, what their arguments are, and what /proc tells of who makes them.
#pragma once
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <unistd.h>

struct call {
    long number;
    const char *name;
    int flags_at;   // which argument has open(2)'s flags; -1: none
    int file_at;    // which argument is a descriptor that must be a regular file's for an error; -1: none, -2: never an error
    int length_at;  // which argument is how many bytes are to be written, of which it may do less; 0: none
};

#define CALL(name, flags, file) {SYS_##name, #name, flags, file, 0}
#define WRITES(name, file, length) {SYS_##name, #name, -1, file, length}
static const struct call calls[] = {
    CALL(open, 1, -1), CALL(openat, 2, -1), CALL(creat, -1, -1),
    WRITES(write, 0, 2), WRITES(pwrite64, 0, 2), CALL(writev, -1, 0), CALL(pwritev, -1, 0), CALL(pwritev2, -1, 0),
    WRITES(sendfile, 0, 3), WRITES(copy_file_range, 2, 4), WRITES(splice, 2, 4), CALL(fallocate, -1, 0),
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

static void set_argument(struct user_regs_struct *regs, int at, unsigned long long value)
{
    unsigned long long *const all[] = {(void *)&regs->rdi, (void *)&regs->rsi, (void *)&regs->rdx,
                                       (void *)&regs->r10, (void *)&regs->r8,  (void *)&regs->r9};
    *all[at] = value;
}

static unsigned long long peek(pid_t tid, unsigned long long at)
{
    return (unsigned long long)ptrace(PTRACE_PEEKDATA, tid, (void *)at, 0);
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

// Whether the descriptor is a file's or a directory's.
static int is_file(pid_t tid, const struct call *call, const struct user_regs_struct *regs)
{
    char path[64];
    struct stat found;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, (int)argument(regs, call->file_at));
    return stat(path, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
}

// Whether a disk could let it fail.
static int may_fail(pid_t tid, const struct call *call, const struct user_regs_struct *regs)
{
    if (call->file_at == -2)
        return 0;
    // Without O_CREAT nothing new is written by open(2).
    if (call->flags_at >= 0)
        return (argument(regs, call->flags_at) & O_CREAT) != 0;
    return call->file_at == -1 || is_file(tid, call, regs);
}

// A small file's content, as far as there is room, with a zero behind it.
static size_t content(const char *file, char *into, size_t room)
{
    int from = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = from < 0 ? 0 : read(from, into, room - 1);
    close(from);
    into[length > 0 ? length : 0] = 0;
    return length > 0 ? (size_t)length : 0;
}

// Whether the file has the text.
static int has(const char *file, const char *text)
{
    static char all[1 << 20];
    content(file, all, sizeof all);
    return strstr(all, text) != NULL;
}

// The first child of a process for which it holds; 0 if there is none.
static pid_t child_of(pid_t parent, int (*holds)(pid_t))
{
    char path[64], children[4096], *at = children;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    content(path, children, sizeof children);
    for (pid_t child; (child = (pid_t)strtol(at, &at, 10)) > 0;)
        if (holds(child))
            return child;
    return 0;
}

// Whether it is the first process of a pid namespace.
static int is_init(pid_t pid)
{
    char path[64], status[4096];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    content(path, status, sizeof status);
    const char *line = strstr(status, "\nNSpid:"), *end = line ? strchr(line + 1, '\n') : NULL;
    return end && end - line > 2 && strncmp(end - 2, "\t1", 2) == 0;
}

static int is_criu(pid_t pid)
{
    char path[64], words[4096];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    size_t length = content(path, words, sizeof words);
    for (const char *word = words; word < words + length; word += strlen(word) + 1)
        if (strcmp(word, "dump") == 0 || strcmp(word, "restore") == 0)
            return 1;
    return 0;
}

static pid_t init_of(pid_t program)
{
    return child_of(program, is_init);
}

static pid_t criu_of(pid_t program)
{
    pid_t init = init_of(program);
    return init ? child_of(init, is_criu) : 0;
}
