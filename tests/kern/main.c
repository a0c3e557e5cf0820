/* Kernel harness: `kern` checks every tier's kernels and prints TAP; `kern --bench` measures them.
 *   kern [--filter "avx2 mv Q4_0"] [--bench [--threads N] [--seconds S]]
 * CALOR_SEED repeats a run. */
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

bool kt_wanted(const struct kt *k, const char *name)
{
    char padded[128], words[256], *save = NULL;
    snprintf(padded, sizeof padded, " %s ", name);
    snprintf(words, sizeof words, "%s", k->filter ? k->filter : "");
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char whole[258];
        snprintf(whole, sizeof whole, " %s ", w);
        if (!strstr(padded, whole)) return false;
    }
    return true;
}

void verdict_fail(struct verdict *v, const char *fmt, ...)
{
    if (v->failed) return; /* the first failure is the one to look at */
    v->failed = true;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->why, sizeof v->why, fmt, ap);
    va_end(ap);
}

void verdict_report(struct kt *k, const struct verdict *v, const char *name)
{
    if (v->failed)
        tap_ok(&k->tap, false, "%s: %s", name, v->why);
    else if (!v->ran)
        tap_skip(&k->tap, name, "nothing to run");
    else
        tap_ok(&k->tap, true, "%s (worst error %.2g of the limit)", name, v->worst);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct kt k = {.seed = 20240229, .threads = 1, .seconds = 0.3};
    bool bench = false;
    const char *seed = getenv("CALOR_SEED");
    if (seed) k.seed = strtoull(seed, NULL, 0);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            bench = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--filter") == 0) {
            k.filter = argv[++i];
        } else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0) {
            k.threads = atoi(argv[++i]);
        } else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) {
            k.seconds = atof(argv[++i]);
        } else {
            fprintf(stderr,
                    "usage: %s [--filter WORDS] [--bench [--threads N] [--seconds S]]\n"
                    "WORDS must all occur in a check's name: \"avx2 mv Q4_0\"\n",
                    argv[0]);
            return 2;
        }
    }
    if (bench) {
        bench_all(&k);
        return 0;
    }
    printf("# CALOR_SEED=%" PRIu64 ", this CPU: %s\n", k.seed, kern_cpu_features());
    for (int t = 0; t < KERN_TIERS; t++) {
        static const char *const names[] = {"ref", "avx2", "avx512", "amx"};
        if (!kern_tier((enum kern_tier)t)) tap_skip(&k.tap, names[t], "this CPU or build has no such tier");
    }
    check_products(&k);
    check_bits(&k);
    check_few(&k);
    check_planes(&k);
    check_listed(&k);
    check_down(&k);
    check_split(&k);
    check_vec(&k);
    check_attn(&k);
    return tap_done(&k.tap);
}
