/* A long walk of doubles with text in between: libm, stdio and the heap of whatever libc it was started with. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(void)
{
    double *at = calloc(1 << 16, sizeof *at);
    for (int step = 1; step <= 60; step++) {
        for (int i = 0; i < 1 << 16; i++)
            at[i] += sin(i * 0.001 + step) * exp(-i * 1e-5);
        char *line = malloc(100);
        snprintf(line, 100, "step %d sum %.12g", step, at[step] + at[65535]);
        printf("%s (%zu)\n", line, strlen(line));
        fflush(stdout);
        free(line);
        nanosleep(&(struct timespec){.tv_nsec = 80000000}, NULL);
    }
    return 42;
}
