/* Two processes: a ring, a reduction and a gather in each step, small messages and large ones. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int rank, size, n, k;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    double *large = calloc(300000, sizeof *large), *other = calloc(300000, sizeof *other), sum = 0, all = 0;
    for (n = 0; n < 100; n++) {
        for (k = 0; k < 300000; k++) large[k] = large[k] * 0.5 + n + rank + k * 1e-6;
        MPI_Sendrecv(large, 300000, MPI_DOUBLE, (rank + 1) % size, 1, other, 300000, MPI_DOUBLE, (rank + size - 1) % size, 1,
                     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        sum = other[n] + rank;
        MPI_Allreduce(&sum, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        if (rank == 0) printf("step %d %.9f\n", n, all), fflush(stdout);
        usleep(100000);
    }
    MPI_Finalize();
    return 0;
}
