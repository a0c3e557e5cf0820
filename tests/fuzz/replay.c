/* Runs a fuzz target on its corpus without libFuzzer: each seed as it is, then a number of mutations of it
 * that are the same in every run. usage: replay FOLDER [MUTATIONS], TAP on stdout; or replay FILE… to look at
 * single inputs. */
#include "tests/fuzz/fuzz.h"

#include "base/rng.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) __attribute__((weak));

static struct rng rng;

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
{
    if (size == 0) {
        if (max) data[0] = (uint8_t)rng_u64(&rng);
        return max ? 1 : 0;
    }
    size_t i = rng_below(&rng, size), n = 1 + rng_below(&rng, size - i < 16 ? size - i : 16);
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '}', ']', ','};
    switch (rng_below(&rng, 6)) {
    case 0: data[i] ^= (uint8_t)(1u << rng_below(&rng, 8)); return size;
    case 1: data[i] = odd[rng_below(&rng, sizeof odd)]; return size;
    case 2: memset(data + i, rng_below(&rng, 2) ? 0xff : 0, n); return size;
    case 3: return i; /* cut the end off */
    case 4: memmove(data + i, data + i + n, size - i - n); return size - n;
    default:
        if (size + n > max) return size;
        memmove(data + i + n, data + i, size - i); /* doubles n bytes, or all that follow them */
        return size + n;
    }
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = NULL;
    long n = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) n = ftell(f);
    if (n >= 0) rewind(f);
    if (n >= 0) p = malloc((size_t)n + 1);
    if (p && fread(p, 1, (size_t)n, f) != (size_t)n) {
        free(p);
        p = NULL;
    }
    if (f) fclose(f);
    *size = p ? (size_t)n : 0;
    return p;
}

/* On memory of exactly that size, so that the sanitizer sees one byte too far. */
static void run_exact(const uint8_t *data, size_t size)
{
    uint8_t *p = malloc(size ? size : 1);
    if (!p) abort();
    if (size) memcpy(p, data, size);
    LLVMFuzzerTestOneInput(p, size);
    free(p);
}

static int replay(const char *path, long mutations)
{
    size_t size;
    uint8_t *seed = read_file(path, &size);
    if (!seed) return -1;
    size_t max = size + 256;
    uint8_t *data = malloc(max);
    if (!data) abort();
    run_exact(seed, size);
    for (long i = 0; i < mutations; i++) {
        memcpy(data, seed, size);
        size_t n = size;
        for (uint64_t k = 1 + rng_below(&rng, 3); k > 0; k--)
            n = LLVMFuzzerCustomMutator ? LLVMFuzzerCustomMutator(data, n, max, (unsigned)rng_u64(&rng))
                                        : LLVMFuzzerMutate(data, n, max);
        run_exact(data, n);
    }
    free(data);
    free(seed);
    return 0;
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    struct stat st;
    if (argc < 2) return 2;
    if (stat(argv[1], &st) != 0 || !S_ISDIR(st.st_mode)) {
        for (int i = 1; i < argc; i++)
            if (replay(argv[i], 0) != 0) return 1;
        return 0;
    }
    long mutations = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    struct dirent **names;
    int n = scandir(argv[1], &names, visible, alphasort), bad = n < 1;
    printf("1..%d\n", n < 1 ? 1 : n);
    if (n < 1) printf("not ok 1 - no seeds in %s\n", argv[1]);
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], names[i]->d_name);
        rng_init(&rng, 1 + (uint64_t)i);
        fprintf(stderr, "%s\n", names[i]->d_name); /* the last line before a crash */
        int rc = replay(path, mutations);
        printf("%s %d - %s\n", rc ? "not ok" : "ok", i + 1, names[i]->d_name);
        fflush(stdout);
        bad |= rc != 0;
        free(names[i]);
    }
    if (n >= 0) free(names);
    return bad;
}
