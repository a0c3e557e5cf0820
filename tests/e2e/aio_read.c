/* aio_read FILE DEPTH [RING]: reads all 16 KiB pieces of a file, the last one first, with whatever back-end
 * there is. Prints its name, "direct" or "cached", "registered" or "plain", and the XXH3-64 of the bytes.
 * Under strace, which makes system calls fail, for test_aio.py. */
#include "base/err.h"
#include "io/aio.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <xxhash.h>

enum { PIECE = 16384 };

int main(int argc, char **argv)
{
    struct err e = {0};
    struct aio *a;
    if (argc < 3) return 2;
    struct aio_settings s = {.file = {{.path = argv[1]}}, .n_files = 1, .n_buffers = 1};
    s.depth = (unsigned)atoi(argv[2]);
    s.ring = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    const size_t most = 64 << 20;
    unsigned char *mem = mmap(NULL, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED) return 2;
    s.buffer[0].p = mem;
    s.buffer[0].n = most;
    if (aio_open(&a, &s, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    uint64_t size = aio_file_bytes(a, 0), left = size / PIECE, waiting = left;
    struct aio_done d[32];
    while (waiting) {
        while (left) {
            struct aio_read r = {(left - 1) * PIECE, mem + (left - 1) * PIECE, PIECE, 0, left};
            if (!aio_submit(a, &r, 1)) break;
            left--;
        }
        unsigned n = aio_wait(a, d, 1, 32);
        for (unsigned i = 0; i < n; i++) {
            if (d[i].error) {
                aio_explain(a, &d[i], &e);
                fprintf(stderr, "%s\n", e.msg);
                return 1;
            }
            waiting--;
        }
    }
    printf("%s %s %s %016llx\n", aio_name(a), aio_direct(a, 0) ? "direct" : "cached",
           aio_registered(a) ? "registered" : "plain",
           (unsigned long long)XXH3_64bits(mem, size / PIECE * PIECE));
    aio_close(&a);
    return 0;
}
