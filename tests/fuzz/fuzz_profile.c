/* The profile reader, on whatever is a GGUF container: what it accepts must be usable to the last byte. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/strbuf.h"
#include "io/gguf_priv.h"
#include "placement/profile_priv.h"

#include <string.h>

static volatile double sink; /* keeps the reads */

static void use_layer(const struct profile *p, uint32_t layer, uint32_t *list)
{
    uint32_t f = profile_subject(p)->neurons, n, partner[PROFILE_PARTNERS];
    float share[PROFILE_PARTNERS], epsilon;
    struct err e;
    for (uint32_t i = 0; i < f; i++) {
        PROMISE(profile_order(p, layer)[i] < f);
        sink =
            sink + (double)profile_mean_magnitude(p, layer)[i] + (double)profile_p99_magnitude(p, layer)[i];
        int partners = profile_partners(p, layer, i, partner, share);
        for (int k = 0; k < partners; k++) PROMISE(partner[k] < f && share[k] > 0.0f && share[k] <= 1.0f);
    }
    for (uint32_t run = 0; run < profile_runs(p); run++) {
        struct profile_walk w;
        int64_t count;
        uint32_t tokens = 0;
        profile_walk_init(&w, p, layer, run);
        for (; (count = profile_walk_next(&w, list)) >= 0; tokens++) {
            PROMISE(count <= f);
            for (int64_t i = 0; i < count; i++) PROMISE(list[i] < f && (i == 0 || list[i] > list[i - 1]));
        }
        PROMISE(tokens == profile_run(p, run)->tokens);
    }
    for (int t = 0; t < PROFILE_TEXTS; t++) {
        double sparsity = profile_sparsity(p, layer, (enum profile_text)t);
        PROMISE(!(sparsity < 0.0) && !(sparsity > 1.0));
        sink = sink + profile_coverage(p, layer, (enum profile_text)t, 0.3);
    }
    if (profile_epsilon_for(p, layer, 0.2, &epsilon, &e) == 0) PROMISE(epsilon >= 0.0f);
    profile_curve(p, layer, &n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct gguf *f;
    struct profile *p, *twice;
    if (gguf_open_memory(&f, data, size, "fuzz", GGUF_MMAP, &e)) return 0;
    int rc = profile_from_gguf(&p, f, &e);
    gguf_close(&f);
    PROMISE((rc == 0) == (p != NULL));
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM));
    if (rc) return 0;
    uint32_t *list = malloc(profile_subject(p)->neurons * sizeof *list);
    if (!list) abort();
    for (uint32_t i = 0; i < profile_subject(p)->layers; i++) use_layer(p, i, list);
    free(list);
    const struct profile_ppl *found = profile_ppl(p);
    uint32_t steps;
    const struct profile_ppl_point *step = profile_ppl_steps(p, &steps);
    PROMISE((found != NULL) == (steps > 0));
    for (uint32_t i = 0; i < steps; i++)
        PROMISE(step[i].perplexity > 0.0f && (i == 0 || step[i].cett >= step[i - 1].cett));
    struct strbuf b;
    strbuf_init(&b);
    profile_report_text(p, &b);
    PROMISE(profile_report_html(p, &b, &e) == 0);
    json_t *j = profile_report_json(p);
    PROMISE(j);
    json_decref(j);
    strbuf_finish(&b);
    if (profile_merge(&twice, p, p, &e) == 0) {
        PROMISE(profile_tokens(twice, PROFILE_HELD_OUT) == 2 * profile_tokens(p, PROFILE_HELD_OUT));
        profile_close(&twice);
    }
    profile_close(&p);
    return 0;
}
