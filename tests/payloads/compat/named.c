/* Named semaphores, shared memory and temporary files below /dev/shm, as POSIX describes them: every answer is printed, and two processes take
 * turns by semaphores whose names are gone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long result) {
    printf("%s %ld %s\n", what, result, result == -1 ? strerrorname_np(errno) : "");
    fflush(stdout);
}
#define SAY(call) say(#call, (long)(call))
#define OPENED(call) say(#call, (call) == SEM_FAILED ? -1 : 0)

int main(int argc, char **argv) {
    int steps = atoi(argv[1]), value;
    (void)argc;
    OPENED(sem_open("/none", 0));
    OPENED(sem_open("", O_CREAT, 0600, 1));
    OPENED(sem_open("a/b", O_CREAT, 0600, 1));
    OPENED(sem_open("/big", O_CREAT, 0600, 0x80000000u));
    SAY(sem_unlink("/none"));
    SAY(shm_unlink("/none"));
    SAY(shm_unlink("a/b"));
    SAY(unlink("/dev/shm/none"));
    SAY(unlink("/dev/shm"));
    SAY(unlink("/dev/shm/none/x"));
    sem_t *ping = sem_open("/ping", O_CREAT | O_EXCL, 0600, 0), *pong = sem_open("pong", O_CREAT, 0640, 3);
    OPENED(sem_open("/ping", O_CREAT | O_EXCL, 0600, 0));
    sem_t *again = sem_open("/ping", O_CREAT, 0600, 7);
    printf("same %d\n", again == ping);
    SAY(sem_close(again));
    SAY((sem_getvalue(pong, &value), value));
    struct stat status;
    SAY((stat("/dev/shm/sem.pong", &status), status.st_mode));
    SAY(status.st_size);
    SAY(sem_unlink("/ping"));
    SAY(sem_unlink("/ping"));
    OPENED(sem_open("/ping", 0));
    SAY(unlinkat(AT_FDCWD, "/dev/shm/sem.pong", 0));
    int memory = shm_open("/area", O_CREAT | O_RDWR, 0600);
    SAY(ftruncate(memory, 4096));
    int *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    close(memory);
    SAY(remove("/dev/shm/area"));
    SAY(shm_open("/area", O_RDWR, 0600));
    SAY(mkdir("/dev/shm/sub", 0700));
    SAY(remove("/dev/shm/sub"));
    SAY(syscall(SYS_getpid) == getpid());
    SAY(syscall(SYS_getpid + 100000));
    SAY(syscall(425, 0, 0));
    char *seven = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SAY((syscall(SYS_mmap, seven, 4096L, 3L, (long)(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED), -1L, 0L) == (long)seven));

    pid_t child = fork();
    if (child == 0) {
        for (int n = 0; n < steps; n++) {
            sem_wait(ping);
            area[0] = area[0] * 31 + n;
            sem_post(pong);
        }
        _exit(7);
    }
    for (int n = 0; n < 3; n++)
        sem_wait(pong);
    for (int n = 0; n < steps; n++) {
        sem_post(ping);
        sem_wait(pong);
        printf("step %d %d\n", n, area[0]);
        fflush(stdout);
        usleep(100000);
    }
    waitpid(child, &value, 0);
    SAY(WEXITSTATUS(value));
    SAY(sem_close(ping));
    SAY(sem_close(pong));
    SAY(munmap(area, 4096));

    /* Started in every way with an environment of its own, or none: the helper is in each, and what was there stays. */
    char *arguments[] = {"sh", "-c", "echo $0 ${KEPT-none}; grep -c compat.so /proc/self/maps >/dev/null || echo without", NULL, NULL};
    char *kept[] = {"KEPT=yes", "LD_PRELOAD=", NULL}, *none[] = {NULL};
    char *names[] = {"execve", "execv", "execvp", "execvpe", "fexecve", "posix_spawn", "posix_spawnp", "vfork"};
    for (int n = 0; n < 8; n++) {
        arguments[3] = names[n];
        if (n == 5 || n == 6) {
            (n == 5 ? posix_spawn : posix_spawnp)(&child, n == 5 ? "/bin/sh" : "sh", NULL, NULL, arguments, n == 5 ? kept : none);
        } else if ((child = n == 7 ? vfork() : fork()) == 0) {
            if (n == 0) execve("/bin/sh", arguments, kept);
            if (n == 1) clearenv(), execv("/bin/sh", arguments);
            if (n == 2) clearenv(), execvp("sh", arguments);
            if (n == 3) execvpe("sh", arguments, kept);
            if (n == 4) fexecve(open("/bin/sh", O_RDONLY | O_CLOEXEC), arguments, kept);
            if (n == 7) execve("/bin/sh", arguments, NULL);
            _exit(1);
        }
        waitpid(child, &value, 0);
        SAY(WEXITSTATUS(value));
    }
    return 42;
}
