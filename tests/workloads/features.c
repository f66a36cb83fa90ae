/* features NAME: one thing of the kernel, made at the start and used in every step, so that it must come back right after every move. Each step
 * prints what it sees, which is the same in an uninterrupted run. A check that fails ends with its line number. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition) do { if (!(condition)) { printf("line %d: %s (%s)\n", __LINE__, #condition, strerror(errno)); exit(1); } } while (0)
#define STEPS 60

static int a, b, c, pair[2], many[1500];
static pid_t child;
static char *memory, buffer[4096];
static long value;

/* A child that answers every byte with the next letter. */
static void answer(int from, int to) {
    char byte;
    while (read(from, &byte, 1) == 1) {
        byte = 'a' + (byte - 'a' + 1) % 26;
        if (write(to, &byte, 1) != 1) break;
    }
    _exit(0);
}
static long ask(int to, int from, int n) {
    char byte = 'a' + n % 26;
    CHECK(write(to, &byte, 1) == 1);
    CHECK(read(from, &byte, 1) == 1);
    return byte;
}

static void *work(void *at) {
    static __thread unsigned long mine;
    unsigned long *sum = at;
    mine = *sum;
    for (int i = 0; i < 300000; i++) mine = mine * 6364136223846793005UL + 1442695040888963407UL;
    *sum = mine;
    return NULL;
}
static unsigned long sums[8];
static void threads_set(void) { for (int i = 0; i < 8; i++) sums[i] = i; }
static pthread_barrier_t barrier;
static void *turn(void *at) { for (;;) { pthread_barrier_wait(&barrier); work(at); pthread_barrier_wait(&barrier); } return NULL; }
static void threads(void) {
    pthread_t thread;
    threads_set();
    pthread_barrier_init(&barrier, NULL, 9);
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&thread, NULL, turn, &sums[i]) == 0);
}
static long threads_step(int n) {
    (void)n;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    unsigned long all = 0;
    for (int i = 0; i < 8; i++) all ^= sums[i];
    return all >> 1;
}

static void unix_stream(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "socket"};
    a = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(a, (void *)&name, sizeof name) == 0 && listen(a, 5) == 0);
    if ((child = fork()) == 0) {
        CHECK((c = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0 && connect(c, (void *)&name, sizeof name) == 0);
        answer(c, c);
    }
    CHECK((b = accept(a, NULL, NULL)) >= 0);
}
static long b_step(int n) { return ask(b, b, n); }

static void unix_datagram(void) {
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(write(pair[0], "waiting", 7) == 7);
}
static long unix_datagram_step(int n) {
    CHECK(read(pair[1], buffer, sizeof buffer) > 0);
    snprintf(buffer + 64, 64, "letter %d", n);
    CHECK(write(pair[0], buffer + 64, strlen(buffer + 64) + 1) > 0);
    return strlen(buffer);
}

static void tcp(void) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof name;
    a = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(a, (void *)&name, size) == 0 && listen(a, 5) == 0 && getsockname(a, (void *)&name, &size) == 0);
    if ((child = fork()) == 0) {
        CHECK((c = socket(AF_INET, SOCK_STREAM, 0)) >= 0 && connect(c, (void *)&name, size) == 0);
        answer(c, c);
    }
    CHECK((b = accept(a, NULL, NULL)) >= 0);
}
static void udp(void) {
    struct sockaddr_in name[2] = {{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}};
    socklen_t size = sizeof name[0];
    name[1] = name[0];
    int *sockets[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        *sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(bind(*sockets[i], (void *)&name[i], size) == 0 && getsockname(*sockets[i], (void *)&name[i], &size) == 0);
    }
    CHECK(connect(a, (void *)&name[1], size) == 0 && connect(b, (void *)&name[0], size) == 0);
    if ((child = fork()) == 0) answer(a, a);
}
/* A listener to which the program itself connects anew in each step. */
static long listen_step(int n) {
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    CHECK(getsockname(a, (void *)&name, &size) == 0);
    c = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(c, (void *)&name, size) == 0 && (b = accept(a, NULL, NULL)) >= 0);
    CHECK(write(c, &n, sizeof n) == sizeof n && read(b, &n, sizeof n) == sizeof n);
    struct linger now = {1, 0};
    setsockopt(c, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c), close(b);
    return n;
}
static void listener(void) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int yes = 1;
    a = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(a, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    CHECK(bind(a, (void *)&name, sizeof name) == 0 && listen(a, 5) == 0);
}

static void pty_set(void) {
    struct termios raw;
    CHECK(openpty(&a, &b, NULL, NULL, NULL) == 0 && tcgetattr(b, &raw) == 0);
    cfmakeraw(&raw);
    CHECK(tcsetattr(b, TCSANOW, &raw) == 0);
    if ((child = fork()) == 0) { setsid(); close(a); answer(b, b); }
}
static long a_step(int n) { return ask(a, a, n); }

static void inotify(void) {
    CHECK(mkdir("watched", 0700) == 0 && (a = inotify_init()) >= 0 && inotify_add_watch(a, "watched", IN_CREATE) >= 0);
}
static long inotify_step(int n) {
    snprintf(buffer, 64, "watched/%d", n);
    close(open(buffer, O_CREAT | O_WRONLY, 0600));
    struct inotify_event *event = (void *)buffer;
    CHECK(read(a, buffer, sizeof buffer) > 0);
    return atoi(event->name);
}

static void sysv_semaphores(void) {
    CHECK((a = semget(IPC_PRIVATE, 2, 0600)) >= 0);
    if ((child = fork()) == 0) {
        struct sembuf wait = {0, -1, 0}, post = {1, 2, 0};
        for (;;) CHECK(semop(a, &wait, 1) == 0 && semop(a, &post, 1) == 0);
    }
}
static long sysv_semaphores_step(int n) {
    struct sembuf post = {0, 1, 0}, wait = {1, -2, 0};
    (void)n;
    CHECK(semop(a, &post, 1) == 0 && semop(a, &wait, 1) == 0);
    return semctl(a, 0, GETVAL) * 10 + semctl(a, 1, GETVAL);
}
static void posix_semaphores(void) {
    memory = mmap(NULL, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_t *ping = (void *)memory, *pong = ping + 1;
    CHECK(sem_init(ping, 1, 0) == 0 && sem_init(pong, 1, 0) == 0);
    if ((child = fork()) == 0) for (;;) { sem_wait(ping); ++*(long *)(memory + 1024); sem_post(pong); }
}
static long posix_semaphores_step(int n) {
    (void)n;
    sem_post((void *)memory), sem_wait((sem_t *)memory + 1);
    return *(long *)(memory + 1024);
}
static void queue(void) {
    struct mq_attr size = {.mq_maxmsg = 4, .mq_msgsize = 64};
    CHECK((a = mq_open("/queue", O_CREAT | O_RDWR, 0600, &size)) >= 0 && mq_send(a, "first", 6, 1) == 0);
}
static long queue_step(int n) {
    CHECK(mq_receive(a, buffer, 64, NULL) > 0);
    long got = buffer[0];
    snprintf(buffer, 64, "%c", 'a' + n % 26);
    CHECK(mq_send(a, buffer, 2, 1) == 0);
    return got;
}

static void signal_descriptor(void) {
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 3);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && (a = signalfd(-1, &set, 0)) >= 0);
}
static long signal_descriptor_step(int n) {
    struct signalfd_siginfo info;
    kill(getpid(), n % 2 ? SIGUSR1 : SIGRTMIN + 3);
    CHECK(read(a, &info, sizeof info) == sizeof info);
    return info.ssi_signo;
}
static void timers(void) {
    struct itimerspec every = {{0, 50000000}, {0, 50000000}};
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    timer_t timer;
    CHECK((a = timerfd_create(CLOCK_MONOTONIC, 0)) >= 0 && timerfd_settime(a, 0, &every, NULL) == 0);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &every, NULL) == 0);
}
static long timers_step(int n) {
    unsigned long ticks;
    (void)n;
    CHECK(read(a, &ticks, sizeof ticks) == sizeof ticks && ticks > 0 && ticks < 1000);
    return 1;
}
static void event(void) { CHECK((a = eventfd(5, 0)) >= 0); }
static long event_step(int n) {
    unsigned long got;
    eventfd_write(a, 1);
    CHECK(read(a, &got, sizeof got) == sizeof got);
    (void)n;
    return got;
}
static void epoll(void) {
    struct epoll_event in = {.events = EPOLLIN, .data.u64 = 77};
    CHECK(pipe(pair) == 0 && (a = epoll_create1(0)) >= 0 && epoll_ctl(a, EPOLL_CTL_ADD, pair[0], &in) == 0);
}
static long epoll_step(int n) {
    struct epoll_event out;
    CHECK(epoll_wait(a, &out, 1, 0) == 0 && write(pair[1], &n, sizeof n) == sizeof n);
    CHECK(epoll_wait(a, &out, 1, 1000) == 1 && read(pair[0], &n, sizeof n) == sizeof n);
    return out.data.u64 + n;
}
static void pid_descriptor(void) {
    if ((child = fork()) == 0) for (;;) pause();
    CHECK((a = syscall(SYS_pidfd_open, child, 0)) >= 0);
}
static long pid_descriptor_step(int n) {
    struct pollfd ended = {a, POLLIN, 0};
    (void)n;
    return poll(&ended, 1, 0) * 10 + (syscall(SYS_pidfd_send_signal, a, 0, NULL, 0) == 0);
}

static void locks(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
    CHECK((a = open("locked", O_CREAT | O_RDWR, 0600)) >= 0 && flock(a, LOCK_EX) == 0);
    CHECK((b = open("range", O_CREAT | O_RDWR, 0600)) >= 0 && fcntl(b, F_SETLK, &lock) == 0);
}
static long locks_step(int n) {
    int status;
    (void)n;
    if (fork() == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_start = 12, .l_len = 1};
        CHECK((c = open("locked", O_RDWR)) >= 0);
        int held = flock(c, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK;
        _exit(held * 2 + (fcntl(open("range", O_RDWR), F_SETLK, &lock) == -1));
    }
    wait(&status);
    return WEXITSTATUS(status);
}
static void deleted(void) {
    CHECK((a = open("gone", O_CREAT | O_RDWR, 0600)) >= 0 && unlink("gone") == 0 && ftruncate(a, 3 << 20) == 0);
    CHECK((b = open(".", O_TMPFILE | O_RDWR, 0600)) >= 0 && mkdir("cwd", 0700) == 0);
}
static long numbers_step(int n) {
    long sum = 0, number = n;
    CHECK(pwrite(a, &number, 8, 8L * n) == 8);
    for (int i = 0; i <= n; i++) { CHECK(pread(a, &number, 8, 8L * i) == 8); sum += number; }
    return sum;
}
static void memory_file(void) { CHECK((a = memfd_create("file", 0)) >= 0); }
static void memory_mapped(void) {
    CHECK((a = memfd_create("map", 0)) >= 0 && ftruncate(a, 4096) == 0);
    memory = mmap(NULL, 4096, 3, MAP_SHARED, a, 0);
    close(a);
    CHECK(pipe(pair) == 0 && (b = fork()) >= 0);
    if (b == 0) { char byte; while (read(pair[0], &byte, 1) == 1) ++*memory; _exit(0); }
}
static long memory_mapped_step(int n) {
    (void)n;
    char before = *(volatile char *)memory;
    CHECK(write(pair[1], "", 1) == 1);
    while (*(volatile char *)memory == before) sched_yield();
    return *memory;
}
static void fifo(void) {
    CHECK(mkfifo("there", 0600) == 0 && mkfifo("back", 0600) == 0);
    if ((child = fork()) == 0) { a = open("there", O_RDONLY); answer(a, open("back", O_WRONLY)); }
    CHECK((a = open("there", O_WRONLY)) >= 0 && (b = open("back", O_RDONLY)) >= 0);
}
static long fifo_step(int n) { return ask(a, b, n); }
static void append(void) { CHECK((a = open("log", O_CREAT | O_WRONLY | O_APPEND, 0600)) >= 0 && (b = open("log", O_WRONLY | O_APPEND)) >= 0); }
static long append_step(int n) { dprintf(n % 2 ? a : b, "line %d\n", n); return lseek(a, 0, SEEK_END); }
static void sparse(void) { CHECK((a = open("sparse", O_CREAT | O_RDWR, 0600)) >= 0 && ftruncate(a, 10L << 30) == 0); }
static long sparse_step(int n) {
    long number = n, sum = 0;
    CHECK(pwrite(a, &number, 8, (160L << 20) * n + 4096) == 8);
    for (int i = 0; i <= n; i++) { CHECK(pread(a, &number, 8, (160L << 20) * i + 4096) == 8); sum += number; }
    return sum;
}
static void files(void) {
    for (int i = 0; i < 5000; i++) {
        snprintf(buffer, 64, "file%d", i);
        CHECK((a = open(buffer, O_CREAT | O_WRONLY, 0600)) >= 0 && write(a, &i, sizeof i) == sizeof i && close(a) == 0);
    }
}
static long files_step(int n) {
    int got;
    snprintf(buffer, 64, "file%d", n * 83);
    CHECK((a = open(buffer, O_RDONLY)) >= 0 && read(a, &got, sizeof got) == sizeof got && close(a) == 0);
    return got;
}
static void descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int i = 0; i < 1500; i++) {
        snprintf(buffer, 64, "open%d", i % 100);
        CHECK((many[i] = open(buffer, O_CREAT | O_RDWR, 0600)) >= 0);
        lseek(many[i], i, SEEK_SET);
    }
}
static long descriptors_step(int n) { return lseek(many[n * 24], 0, SEEK_CUR); }

static void zombie(void) { if ((child = fork()) == 0) _exit(9); }
static long zombie_step(int n) {
    siginfo_t info = {0};
    int status;
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    if (n == STEPS - 1) { CHECK(waitpid(child, &status, 0) == child); return WEXITSTATUS(status); }
    return info.si_status;
}
static char state_of(pid_t pid) {
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file) { CHECK(fscanf(file, "%*d %*s %c", &state) == 1); fclose(file); }
    return state;
}
static void stopped(void) { if ((child = fork()) == 0) for (;;) pause(); kill(child, SIGSTOP); waitpid(child, NULL, WUNTRACED); }
/* Right after a restore it may still be on its way into the stop. */
static long stopped_step(int n) {
    for (n = 0; n < 1000 && state_of(child) != 'T'; n++) usleep(1000);
    return state_of(child);
}
static void daemonised(void) {
    CHECK(pipe(pair) == 0);
    if (fork() == 0) {
        setsid();
        if ((child = fork()) == 0) for (;;) pause();
        CHECK(write(pair[1], &child, sizeof child) == sizeof child);
        _exit(0);
    }
    CHECK(read(pair[0], &child, sizeof child) == sizeof child);
    wait(NULL);
}
static long daemonised_step(int n) { (void)n; return (kill(child, 0) == 0) * 10 + (getsid(child) != getsid(0)); }
static void limits(void) {
    struct rlimit core = {0, 0}, stack = {1 << 20, 4 << 20};
    CHECK(setrlimit(RLIMIT_CORE, &core) == 0 && setrlimit(RLIMIT_STACK, &stack) == 0 && setpriority(PRIO_PROCESS, 0, 15) == 0);
    umask(027);
}
static long limits_step(int n) {
    struct rlimit stack;
    (void)n;
    getrlimit(RLIMIT_STACK, &stack);
    mode_t mask = umask(0);
    umask(mask);
    return stack.rlim_cur + stack.rlim_max + getpriority(PRIO_PROCESS, 0) * 1000 + mask;
}
static void on_stack(int number) {
    stack_t stack;
    sigaltstack(NULL, &stack);
    value = (stack.ss_flags & SS_ONSTACK ? 100 : 0) + number;
}
static void alternate(void) {
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction action = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
}
static long alternate_step(int n) { (void)n; raise(SIGUSR1); return value; }
static void pending(void) {
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < STEPS; i++) CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = i * 3}) == 0);
}
static long pending_step(int n) {
    sigset_t set;
    siginfo_t info;
    (void)n;
    sigemptyset(&set), sigaddset(&set, SIGRTMIN + 2);
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 2);
    return info.si_value.sival_int;
}
static void mapped_file(void) {
    CHECK((a = open("mapped", O_CREAT | O_RDWR, 0600)) >= 0 && ftruncate(a, 1 << 20) == 0);
    memory = mmap(NULL, 1 << 20, 3, MAP_SHARED, a, 0);
    CHECK(memory != MAP_FAILED);
}
static long mapped_file_step(int n) {
    long got;
    ((long *)memory)[n * 2000] = n * 7;
    CHECK(pread(a, &got, 8, n * 16000L) == 8);
    return got + ((long *)memory)[n * 1000];
}
static void clocks(void) { struct timespec now; clock_gettime(CLOCK_MONOTONIC, &now); value = now.tv_sec; }
static long clocks_step(int n) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    CHECK(now.tv_sec >= value && now.tv_sec < value + 30);
    value = now.tv_sec;
    return n;
}

static const struct feature { const char *name; void (*set)(void); long (*step)(int); } all[] = {
    {"threads", threads, threads_step}, {"unix-stream", unix_stream, b_step}, {"unix-datagram", unix_datagram, unix_datagram_step},
    {"tcp", tcp, b_step}, {"udp", udp, b_step}, {"listener", listener, listen_step}, {"pty", pty_set, a_step}, {"inotify", inotify, inotify_step},
    {"sysv-semaphores", sysv_semaphores, sysv_semaphores_step}, {"posix-semaphores", posix_semaphores, posix_semaphores_step},
    {"posix-queue", queue, queue_step}, {"signalfd", signal_descriptor, signal_descriptor_step}, {"timers", timers, timers_step},
    {"eventfd", event, event_step}, {"epoll", epoll, epoll_step}, {"pidfd", pid_descriptor, pid_descriptor_step}, {"locks", locks, locks_step},
    {"deleted", deleted, numbers_step}, {"memfd", memory_file, numbers_step}, {"memfd-mapped", memory_mapped, memory_mapped_step},
    {"fifo", fifo, fifo_step}, {"append", append, append_step}, {"sparse", sparse, sparse_step}, {"files", files, files_step},
    {"descriptors", descriptors, descriptors_step}, {"zombie", zombie, zombie_step}, {"stopped", stopped, stopped_step},
    {"daemon", daemonised, daemonised_step}, {"limits", limits, limits_step}, {"sigaltstack", alternate, alternate_step},
    {"pending", pending, pending_step}, {"mapped-file", mapped_file, mapped_file_step}, {"clocks", clocks, clocks_step},
};

int main(int argc, char **argv) {
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (argc < 2 || strcmp(argv[1], all[i].name)) continue;
        all[i].set();
        for (int n = 0; n < STEPS; n++) {
            printf("step %d %ld\n", n, all[i].step(n));
            fflush(stdout);
            usleep(100000);
        }
        signal(SIGTERM, SIG_IGN);
        if (child > 0) kill(child, SIGCONT), kill(child, SIGKILL);
        return 42;
    }
    return 2;
}
