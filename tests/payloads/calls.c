// Waits in every kind of blocking system call, each in the first thread of a process of its own and in a thread of one that waits in all. Those with a
// timeout end by it; the others, and some sleeps that a handler is to end, are ended when a file `go` is in the directory. Then one line for each
// is written: its name, where it waited, what it answered, errno, and how much too late it came, in milliseconds, if it had a time.
//
//     calls SECONDS [first | last]: which of its processes has a deleted file open
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
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
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static double seconds;

struct wait {
    int fd[2], other, child, word, number;
    int thread;
    pthread_t waiter;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pthread_barrier_t barrier;
    sem_t sem;
    sigset_t set;
    struct timespec time, rest;
    long long answer_at;
};

struct result {
    volatile int done;
    long answer;
    int error;
    long long took, rest;
};

static long long now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static struct timespec spec(long long ns) { return (struct timespec){ns / NS, ns % NS}; }
static long long length(void) { return (long long)(seconds * NS); }
static struct timespec time_of(void) { return spec(length()); }
static struct timespec at(clockid_t clock) { return spec(now(clock) + length()); }
static int ms(void) { return (int)(seconds * 1000); }

static void handler(int number) { (void)number; }

// What they wait for.
static void no(struct wait *w) { (void)w; }
static void a_pipe(struct wait *w) { if (pipe(w->fd)) abort(); }
static void full_pipe(struct wait *w) {
    static char much[65536];
    a_pipe(w);
    fcntl(w->fd[1], F_SETFL, O_NONBLOCK);
    while (write(w->fd[1], much, sizeof much) > 0) {}
    fcntl(w->fd[1], F_SETFL, 0);
}
static void a_fifo(struct wait *w) {
    char name[32];
    snprintf(name, sizeof name, "fifo.%d.%d", w->number, w->thread);
    if (mkfifo(name, 0600)) abort();
    w->fd[0] = w->fd[1] = open(name, O_RDWR);
}
static void a_pty(struct wait *w) { if (openpty(&w->fd[1], &w->fd[0], NULL, NULL, NULL)) abort(); }
static void sockets(struct wait *w) { if (socketpair(AF_UNIX, SOCK_STREAM, 0, w->fd)) abort(); }
static void sockets_with_time(struct wait *w) {
    struct timeval t = {seconds, (seconds - (long)seconds) * 1e6};
    sockets(w);
    setsockopt(w->fd[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}
static void an_eventfd(struct wait *w) { w->fd[0] = w->fd[1] = eventfd(0, 0); }
static void a_timerfd(struct wait *w) { w->fd[0] = timerfd_create(CLOCK_MONOTONIC, 0); }
static void a_signalfd(struct wait *w) { w->fd[0] = signalfd(-1, &w->set, 0); }
static void an_inotify(struct wait *w) {
    w->fd[0] = inotify_init1(0);
    if (inotify_add_watch(w->fd[0], "watched", IN_ATTRIB) < 0) abort();
}
static void an_epoll(struct wait *w) {
    struct epoll_event e = {.events = EPOLLIN};
    a_pipe(w);
    w->other = epoll_create1(0);
    epoll_ctl(w->other, EPOLL_CTL_ADD, w->fd[0], &e);
}
static void a_listener(struct wait *w) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path + 1, 90, "calls.%d.%d", w->number, w->thread);
    w->fd[0] = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(w->fd[0], (void *)&a, sizeof a) || listen(w->fd[0], 5)) abort();
}
static void a_mutex(struct wait *w) {
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->cond, NULL);
}
static void a_barrier(struct wait *w) { pthread_barrier_init(&w->barrier, NULL, 2); }
static void a_sem(struct wait *w) { sem_init(&w->sem, 0, 0); }
static void a_child(struct wait *w) {
    a_pipe(w);
    if ((w->child = fork()) == 0) {
        char c;
        close(w->fd[1]);
        read(w->fd[0], &c, 1);
        _exit(0);
    }
}
static void a_lock(struct wait *w) {
    char name[32];
    snprintf(name, sizeof name, "lock.%d.%d", w->number, w->thread);
    w->fd[0] = open(name, O_RDWR | O_CREAT, 0600);
    w->fd[1] = open(name, O_RDWR);
    if (flock(w->fd[1], LOCK_EX)) abort();
}
static void an_ofd_lock(struct wait *w) {
    char name[32];
    struct flock l = {.l_type = F_WRLCK};
    snprintf(name, sizeof name, "ofd.%d.%d", w->number, w->thread);
    w->fd[0] = open(name, O_RDWR | O_CREAT, 0600);
    w->fd[1] = open(name, O_RDWR);
    if (fcntl(w->fd[1], F_OFD_SETLK, &l)) abort();
}

// The calls.
static long reads(struct wait *w) { char b[4096]; return read(w->fd[0], b, sizeof b) > 0 ? 1 : -1; }
static long writes(struct wait *w) { char c = 1; return write(w->fd[1], &c, 1); }
static long reads_timer(struct wait *w) {
    struct itimerspec t = {.it_value = time_of()};
    timerfd_settime(w->fd[0], 0, &t, NULL);
    return reads(w);
}
static long opens(struct wait *w) {
    char name[32];
    snprintf(name, sizeof name, "fifo.%d.%d", w->number, w->thread);
    return open(name, O_RDONLY) >= 0 ? 1 : -1;
}
static void a_name(struct wait *w) {
    char name[32];
    snprintf(name, sizeof name, "fifo.%d.%d", w->number, w->thread);
    if (mkfifo(name, 0600)) abort();
}
static long polls(struct wait *w) { struct pollfd p = {w->fd[0], POLLIN}; return poll(&p, 1, -1); }
static long polls_t(struct wait *w) { struct pollfd p = {w->fd[0], POLLIN}; return poll(&p, 1, ms()); }
static long ppolls(struct wait *w) { struct pollfd p = {w->fd[0], POLLIN}; return ppoll(&p, 1, NULL, &w->set); }
static long ppolls_t(struct wait *w) {
    struct pollfd p = {w->fd[0], POLLIN};
    struct timespec t = time_of();
    return ppoll(&p, 1, &t, &w->set);
}
static long selects(struct wait *w) {
    fd_set s;
    FD_ZERO(&s);
    FD_SET(w->fd[0], &s);
    return select(w->fd[0] + 1, &s, NULL, NULL, NULL);
}
static long selects_t(struct wait *w) {
    struct timeval t = {seconds, (seconds - (long)seconds) * 1e6};
    fd_set s;
    FD_ZERO(&s);
    FD_SET(w->fd[0], &s);
    return select(w->fd[0] + 1, &s, NULL, NULL, &t);
}
static long pselects(struct wait *w) {
    fd_set s;
    FD_ZERO(&s);
    FD_SET(w->fd[0], &s);
    return pselect(w->fd[0] + 1, &s, NULL, NULL, NULL, &w->set);
}
static long pselects_t(struct wait *w) {
    struct timespec t = time_of();
    fd_set s;
    FD_ZERO(&s);
    FD_SET(w->fd[0], &s);
    return pselect(w->fd[0] + 1, &s, NULL, NULL, &t, &w->set);
}
static long epolls(struct wait *w) { struct epoll_event e; return epoll_wait(w->other, &e, 1, -1); }
static long epolls_t(struct wait *w) { struct epoll_event e; return epoll_wait(w->other, &e, 1, ms()); }
static long epolls2(struct wait *w) { struct epoll_event e; return epoll_pwait2(w->other, &e, 1, NULL, &w->set); }
static long epolls2_t(struct wait *w) {
    struct epoll_event e;
    struct timespec t = time_of();
    return epoll_pwait2(w->other, &e, 1, &t, &w->set);
}
static long sleeps(struct wait *w) { struct timespec t = time_of(); (void)w; return nanosleep(&t, NULL); }
static long sleeps_rest(struct wait *w) { struct timespec t = time_of(); return nanosleep(&t, &w->rest); }
static long sleeps_same(struct wait *w) { w->time = time_of(); return nanosleep(&w->time, &w->time); }
static long sleeps_us(struct wait *w) { (void)w; return usleep(ms() * 1000); }
static long sleeps_by(clockid_t clock, int flags, struct timespec t, struct timespec *rest) {
    errno = clock_nanosleep(clock, flags, &t, rest);
    return errno ? -1 : 0;
}
static long sleeps_mono(struct wait *w) { (void)w; return sleeps_by(CLOCK_MONOTONIC, 0, time_of(), NULL); }
static long sleeps_mono_rest(struct wait *w) { return sleeps_by(CLOCK_MONOTONIC, 0, time_of(), &w->rest); }
static long sleeps_real(struct wait *w) { (void)w; return sleeps_by(CLOCK_REALTIME, 0, time_of(), NULL); }
static long sleeps_until(struct wait *w) {
    (void)w;
    return sleeps_by(CLOCK_MONOTONIC, TIMER_ABSTIME, at(CLOCK_MONOTONIC), NULL);
}
static long sleeps_long(struct wait *w) {
    struct timespec t = spec(length() + 60 * NS);
    return nanosleep(&t, &w->rest);
}
static long sleeps_long_mono(struct wait *w) {
    return sleeps_by(CLOCK_MONOTONIC, 0, spec(length() + 60 * NS), &w->rest);
}
static long sems_long(struct wait *w) {
    struct timespec t = spec(now(CLOCK_REALTIME) + length() + 60 * NS);
    return sem_timedwait(&w->sem, &t);
}
static long polls_long(struct wait *w) { (void)w; return poll(NULL, 0, ms() + 60000); }
static long futex(struct wait *w, int op, struct timespec *t, unsigned bits) {
    return syscall(SYS_futex, &w->word, op, 0, t, NULL, bits);
}
static long futexes(struct wait *w) { return futex(w, FUTEX_WAIT_PRIVATE, NULL, 0); }
static long futexes_t(struct wait *w) { struct timespec t = time_of(); return futex(w, FUTEX_WAIT, &t, 0); }
static long futexes_private_t(struct wait *w) {
    struct timespec t = time_of();
    return futex(w, FUTEX_WAIT_PRIVATE, &t, 0);
}
static long futexes_until(struct wait *w) {
    struct timespec t = at(CLOCK_MONOTONIC);
    return futex(w, FUTEX_WAIT_BITSET_PRIVATE, &t, FUTEX_BITSET_MATCH_ANY);
}
static void *holds(void *of) {
    struct wait *w = of;
    char c;
    pthread_mutex_lock(&w->mutex);
    write(w->child, &c, 1);
    read(w->fd[0], &c, 1);
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}
static void a_held_mutex(struct wait *w) { a_mutex(w); a_pipe(w); }
static void begin_to_hold(struct wait *w) {
    pthread_t t;
    int ready[2];
    char c;
    if (pipe(ready)) abort();
    w->child = ready[1];
    pthread_create(&t, NULL, holds, w);
    read(ready[0], &c, 1);
    close(ready[0]);
    close(ready[1]);
}
static long answer(int error) { errno = error; return error ? -1 : 0; }
static long locks(struct wait *w) { begin_to_hold(w); return answer(pthread_mutex_lock(&w->mutex)); }
static long locks_t(struct wait *w) {
    begin_to_hold(w);
    struct timespec t = at(CLOCK_REALTIME);
    return answer(pthread_mutex_timedlock(&w->mutex, &t));
}
static long conds(struct wait *w) {
    pthread_mutex_lock(&w->mutex);
    int error = 0;
    while (!w->word && !error) error = pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
    return answer(error);
}
static long conds_t(struct wait *w) {
    struct timespec t = at(CLOCK_REALTIME);
    pthread_mutex_lock(&w->mutex);
    int error = 0;
    while (!w->word && !error) error = pthread_cond_timedwait(&w->cond, &w->mutex, &t);
    pthread_mutex_unlock(&w->mutex);
    return answer(error);
}
static long barriers(struct wait *w) { return pthread_barrier_wait(&w->barrier) > 0 ? 1 : 0; }
static void *reading(void *of) { reads(of); return NULL; }
static long joins(struct wait *w) {
    pthread_t t;
    pthread_create(&t, NULL, reading, w);
    return answer(pthread_join(t, NULL));
}
static long joins_t(struct wait *w) {
    pthread_t t;
    struct timespec until = at(CLOCK_REALTIME);
    pthread_create(&t, NULL, reading, w);
    return answer(pthread_timedjoin_np(t, NULL, &until));
}
static long sems(struct wait *w) { return sem_wait(&w->sem); }
static long sems_t(struct wait *w) { struct timespec t = at(CLOCK_REALTIME); return sem_timedwait(&w->sem, &t); }
static long waits(struct wait *w) { int s; return wait4(w->child, &s, 0, NULL) > 0 ? 1 : -1; }
static long waits_id(struct wait *w) { siginfo_t s; return waitid(P_PID, w->child, &s, WEXITED); }
static long sigwaits(struct wait *w) { return sigtimedwait(&w->set, NULL, NULL) > 0 ? 1 : -1; }
static long sigwaits_t(struct wait *w) { struct timespec t = time_of(); return sigtimedwait(&w->set, NULL, &t); }
static long suspends(struct wait *w) { return sigsuspend(&w->set); }
static long pauses(struct wait *w) { (void)w; return pause(); }
static long flocks(struct wait *w) { return flock(w->fd[0], LOCK_EX); }
static long ofd_locks(struct wait *w) { struct flock l = {.l_type = F_WRLCK}; return fcntl(w->fd[0], F_OFD_SETLKW, &l); }
static long accepts(struct wait *w) { return accept(w->fd[0], NULL, NULL) >= 0 ? 1 : -1; }
static long receives(struct wait *w) { char c; return recv(w->fd[0], &c, 1, 0); }

// What ends them.
static void writes_one(struct wait *w) { long long one = 1; write(w->fd[1], &one, 8); }
static void writes_line(struct wait *w) { write(w->fd[1], "\n", 1); }
static void reads_much(struct wait *w) { char b[65536]; read(w->fd[0], b, sizeof b); }
static void touches(struct wait *w) { (void)w; chmod("watched", 0640); chmod("watched", 0600); }
static void opens_too(struct wait *w) {
    char name[32];
    snprintf(name, sizeof name, "fifo.%d.%d", w->number, w->thread);
    w->fd[1] = open(name, O_WRONLY | O_NONBLOCK);
}
static void wakes(struct wait *w) { w->word = 1; futex(w, FUTEX_WAKE_PRIVATE, NULL, 0); syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }
static void signals_cond(struct wait *w) {
    pthread_mutex_lock(&w->mutex);
    w->word = 1;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}
static void comes(struct wait *w) { pthread_barrier_wait(&w->barrier); }
static void posts(struct wait *w) { sem_post(&w->sem); }
static void handled(struct wait *w) { pthread_kill(w->waiter, SIGUSR1); }
static void awaited(struct wait *w) { pthread_kill(w->waiter, SIGUSR2); }
static void unlocks(struct wait *w) { flock(w->fd[1], LOCK_UN); }
static void unlocks_ofd(struct wait *w) { struct flock l = {.l_type = F_UNLCK}; fcntl(w->fd[1], F_OFD_SETLK, &l); }
static void connects(struct wait *w) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path + 1, 90, "calls.%d.%d", w->number, w->thread);
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a);
}

enum how { ENDED, TIMED, LONG };
static const struct {
    const char *name;
    enum how how;
    void (*prepare)(struct wait *);
    long (*call)(struct wait *);
    void (*end)(struct wait *);
} kinds[] = {
    {"read(pipe)", ENDED, a_pipe, reads, writes_one},
    {"read(fifo)", ENDED, a_fifo, reads, writes_one},
    {"read(pty)", ENDED, a_pty, reads, writes_line},
    {"read(socket)", ENDED, sockets, reads, writes_one},
    {"read(eventfd)", ENDED, an_eventfd, reads, writes_one},
    {"read(signalfd)", ENDED, a_signalfd, reads, awaited},
    {"read(inotify)", ENDED, an_inotify, reads, touches},
    {"read(timerfd)", TIMED, a_timerfd, reads_timer, no},
    {"write(pipe)", ENDED, full_pipe, writes, reads_much},
    {"open(fifo)", ENDED, a_name, opens, opens_too},
    {"poll", ENDED, a_pipe, polls, writes_one},
    {"poll(timeout)", TIMED, a_pipe, polls_t, no},
    {"ppoll", ENDED, a_pipe, ppolls, writes_one},
    {"ppoll(timeout)", TIMED, a_pipe, ppolls_t, no},
    {"select", ENDED, a_pipe, selects, writes_one},
    {"select(timeout)", TIMED, a_pipe, selects_t, no},
    {"pselect", ENDED, a_pipe, pselects, writes_one},
    {"pselect(timeout)", TIMED, a_pipe, pselects_t, no},
    {"epoll_wait", ENDED, an_epoll, epolls, writes_one},
    {"epoll_wait(timeout)", TIMED, an_epoll, epolls_t, no},
    {"epoll_pwait2", ENDED, an_epoll, epolls2, writes_one},
    {"epoll_pwait2(timeout)", TIMED, an_epoll, epolls2_t, no},
    {"nanosleep", TIMED, no, sleeps, no},
    {"nanosleep(rest)", TIMED, no, sleeps_rest, no},
    {"nanosleep(rest=time)", TIMED, no, sleeps_same, no},
    {"usleep", TIMED, no, sleeps_us, no},
    {"clock_nanosleep(monotonic)", TIMED, no, sleeps_mono, no},
    {"clock_nanosleep(monotonic,rest)", TIMED, no, sleeps_mono_rest, no},
    {"clock_nanosleep(realtime)", TIMED, no, sleeps_real, no},
    {"clock_nanosleep(absolute)", TIMED, no, sleeps_until, no},
    {"futex(wait)", ENDED, no, futexes, wakes},
    {"futex(wait,timeout)", TIMED, no, futexes_t, no},
    {"futex(wait,private,timeout)", TIMED, no, futexes_private_t, no},
    {"futex(wait_bitset,absolute)", TIMED, no, futexes_until, no},
    {"pthread_mutex_lock", ENDED, a_held_mutex, locks, writes_one},
    {"pthread_mutex_timedlock", TIMED, a_held_mutex, locks_t, no},
    {"pthread_cond_wait", ENDED, a_mutex, conds, signals_cond},
    {"pthread_cond_timedwait", TIMED, a_mutex, conds_t, no},
    {"pthread_barrier_wait", ENDED, a_barrier, barriers, comes},
    {"pthread_join", ENDED, a_pipe, joins, writes_one},
    {"pthread_timedjoin_np", TIMED, a_pipe, joins_t, no},
    {"sem_wait", ENDED, a_sem, sems, posts},
    {"sem_timedwait", TIMED, a_sem, sems_t, no},
    {"wait4", ENDED, a_child, waits, writes_one},
    {"waitid", ENDED, a_child, waits_id, writes_one},
    {"sigwaitinfo", ENDED, no, sigwaits, awaited},
    {"sigtimedwait", TIMED, no, sigwaits_t, no},
    {"sigsuspend", ENDED, no, suspends, handled},
    {"pause", ENDED, no, pauses, handled},
    {"flock", ENDED, a_lock, flocks, unlocks},
    {"fcntl(F_OFD_SETLKW)", ENDED, an_ofd_lock, ofd_locks, unlocks_ofd},
    {"accept", ENDED, a_listener, accepts, connects},
    {"recv", ENDED, sockets, receives, writes_one},
    {"recv(SO_RCVTIMEO)", TIMED, sockets_with_time, receives, no},
    {"nanosleep(handler)", LONG, no, sleeps_long, handled},
    {"clock_nanosleep(handler)", LONG, no, sleeps_long_mono, handled},
    {"poll(handler)", ENDED, no, polls_long, handled},
    {"sem_timedwait(handler)", ENDED, a_sem, sems_long, handled},
};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))

static struct wait waits_of[2][KINDS];
static struct result (*results)[KINDS];
static int go[2];

static void *wait_in(void *of) {
    struct wait *w = of;
    struct result *r = &results[w->thread][w->number];
    w->waiter = pthread_self();
    long long began = now(CLOCK_MONOTONIC);
    errno = 0;
    r->answer = kinds[w->number].call(w);
    r->error = r->answer < 0 ? errno : 0;
    r->took = now(CLOCK_MONOTONIC) - began;
    r->rest = w->rest.tv_sec * NS + w->rest.tv_nsec;
    r->done = 1;
    return NULL;
}

// Ends those from `of` on when it is time.
static void *ender(void *of) {
    struct wait *w = of;
    char c;
    while (read(go[0], &c, 1) < 0) {}
    if (w->thread) {
        for (int i = 0; i < KINDS; i++) kinds[i].end(&waits_of[1][i]);
    } else {
        kinds[w->number].end(w);
    }
    return NULL;
}

static void prepare(struct wait *w, int number, int thread) {
    w->number = number;
    w->thread = thread;
    sigemptyset(&w->set);
    int awaits = kinds[number].call == sigwaits || kinds[number].call == sigwaits_t || kinds[number].prepare == a_signalfd;
    if (awaits) sigaddset(&w->set, SIGUSR2);
    kinds[number].prepare(w);
}

int main(int count, char **words) {
    seconds = count > 1 ? atof(words[1]) : 4;
    results = mmap(NULL, sizeof *results * 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sigset_t awaited_ones;
    sigemptyset(&awaited_ones);
    sigaddset(&awaited_ones, SIGUSR2);
    sigprocmask(SIG_BLOCK, &awaited_ones, NULL);
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    close(open("watched", O_CREAT | O_RDWR, 0600));
    // With the fake criu of the test this is one too many.
    int last = count > 2 && !strcmp(words[2], "last");
    int ghost = open("ghost", O_CREAT | O_RDWR, 0600);
    if (pipe(go) || ftruncate(ghost, 100) || write(ghost, "ghost", 5) != 5 || unlink("ghost")) abort();
    for (int i = 0; i < KINDS; i++) {
        if (fork()) continue;
        close(go[1]);
        close(ghost);
        pthread_t t;
        prepare(&waits_of[0][i], i, 0);
        waits_of[0][i].waiter = pthread_self();
        pthread_create(&t, NULL, ender, &waits_of[0][i]);
        wait_in(&waits_of[0][i]);
        pause();
    }
    if (fork() == 0) {
        close(go[1]);
        if (!last) close(ghost);
        pthread_t t;
        for (int i = 0; i < KINDS; i++) prepare(&waits_of[1][i], i, 1);
        for (int i = 0; i < KINDS; i++) pthread_create(&t, NULL, wait_in, &waits_of[1][i]);
        pthread_create(&t, NULL, ender, &waits_of[1][0]);
        pause();
    }
    if (last) close(ghost);
    struct timespec little = {0, 300000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &little, &little) == EINTR) {}
    printf("waiting\n");
    fflush(stdout);
    while (access("go", F_OK)) {
        struct timespec until = spec(now(CLOCK_MONOTONIC) + NS / 100);
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {}
    }
    close(go[1]);
    long long deadline = now(CLOCK_MONOTONIC) + length() + 3 * NS;
    for (int i = 0; i < 2 * KINDS && now(CLOCK_MONOTONIC) < deadline;) {
        if (results[i / KINDS][i % KINDS].done) {
            i++;
            continue;
        }
        struct timespec until = spec(now(CLOCK_MONOTONIC) + NS / 100);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    for (int i = 0; i < 2 * KINDS; i++) {
        struct result *r = &results[i / KINDS][i % KINDS];
        enum how how = kinds[i % KINDS].how;
        const char *where = i < KINDS ? "main" : "thread";
        long long whole = r->took + (how == LONG ? r->rest - 60 * NS : 0);
        printf("%s %s ", kinds[i % KINDS].name, where);
        if (!r->done) printf("never\n");
        else if (how == ENDED) printf("%ld %s -\n", r->answer, r->error ? strerrorname_np(r->error) : "-");
        else printf("%ld %s %.1f\n", r->answer, r->error ? strerrorname_np(r->error) : "-", (whole - length()) / 1e6);
    }
    printf("end\n");
    fflush(stdout);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    for (int i = 0; i < KINDS + 1; i++) wait(NULL);
    return 0;
}
