/* The payload of ./bench: fills memory, starts processes, makes files, and then shows every few milliseconds that it runs.
 *
 *     payload CONTENT MIB PROCESSES FILES     CONTENT: zeros, random, walk, text
 *     payload lammps CELLS 1 1                a running LAMMPS of CELLS³ · 4 atoms
 *     payload spin SECONDS                    pure cpu of a fixed amount; prints what it took
 *
 * A line of output is the time in nanoseconds; the first is "ready". Once the file `check` is in the working directory it
 * compares its memory with what it was and ends: 0 if every byte is the same. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static double uniform(void) { return (double)(next() >> 11) / 9007199254740992.0; }

/* Normal steps, by Box and Muller: the mantissas of a walk with steps of equal distribution would be simpler than real ones. */
static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

static void fill(const char *content, char *memory, size_t size) {
    static const char *words[] = {"energy", "step", "0.125", "the", "residual", "of", "iteration", "converged", "cell", "=", "and", "17"};
    size_t at = 0;
    double x = 0;
    for (; !strcmp(content, "random") && at < size; at += 8) *(uint64_t *)(memory + at) = next();
    for (; !strcmp(content, "walk") && at < size; at += 8) *(double *)(memory + at) = x += normal();
    while (!strcmp(content, "text") && at + 64 < size)
        at += sprintf(memory + at, "%s %u%c", words[next() % 12], (unsigned)(next() % 1000), next() % 8 ? ' ' : '\n');
    /* Written, so that the pages exist: the kernel's own zero page is not saved by anybody. */
    for (; !strcmp(content, "zeros") && at < size; at += 4096) *(volatile char *)(memory + at) = 0;
}

static uint64_t sum(const char *memory, size_t size) {
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += 8) sum = sum * 31 + *(const uint64_t *)(memory + at);
    return sum;
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void say(const char *text) {
    struct timespec t;
    char line[64];
    clock_gettime(CLOCK_REALTIME, &t);
    int length = snprintf(line, sizeof line, "%s%lld%09ld\n", text, (long long)t.tv_sec, t.tv_nsec);
    if (write(1, line, length) != length) exit(3);
}

/* A melt of Lennard-Jones atoms that runs for ever; ready when it has taken its first steps. */
static pid_t lammps(const char *cells) {
    FILE *input = fopen("in.melt", "w");
    if (!input || fprintf(input,
                          "units lj\natom_style atomic\nlattice fcc 0.8442\nregion box block 0 %s 0 %s 0 %s\ncreate_box 1 box\n"
                          "create_atoms 1 box\nmass 1 1.0\nvelocity all create 1.44 87287\npair_style lj/cut 2.5\npair_coeff 1 1 1.0 1.0 2.5\n"
                          "fix 1 all nve\nthermo 1\nthermo_modify flush yes\nrun 100000000\n",
                          cells, cells, cells) < 0 || fclose(input))
        exit(5);
    pid_t child = fork();
    if (child == 0) {
        int out = open("melt.out", O_WRONLY | O_CREAT | O_APPEND, 0644);
        dup2(out, 1);
        dup2(out, 2);
        close(out);
        execlp("lmp", "lmp", "-in", "in.melt", "-log", "none", (char *)NULL);
        _exit(127);
    }
    for (char text[65536];; usleep(20000)) {
        FILE *out = fopen("melt.out", "r");
        text[out ? fread(text, 1, sizeof text - 1, out) : 0] = 0;
        if (out) fclose(out);
        char *steps = strstr(text, "Step");
        if (steps && strstr(steps, "\n       2 ")) return child;
        if (waitpid(child, NULL, WNOHANG) == child) exit(7);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "spin")) {
        double began = now(CLOCK_MONOTONIC);
        double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t x = 0;
        /* About 10^9 steps are a second on processors of 2020: an amount, since the question is how long it takes. */
        for (uint64_t left = (uint64_t)(atof(argv[2]) * 1e9); left; left--) x = x * 6364136223846793005u + left;
        printf("spun %.6f %.6f %d\n", now(CLOCK_MONOTONIC) - began, now(CLOCK_PROCESS_CPUTIME_ID) - cpu, (int)(x & 1));
        return 0;
    }
    if (argc != 5) return 2;
    if (!strcmp(argv[1], "lammps")) {
        pid_t child = lammps(argv[2]);
        say("ready ");
        while (access("check", F_OK)) {
            usleep(5000);
            say("");
        }
        /* It must still run, in the middle of its steps. */
        return waitpid(child, NULL, WNOHANG) || kill(child, SIGKILL) ? 6 : 0;
    }
    size_t size = (size_t)atol(argv[2]) << 20;
    char *memory = mmap(NULL, size ? size : 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 4;
    /* Small pages for all contents: which pages are huge depends on the machine's state and would only add noise. */
    madvise(memory, size, MADV_NOHUGEPAGE);
    fill(argv[1], memory, size);
    uint64_t before = sum(memory, size);
    for (int file = atoi(argv[4]); file > 0; file--) {
        char name[64], content[1024];
        for (size_t at = 0; at < sizeof content; at += 8) *(uint64_t *)(content + at) = next() & 0x0f0f0f0f0f0f0f0fu;
        snprintf(name, sizeof name, "made-%05d", file);
        FILE *made = fopen(name, "w");
        if (!made || fwrite(content, 1, sizeof content, made) != sizeof content || fclose(made)) return 5;
    }
    /* The big memory is not the children's: a count of processes must not be a count of shared pages. */
    for (int child = atoi(argv[3]); child > 1; child--)
        if (fork() == 0) {
            munmap(memory, size);
            char *own = malloc(256 << 10);
            for (int at = 0; at < 256 << 10; at += 8) *(uint64_t *)(own + at) = next() * (child + 1);
            for (;;) pause();
        }
    say("ready ");
    while (access("check", F_OK)) {
        usleep(5000);
        say("");
    }
    return sum(memory, size) == before ? 0 : 6;
}
