/* Attention of one layer: q, k and v in one step, then rotation and cache, then heads, then the output
 * projection. */
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"

enum slot { SLOT_STORE = 2, SLOT_HEADS = 3 };

/* Queries of one KV head computed at once: constants, so that results never depend on the machine. */
#define QUERY_TOKENS 32
#define QUERY_HEADS  8

static enum kern_rope pairing(const struct calor_model *m)
{
    return m->arch->position == POSITION_ROPE_NEOX ? KERN_ROPE_NEOX : KERN_ROPE_NORM;
}

/* Rotates `heads` consecutive heads of token t. */
static void rotate(const struct pass *p, float *x, int heads, int64_t t)
{
    const struct hparams *hp = &p->m->hp;
    if (hp->rot == 0) return;
    p->m->ops->rope(x, p->s->cs + t * hp->rot, heads, (int)hp->head_dim, (int)hp->rot, pairing(p->m));
}

/* Rotates token t's keys of one KV head and puts keys and values into the cache. */
static void store(const struct pass *p, uint32_t layer, uint32_t head, int64_t t)
{
    const struct hparams *hp = &p->m->hp;
    struct kv *kv = &p->s->kv;
    int64_t at = (t * hp->kv_heads + head) * hp->head_dim;
    size_t row = (size_t)(p->pos0 + t) * kv->row_bytes;
    rotate(p, p->s->k + at, 1, t);
    p->m->ops->kv_store(kv->type, kv_k(kv, layer, head) + row, p->s->k + at, hp->head_dim);
    p->m->ops->kv_store(kv->type, kv_v(kv, layer, head) + row, p->s->v + at, hp->head_dim);
}

/* Queries [t0, t1) × `group` heads from g0 on of one KV head. */
static void attend(const struct pass *p, const struct team_member *t, uint32_t layer, uint32_t head, int g0,
                   int group, int64_t t0, int64_t t1)
{
    const struct hparams *hp = &p->m->hp;
    struct kv *kv = &p->s->kv;
    int64_t ld = (int64_t)hp->heads * hp->head_dim;
    int64_t at = t0 * ld + ((int64_t)head * (hp->heads / hp->kv_heads) + g0) * hp->head_dim;
    struct kern_attn a = {
        .q = p->s->q + at,
        .out = p->s->attn + at,
        .ldq = ld,
        .ldo = ld,
        .k = kv_k(kv, layer, head),
        .v = kv_v(kv, layer, head),
        .k_row_bytes = kv->row_bytes,
        .v_row_bytes = kv->row_bytes,
        .kv_type = kv->type,
        .T = t1 - t0,
        .pos0 = p->pos0 + t0,
        .window = hp->window,
        .group = group,
        .head_dim = (int)hp->head_dim,
        .scale = hp->attn_scale,
        .scratch = p->s->workers[t->ith].scratch,
    };
    p->m->ops->attn(&a);
}

/* One token: each KV head's keys, values and queries belong to one thread, so nobody waits in between. */
static void heads_of_one(const struct pass *p, struct team_member *t, uint32_t layer)
{
    const struct hparams *hp = &p->m->hp;
    int group = (int)(hp->heads / hp->kv_heads);
    int64_t head;
    while (team_next(t, SLOT_HEADS, hp->kv_heads, 1, &head)) {
        store(p, layer, (uint32_t)head, 0);
        rotate(p, p->s->q + head * group * hp->head_dim, group, 0);
        attend(p, t, layer, (uint32_t)head, 0, group, 0, 1);
    }
}

static void heads_of_many(const struct pass *p, struct team_member *t, uint32_t layer, int64_t first)
{
    const struct hparams *hp = &p->m->hp;
    int64_t ld = (int64_t)hp->heads * hp->head_dim, i;
    while (team_next(t, SLOT_STORE, p->T, 1, &i)) {
        for (uint32_t head = 0; head < hp->kv_heads; head++) store(p, layer, head, i);
        rotate(p, p->s->q + i * ld, (int)hp->heads, i);
    }
    team_barrier(t);
    int group = (int)(hp->heads / hp->kv_heads);
    int64_t subs = (group + QUERY_HEADS - 1) / QUERY_HEADS;
    int64_t blocks = (p->T - first + QUERY_TOKENS - 1) / QUERY_TOKENS, per_block = hp->kv_heads * subs;
    while (team_next(t, SLOT_HEADS, blocks * per_block, 1, &i)) {
        /* The longest first: later tokens see more positions. */
        int64_t block = blocks - 1 - i / per_block, rest = i % per_block;
        int64_t t0 = first + block * QUERY_TOKENS, t1 = t0 + QUERY_TOKENS < p->T ? t0 + QUERY_TOKENS : p->T;
        int g0 = (int)(rest % subs) * QUERY_HEADS, g = group - g0 < QUERY_HEADS ? group - g0 : QUERY_HEADS;
        attend(p, t, layer, (uint32_t)(rest / subs), g0, g, t0, t1);
    }
}

void attention_step(const struct pass *p, struct team_member *t, uint32_t layer, const float *x, float *out,
                    bool last)
{
    const struct hparams *hp = &p->m->hp;
    const struct layer *l = &p->m->layers[layer];
    int64_t nq = (int64_t)hp->heads * hp->head_dim, nkv = (int64_t)hp->kv_heads * hp->head_dim;
    struct product qkv[3] = {
        {.w = &l->q, .bias = l->q_b}, {.w = &l->k, .bias = l->k_b}, {.w = &l->v, .bias = l->v_b}};
    float *y[3] = {p->s->q, p->s->k, p->s->v};
    int64_t ld[3] = {nq, nkv, nkv};
    product_prepare(p, t, qkv, 3, x, hp->width, p->T, &l->attn_norm);
    struct product_range r;
    while (product_next(p, t, qkv, 3, p->T, &r))
        product_rows(p, t, &qkv[r.part], r.begin, r.end, p->T, y[r.part] + r.begin, ld[r.part]);
    team_barrier(t);

    int64_t first = last ? p->T - 1 : 0;
    if (p->T == 1 && hp->heads / hp->kv_heads <= QUERY_HEADS)
        heads_of_one(p, t, layer);
    else
        heads_of_many(p, t, layer, first);
    team_barrier(t);

    struct product o = {.w = &l->o, .bias = l->o_b};
    product_prepare(p, t, &o, 1, p->s->attn + first * nq, nq, p->T - first, NULL);
    product_add(p, t, &o, p->T - first, x + first * hp->width, out + first * hp->width, hp->width);
    team_barrier(t);
}

size_t attention_scratch(const struct calor_model *m)
{
    int group = (int)(m->hp.heads / m->hp.kv_heads);
    if (group > QUERY_HEADS) group = QUERY_HEADS;
    size_t one = m->ops->attn_scratch_bytes(1, group, (int)m->hp.head_dim);
    size_t many = m->ops->attn_scratch_bytes(QUERY_TOKENS, group, (int)m->hp.head_dim);
    return one > many ? one : many;
}
