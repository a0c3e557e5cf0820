/* Attention: every tier against plain double arithmetic, in the shapes models have: one query and many,
 * groups, windows, contexts that end inside a block, head sizes with and without a tail. */
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <stdlib.h>

struct shape {
    int64_t T, pos0, window;
    int group, head_dim;
    enum { PLAIN, PEAKED, EQUAL, LARGE } fill;
};

static const struct shape shapes[] = {
    {1, 0, 0, 1, 128, PLAIN},
    {1, 1, 0, 4, 64, PLAIN},
    {1, 15, 0, 1, 64, PLAIN},
    {1, 62, 0, 2, 128, PLAIN},
    {1, 63, 0, 8, 128, PLAIN},
    {1, 64, 0, 3, 96, PLAIN},
    {1, 65, 0, 5, 80, PLAIN},
    {1, 777, 0, 7, 32, PLAIN},
    {1, 3000, 0, 8, 128, PLAIN},
    {1, 1000, 100, 4, 128, PLAIN},
    {1, 1000, 1, 2, 64, PLAIN},
    {1, 500, 64, 1, 256, PLAIN},
    {1, 200, 0, 71, 64, PLAIN},
    {1, 300, 0, 9, 128, PLAIN},
    {2, 10, 0, 4, 128, PLAIN},
    {2, 200, 3, 4, 64, PLAIN},
    {3, 62, 0, 1, 128, PLAIN},
    {5, 100, 0, 1, 64, PLAIN},
    {7, 0, 0, 1, 128, PLAIN},
    {8, 120, 5, 1, 32, PLAIN},
    {9, 0, 0, 1, 64, PLAIN},
    {9, 60, 0, 4, 128, PLAIN},
    {16, 0, 0, 1, 128, PLAIN},
    {17, 5, 0, 2, 64, PLAIN},
    {33, 100, 20, 1, 128, PLAIN},
    {64, 0, 0, 1, 128, PLAIN},
    {65, 130, 0, 1, 96, PLAIN},
    {100, 0, 7, 3, 32, PLAIN},
    {128, 300, 64, 1, 128, PLAIN},
    {200, 0, 0, 1, 64, PLAIN},
    {96, 700, 0, 2, 256, PLAIN},
    {1, 400, 0, 2, 128, PEAKED},
    {70, 90, 0, 1, 128, PEAKED},
    {1, 400, 0, 2, 128, EQUAL},
    {70, 90, 0, 1, 64, EQUAL},
    {1, 400, 0, 2, 128, LARGE},
    {70, 90, 30, 1, 64, LARGE},
    /* Not a multiple of a vector, or shorter than one: F32 and F16 caches only. */
    {1, 100, 0, 2, 8, PLAIN},
    {40, 10, 0, 2, 8, PLAIN},
    {1, 100, 0, 1, 72, PLAIN},
    {40, 10, 0, 1, 72, PLAIN},
    {3, 30, 0, 1, 20, PLAIN},
    {19, 30, 0, 1, 20, PLAIN},
    {1, 30, 0, 1, 1, PLAIN},
    {12, 30, 0, 1, 3, PLAIN},
};

struct setting {
    const struct kern_ops *ops;
    struct kern_attn a;
};

static void run(void *arg)
{
    const struct setting *s = arg;
    s->ops->attn(&s->a);
}

/* Plain double attention over decoded rows, one head of one token. */
static void oracle(const struct kern_attn *a, const float *k, const float *v, int64_t t, int g, double *out)
{
    int64_t last = a->pos0 + t, first = a->window && last + 1 > a->window ? last + 1 - a->window : 0;
    const float *q = a->q + t * a->ldq + (ptrdiff_t)g * a->head_dim;
    double max = -INFINITY, weights = 0, *score = malloc((size_t)(last + 1) * sizeof *score);
    for (int64_t p = first; p <= last; p++) {
        double sum = 0;
        for (int d = 0; d < a->head_dim; d++) sum += (double)q[d] * k[p * a->head_dim + d];
        score[p] = sum * a->scale;
        max = fmax(max, score[p]);
    }
    for (int d = 0; d < a->head_dim; d++) out[d] = 0;
    for (int64_t p = first; p <= last; p++) {
        double e = exp(score[p] - max);
        weights += e;
        for (int d = 0; d < a->head_dim; d++) out[d] += e * v[p * a->head_dim + d];
    }
    for (int d = 0; d < a->head_dim; d++) out[d] /= weights;
    free(score);
}

static void one(struct verdict *v, const struct shape *s, enum dtype type, const struct kern_ops *ops,
                uint64_t seed)
{
    int64_t positions = s->pos0 + s->T;
    size_t n = (size_t)positions * (size_t)s->head_dim;
    uint64_t row;
    dtype_row_bytes(type, (uint64_t)s->head_dim, &row);
    struct guarded q, k, val, out, scratch;
    struct setting set = {.ops = ops};
    struct kern_attn *a = &set.a;
    struct rng rng;
    rng_init(&rng, seed);
    a->T = s->T;
    a->pos0 = s->pos0;
    a->window = s->window;
    a->group = s->group;
    a->head_dim = s->head_dim;
    a->kv_type = type;
    a->scale = (float)(1 / sqrt(s->head_dim));
    a->k_row_bytes = (size_t)row + 2 * (size_t)pick(&rng, 3);
    a->v_row_bytes = (size_t)row + 34 * (size_t)pick(&rng, 2);
    a->ldq = s->group * s->head_dim + pick(&rng, 3);
    a->ldo = s->group * s->head_dim + pick(&rng, 3);
    guard_make(&q, (size_t)((s->T - 1) * a->ldq + s->group * s->head_dim) * sizeof(float));
    guard_make(&out, (size_t)((s->T - 1) * a->ldo + s->group * s->head_dim) * sizeof(float));
    guard_make(&k, (size_t)(positions - 1) * a->k_row_bytes + (size_t)row);
    guard_make(&val, (size_t)(positions - 1) * a->v_row_bytes + (size_t)row);
    guard_make(&scratch, ops->attn_scratch_bytes(s->T, s->group, s->head_dim));
    memset(scratch.p, 0x7f, scratch.n); /* NaNs: nothing may depend on what was there before */
    memset(k.p, 0xff, k.n);
    memset(val.p, 0xff, val.n);
    static const uint32_t hole = 0x7fc0dead;
    for (size_t i = 0; i < out.n / 4; i++) memcpy(out.p + 4 * i, &hole, 4);
    float *kf = malloc(n * sizeof *kf), *vf = malloc(n * sizeof *vf);
    fill_floats(&rng, X_NORMAL, (float *)q.p, (int64_t)(q.n / 4));
    fill_floats(&rng, s->fill == EQUAL ? X_CONST : X_NORMAL, kf, (int64_t)n);
    fill_floats(&rng, X_NORMAL, vf, (int64_t)n);
    double boost = s->fill == PEAKED ? 12 : s->fill == LARGE ? 300 : 1;
    for (size_t i = 0; i < n; i++) kf[i] = (float)(kf[i] * boost);
    const struct kern_ops *ref = kern_tier(KERN_REF);
    for (int64_t p = 0; p < positions; p++) {
        unsigned char *kp = k.p + (size_t)p * a->k_row_bytes, *vp = val.p + (size_t)p * a->v_row_bytes;
        ref->kv_store(type, kp, kf + p * s->head_dim, s->head_dim);
        ref->kv_store(type, vp, vf + p * s->head_dim, s->head_dim);
        ref->decode(type, kf + p * s->head_dim, kp, s->head_dim);
        ref->decode(type, vf + p * s->head_dim, vp, s->head_dim);
    }
    a->q = (float *)q.p;
    a->out = (float *)out.p;
    a->k = k.p;
    a->v = val.p;
    a->scratch = scratch.p;
    v->ran = true;
    const char *wrong = NULL;
    double errors = 0, squares = 0, *want = malloc((size_t)s->head_dim * sizeof *want);
    if (!kt_survives(run, &set)) {
        wrong = "touched memory outside its buffers";
    } else {
        for (int64_t t = 0; t < s->T && !wrong; t++) {
            for (int g = 0; g < s->group; g++) {
                oracle(a, kf, vf, t, g, want);
                for (int d = 0; d < s->head_dim; d++) {
                    double got = a->out[t * a->ldo + g * s->head_dim + d], off = fabs(got - want[d]);
                    if (!(off < (s->fill == LARGE ? 3e-2 : 2e-4))) wrong = "a value is far off";
                    errors += off * off;
                    squares += want[d] * want[d];
                }
            }
            for (int64_t i = s->group * s->head_dim; i < a->ldo && t + 1 < s->T; i++)
                if (memcmp(&a->out[t * a->ldo + i], &hole, 4) != 0) wrong = "wrote between results";
        }
        double limit = s->fill == LARGE ? 1e-7 : 1e-9, nmse = errors / squares;
        if (nmse / limit > v->worst) v->worst = nmse / limit;
        if (!wrong && !(nmse <= limit)) wrong = "error above the limit";
        if (!guard_intact(&out) || !guard_intact(&scratch)) wrong = "wrote before the start of a buffer";
    }
    if (wrong)
        verdict_fail(v,
                     "%s (NMSE %.3g); T %" PRId64 ", pos0 %" PRId64 ", window %" PRId64
                     ", group %d, head %d, fill %d",
                     wrong, errors / squares, s->T, s->pos0, s->window, s->group, s->head_dim, (int)s->fill);
    free(want);
    free(kf);
    free(vf);
    guard_free(&q);
    guard_free(&k);
    guard_free(&val);
    guard_free(&out);
    guard_free(&scratch);
}

void check_attn(struct kt *k)
{
    static const enum dtype types[] = {DT_F16, DT_Q8_0, DT_F32};
    for (int t = 0; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t);
        if (!ops || (t > 0 && ops->attn == kern_tier((enum kern_tier)(t - 1))->attn)) continue;
        for (int type = 0; type < 3; type++) {
            char name[64];
            snprintf(name, sizeof name, "%s attention %s", ops->name, dtype_name(types[type]));
            if (!kt_wanted(k, name)) continue;
            struct verdict v = {0};
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !v.failed; i++) {
                if (types[type] == DT_Q8_0 && shapes[i].head_dim % 32 != 0) continue;
                if (t == 0 && shapes[i].T * shapes[i].group * shapes[i].pos0 > 20000) continue; /* slow */
                one(&v, &shapes[i], types[type], ops, k->seed + i);
            }
            verdict_report(k, &v, name);
        }
    }
}
