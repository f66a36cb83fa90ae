// Holds MIB MiB of numbers, a random walk, and writes 40 lines with their sum to OUT, one every 50 ms: walk OUT MIB
// In a thread that is not the first, so that there are two.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *out;
static size_t count;

static void *lines(void *unused) {
    double *walk = malloc(count * sizeof *walk + 1), at = 0;
    uint64_t x = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < count; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        at += (double)(x >> 11) / (double)(1ULL << 53) - 0.5;
        walk[i] = at;
    }
    for (int line = 1; line <= 40; line++) {
        double sum = 0;
        uint64_t bits;
        for (size_t i = 0; i < count; i++)
            sum += walk[i];
        memcpy(&bits, &sum, sizeof bits);
        fprintf(out, "%d %llu\n", line, (unsigned long long)bits);
        fflush(out);
        usleep(50000);
    }
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc != 3 || !(out = fopen(argv[1], "a")))
        return 1;
    count = (size_t)atol(argv[2]) << 17;
    return pthread_create(&thread, NULL, lines, NULL) || pthread_join(thread, NULL);
}
