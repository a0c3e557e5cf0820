/* Memory bandwidth by plain loops over arrays of doubles, as McCalpin's STREAM does it (sum, copy, scale,
 * triad): shares nothing with base/membw, which it checks.
 *
 *     stream [threads [MiB an array [repeats]]] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static size_t per_thread;
static int n_threads, repeats;
static pthread_barrier_t barrier;
static double *a, *b, *c;
static double total;
static pthread_mutex_t total_lock = PTHREAD_MUTEX_INITIALIZER;

enum { SUM, COPY, SCALE, TRIAD, KINDS };
static const char *const names[] = {"sum", "copy", "scale", "triad"};
static const int arrays[] = {1, 2, 2,
                             3}; /* touched by the program; a store's own read of its line not counted */
static double seconds[KINDS][1000];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double pass(int kind, size_t begin, size_t end)
{
    /* Independent sums: one would wait for the adder's latency, not for memory. */
    double s[32] = {0};
    switch (kind) {
    case SUM:
        for (size_t i = begin; i < end; i += 32)
            for (int k = 0; k < 32; k++) s[k] += a[i + (size_t)k];
        break;
    case COPY:
        for (size_t i = begin; i < end; i++) c[i] = a[i];
        break;
    case SCALE:
        for (size_t i = begin; i < end; i++) b[i] = 3.0 * c[i];
        break;
    default:
        for (size_t i = begin; i < end; i++) a[i] = b[i] + 3.0 * c[i];
    }
    for (int k = 1; k < 32; k++) s[0] += s[k];
    return s[0];
}

static void *work(void *arg)
{
    size_t id = *(int *)arg, begin = id * per_thread, end = begin + per_thread;
    for (size_t i = begin; i < end; i++) {
        a[i] = 1;
        b[i] = 2;
        c[i] = 0;
    }
    double sum = 0;
    for (int r = 0; r < repeats; r++)
        for (int kind = 0; kind < KINDS; kind++) {
            pthread_barrier_wait(&barrier);
            double t = now();
            sum += pass(kind, begin, end);
            pthread_barrier_wait(&barrier);
            if (id == 0) seconds[kind][r] = now() - t;
        }
    pthread_mutex_lock(&total_lock);
    total += sum;
    pthread_mutex_unlock(&total_lock);
    return NULL;
}

static int ascending(const void *x, const void *y)
{
    double p = *(const double *)x, q = *(const double *)y;
    return (p > q) - (p < q);
}

int main(int argc, char **argv)
{
    n_threads = argc > 1 ? atoi(argv[1]) : 1;
    size_t mib = argc > 2 ? (size_t)atol(argv[2]) : 512;
    repeats = argc > 3 ? atoi(argv[3]) : 10;
    if (n_threads < 1 || n_threads > 256 || mib < 1 || repeats < 1 || repeats > 1000) {
        fprintf(stderr, "usage: stream [threads [MiB an array [repeats]]]\n");
        return 2;
    }
    per_thread = (mib << 20) / sizeof *a / (size_t)n_threads / 64 * 64;
    size_t bytes = per_thread * (size_t)n_threads * sizeof *a;
    a = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    b = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    c = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!a || !b || !c) {
        fprintf(stderr, "stream: no memory\n");
        return 1;
    }
    /* Page walks are not what is measured; the arrays are touched by the threads that read them. */
    madvise(a, bytes, MADV_HUGEPAGE);
    madvise(b, bytes, MADV_HUGEPAGE);
    madvise(c, bytes, MADV_HUGEPAGE);
    pthread_barrier_init(&barrier, NULL, (unsigned)n_threads);
    pthread_t thread[256];
    int id[256];
    for (int i = 0; i < n_threads; i++) {
        id[i] = i;
        if (i && pthread_create(&thread[i], NULL, work, &id[i]) != 0) {
            fprintf(stderr, "stream: no thread\n");
            return 1;
        }
    }
    work(&id[0]);
    for (int i = 1; i < n_threads; i++) pthread_join(thread[i], NULL);
    printf("{\"threads\": %d, \"bytes_an_array\": %zu", n_threads, bytes);
    for (int kind = 0; kind < KINDS; kind++) {
        qsort(seconds[kind], (size_t)repeats, sizeof(double), ascending);
        double moved = (double)bytes * arrays[kind];
        printf(", \"%s\": {\"median\": %.4g, \"best\": %.4g}", names[kind],
               moved / seconds[kind][repeats / 2], moved / seconds[kind][0]);
    }
    printf(", \"check\": %g}\n", total);
    return 0;
}
