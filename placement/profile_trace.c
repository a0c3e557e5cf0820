/* Traces: which neurons were active, token after token; and what only they show: reuse from token to token,
 * and which neurons are active together. */
#include "placement/profile_priv.h"

#include "base/err.h"
#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const int profile_reuse_k[PROFILE_REUSES] = {1, 2, 4, 8};

/* ---- Coding ---- */

static bool room(struct profile_bytes *b, size_t n)
{
    if (b->cap - b->n >= n) return true;
    size_t cap = b->cap ? b->cap * 2 : 4096;
    while (cap - b->n < n) cap *= 2;
    uint8_t *p = realloc(b->p, cap);
    if (!p) return false;
    b->p = p;
    b->cap = cap;
    return true;
}

static size_t put(uint8_t *at, uint32_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) at[n++] = (uint8_t)(v | 0x80);
    at[n++] = (uint8_t)v;
    return n;
}

static size_t length(uint32_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7) n++;
    return n;
}

/* Bytes read, 0 when there is no number below 2^31 within n bytes. */
static size_t get(const uint8_t *at, size_t n, uint32_t *out)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n && i < 5; i++) {
        if (i == 4 && at[i] > 0x07) return 0;
        v |= (uint32_t)(at[i] & 0x7f) << (7 * i);
        if (at[i] < 0x80) {
            *out = v;
            return i + 1;
        }
    }
    return 0;
}

int profile_trace_add(struct profile_bytes *b, const uint32_t *list, uint32_t count, uint32_t neurons,
                      struct err *e)
{
    size_t map = ((size_t)neurons + 7) / 8, steps = 0;
    for (uint32_t i = 0; i < count; i++) steps += length(i ? list[i] - list[i - 1] - 1 : list[0]);
    bool form = steps > map;
    if (!room(b, 5 + (form ? map : steps))) return err_set(e, ERR_NOMEM, "no memory for a profile's traces");
    b->n += put(b->p + b->n, 2 * count + form);
    if (form) {
        memset(b->p + b->n, 0, map);
        for (uint32_t i = 0; i < count; i++) b->p[b->n + list[i] / 8] |= (uint8_t)(1u << (list[i] % 8));
        b->n += map;
    } else {
        for (uint32_t i = 0; i < count; i++)
            b->n += put(b->p + b->n, i ? list[i] - list[i - 1] - 1 : list[0]);
    }
    return 0;
}

size_t profile_trace_check(const uint8_t *p, size_t n, uint32_t tokens, uint32_t neurons)
{
    size_t at = 0, map = ((size_t)neurons + 7) / 8;
    for (uint32_t t = 0; t < tokens; t++) {
        uint32_t head, v;
        size_t used = get(p + at, n - at, &head);
        uint32_t count = head >> 1;
        at += used;
        if (!used || count > neurons) return 0;
        if (head & 1) {
            if (n - at < map) return 0;
            uint32_t bits = 0;
            for (size_t i = 0; i < map; i++) bits += (uint32_t)__builtin_popcount(p[at + i]);
            if (bits != count || (neurons % 8 && p[at + map - 1] >> (neurons % 8))) return 0;
            at += map;
            continue;
        }
        uint64_t last = 0;
        for (uint32_t i = 0; i < count; i++) {
            used = get(p + at, n - at, &v);
            at += used;
            last += v + (uint64_t)(i > 0);
            if (!used || last >= neurons) return 0;
        }
    }
    return at;
}

void profile_walk_init(struct profile_walk *w, const struct profile *p, uint32_t layer, uint32_t run)
{
    const struct profile_layer *l = &p->layers[layer];
    *w = (struct profile_walk){
        .at = l->trace.p + l->run_at[run], .left = p->runs[run].tokens, .neurons = p->subject.neurons};
}

/* What is walked was checked: no ends are looked at. */
int64_t profile_walk_next(struct profile_walk *w, uint32_t *list)
{
    if (w->left == 0) return -1;
    w->left--;
    uint32_t head = 0, v = 0, n = 0, last = 0;
    w->at += get(w->at, 5, &head);
    if (head & 1) {
        uint32_t bytes = (w->neurons + 7) / 8;
        for (uint32_t i = 0; i < bytes; i++)
            for (unsigned byte = w->at[i]; byte; byte &= byte - 1)
                list[n++] = 8 * i + (uint32_t)__builtin_ctz(byte);
        w->at += bytes;
        return n;
    }
    for (; n < head >> 1; n++) {
        w->at += get(w->at, 5, &v);
        last += v + (n > 0);
        list[n] = last;
    }
    return n;
}

/* ---- Reuse and company ---- */

struct walked {
    uint32_t f, *list, *seen; /* seen[i]: 1 + the last token of the run at which neuron i was active */
    uint64_t *bits;           /* f × words: the traced tokens at which each neuron was active; or NULL */
    size_t words;
    uint64_t token; /* of all runs */
    double sum[PROFILE_REUSES];
    uint64_t tokens[PROFILE_REUSES], active;
};

static void walk_run(struct walked *c, const struct profile *p, uint32_t layer, uint32_t run)
{
    struct profile_walk w;
    profile_walk_init(&w, p, layer, run);
    memset(c->seen, 0, c->f * sizeof *c->seen);
    int64_t n;
    for (uint32_t t = 1; (n = profile_walk_next(&w, c->list)) >= 0; t++, c->token++) {
        uint64_t again[PROFILE_REUSES] = {0};
        for (int64_t i = 0; i < n; i++) {
            uint32_t id = c->list[i], before = c->seen[id];
            for (int k = 0; k < PROFILE_REUSES; k++)
                again[k] += before && t - before <= (uint32_t)profile_reuse_k[k];
            c->seen[id] = t;
            if (c->bits) c->bits[(size_t)id * c->words + c->token / 64] |= 1ull << (c->token % 64);
        }
        c->active += (uint64_t)n;
        for (int k = 0; k < PROFILE_REUSES; k++) {
            if (n == 0 || t <= (uint32_t)profile_reuse_k[k]) continue; /* no k tokens before it */
            c->sum[k] += (double)again[k] / (double)n;
            c->tokens[k]++;
        }
    }
}

/* Bits that two rows share. In plain operations, several words at once: without the popcnt instruction, which
 * not every machine this is built for has, the compiler's own is a call and a table. */
static uint32_t shared(const uint64_t *a, const uint64_t *b, size_t words)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < words; i++) {
        uint64_t v = a[i] & b[i];
        v -= v >> 1 & 0x5555555555555555u;
        v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
        v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
        v += v >> 8;
        v += v >> 16;
        sum += (v + (v >> 32)) & 0x7f;
    }
    return (uint32_t)sum;
}

/* The top of neuron i's company, most frequent first, then by number: returns how many. */
static uint32_t top_of(const struct walked *c, uint32_t i, uint32_t *who, uint32_t *how_often)
{
    const uint64_t *own = c->bits + (size_t)i * c->words;
    uint32_t n = 0;
    for (uint32_t j = 0; j < c->f; j++) {
        uint32_t both = j == i ? 0 : shared(own, c->bits + (size_t)j * c->words, c->words);
        if (both == 0 || (n == PROFILE_GAP_TOP && both <= how_often[n - 1])) continue;
        uint32_t at = n < PROFILE_GAP_TOP ? n++ : n - 1;
        for (; at > 0 && how_often[at - 1] < both; at--) {
            how_often[at] = how_often[at - 1];
            who[at] = who[at - 1];
        }
        how_often[at] = both;
        who[at] = j;
    }
    return n;
}

static void gap_and_partners(const struct walked *c, struct profile_layer *l)
{
    double sum = 0.0, mean = (double)c->active / ((double)c->token * c->f);
    uint64_t alive = 0;
    /* With fewer neurons than m + 1, the top is all others. */
    uint32_t m = c->f > PROFILE_GAP_TOP ? PROFILE_GAP_TOP : c->f - 1;
    for (uint32_t i = 0; i < c->f; i++) {
        const uint64_t *own = c->bits + (size_t)i * c->words;
        uint32_t who[PROFILE_GAP_TOP], often[PROFILE_GAP_TOP], n = shared(own, own, c->words), all = 0;
        if (n == 0) continue;
        uint32_t top = top_of(c, i, who, often);
        for (uint32_t k = 0; k < top; k++) {
            all += often[k];
            if (k >= PROFILE_PARTNERS) continue;
            l->partner[(size_t)i * PROFILE_PARTNERS + k] = (uint16_t)who[k];
            l->partner_share[(size_t)i * PROFILE_PARTNERS + k] = f32_to_f16((float)often[k] / (float)n);
        }
        if (m) sum += (double)all / ((double)m * n) - mean;
        alive++;
    }
    l->gap = alive && m ? (float)(sum / (double)alive) : NAN;
}

static int company(struct profile *p, uint32_t layer, bool pairs, struct err *e)
{
    struct profile_layer *l = &p->layers[layer];
    struct walked c = {.f = p->subject.neurons};
    uint64_t tokens = 0;
    for (uint32_t r = 0; r < p->n_runs; r++)
        if (p->runs[r].text == PROFILE_CALIBRATION) tokens += p->runs[r].tokens;
    memset(l->partner, 0, (size_t)c.f * PROFILE_PARTNERS * sizeof *l->partner);
    memset(l->partner_share, 0, (size_t)c.f * PROFILE_PARTNERS * sizeof *l->partner_share);
    l->gap = NAN;
    for (int k = 0; k < PROFILE_REUSES; k++) l->reuse[k] = NAN;
    if (tokens == 0) return 0;
    c.words = (size_t)((tokens + 63) / 64);
    c.list = malloc(c.f * sizeof *c.list);
    c.seen = malloc(c.f * sizeof *c.seen);
    c.bits = pairs ? calloc((size_t)c.f * c.words, sizeof *c.bits) : NULL;
    int rc =
        c.list && c.seen && (c.bits || !pairs) ? 0 : err_set(e, ERR_NOMEM, "no memory to compare neurons");
    for (uint32_t r = 0; rc == 0 && r < p->n_runs; r++)
        if (p->runs[r].text == PROFILE_CALIBRATION) walk_run(&c, p, layer, r);
    for (int k = 0; rc == 0 && k < PROFILE_REUSES; k++)
        if (c.tokens[k]) l->reuse[k] = (float)(c.sum[k] / (double)c.tokens[k]);
    if (rc == 0 && pairs) gap_and_partners(&c, l);
    free(c.list);
    free(c.seen);
    free(c.bits);
    return rc;
}

int profile_trace_company(struct profile *p, uint32_t layer, struct err *e)
{
    return company(p, layer, true, e);
}

int profile_trace_reuse(struct profile *p, uint32_t layer, struct err *e)
{
    return company(p, layer, false, e);
}
