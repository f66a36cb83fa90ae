// The payload of the cuts: a line a step with a number that is only in memory, the same lines into a file of its own. It takes its
// time unless a hidden file, which no checkpoint carries, tells it to hurry: then the run that follows a cut is short.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 10;
    unsigned number = (unsigned)time(NULL) ^ (unsigned)clock();
    FILE *random = fopen("/dev/urandom", "r");
    if (!random || fread(&number, sizeof number, 1, random) != 1)
        return 1;
    fclose(random);
    static unsigned char memory[1 << 20];
    memset(memory, 7, sizeof memory);
    FILE *data = fopen("data.txt", "a");
    if (!data)
        return 1;
    for (int step = 1; step <= steps; step++) {
        memory[step] = (unsigned char)step;
        unsigned sum = 0;
        for (unsigned at = 0; at < sizeof memory; at += 64)
            sum += memory[at];
        printf("step%d %u %u\n", step, number, sum);
        fprintf(data, "step%d\n", step);
        fflush(stdout);
        fflush(data);
        struct timespec pause = {0, 25000000};
        if (access(".hurry", F_OK) != 0)
            nanosleep(&pause, NULL);
    }
    return 42;
}
