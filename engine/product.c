/* Products of weight matrices with the batch: preparing the input once for all matrices that read it, and
 * sharing out rows. */
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"

#include <math.h>

enum slot { SLOT_PREPARE, SLOT_GROUPS = TEAM_SLOTS - PLACE_GROUPS /* one a memory node */ };

/* Bytes of weights in a chunk when decoding: short enough that threads finish together. A core starts slowly
 * on what nothing has announced, so all but the last chunks of a step are taken several at once, up to
 * RUN_BYTES. */
#define CHUNK_BYTES (64 << 10)
#define RUN_BYTES   (640 << 10)
/* Rows a thread takes at once when there are many tokens. */
#define CHUNK_ROWS 64

static const struct kern_mat *choose(const struct pass *p, const struct mat *w, int64_t T)
{
    return p->s->mode == CALOR_DENSE || T <= p->m->ops->mv_tokens ? w->mv : w->mm;
}

void norm_apply(const struct calor_model *m, const struct norm *norm, float *y, const float *x)
{
    if (m->arch->norm == NORM_RMS) {
        m->ops->rmsnorm(y, x, norm->w, m->hp.width, m->hp.eps);
        if (norm->b) m->ops->add(y, norm->b, m->hp.width);
    } else {
        m->ops->layernorm(y, x, norm->w, norm->b, m->hp.width, m->hp.eps);
    }
}

/* Tokens [t0, t1) of the input, normed into `normed` (ld = n) where asked for, into every prepared form. */
static void prepare_tokens(const struct pass *p, const struct product *parts, int n_parts, const float *in,
                           int64_t ld, int64_t T, const struct norm *norm, float *normed, int64_t t0,
                           int64_t t1)
{
    int64_t n = parts[0].w->n;
    if (norm) {
        for (int64_t t = t0; t < t1; t++) norm_apply(p->m, norm, normed + t * n, in + t * ld);
        in = normed;
        ld = n;
    }
    for (int i = 0; i < n_parts; i++) {
        bool done = false;
        for (int j = 0; j < i; j++) done |= parts[j].xp == parts[i].xp;
        if (!done) parts[i].k->x_pack((void *)(uintptr_t)parts[i].xp, in, ld, n, T, t0, t1);
    }
}

void product_prepare(const struct pass *p, struct team_member *t, struct product *parts, int n_parts,
                     const float *in, int64_t ld, int64_t T, const struct norm *norm)
{
    bool mine = T <= PASS_PRIVATE_TOKENS;
    const struct worker *w = &p->s->workers[t->ith];
    uint8_t *at = mine ? w->xp : p->s->xp;
    int64_t group = 1;
    for (int i = 0; i < n_parts; i++) {
        parts[i].k = choose(p, parts[i].w, T);
        parts[i].xp = NULL;
        for (int j = 0; j < i && !parts[i].xp; j++)
            if (parts[j].k->x_format == parts[i].k->x_format) parts[i].xp = parts[j].xp;
        if (parts[i].xp) continue;
        parts[i].xp = at;
        at += parts[i].k->x_bytes(parts[i].w->n, T);
        int64_t a = group, b = parts[i].k->x_group;
        while (b) { /* group = their least common multiple */
            int64_t rest = a % b;
            a = b;
            b = rest;
        }
        group = group / a * parts[i].k->x_group;
    }
    if (mine) {
        prepare_tokens(p, parts, n_parts, in, ld, T, norm, w->norm, 0, T);
        return;
    }
    int64_t t0;
    while (team_next(t, SLOT_PREPARE, T, group, &t0))
        prepare_tokens(p, parts, n_parts, in, ld, T, norm, p->s->norm, t0, t0 + group < T ? t0 + group : T);
    team_barrier(t);
}

static int64_t chunk_rows(const struct pass *p, const struct team_member *t, const struct product *part,
                          int64_t T)
{
    const struct mat *w = part->w;
    int64_t group = part->k->row_group > 0 ? part->k->row_group : 1;
    int64_t rows = T <= p->m->ops->mv_tokens ? (int64_t)(CHUNK_BYTES / (w->row_bytes + 1)) + 1 : CHUNK_ROWS;
    int64_t fair = w->rows / (4 * t->nth) + 1, room = (int64_t)p->s->tile_floats / T;
    if (rows > fair) rows = fair;
    int64_t whole = (rows + group - 1) / group * group;
    /* Whole groups are fastest, as long as every thread gets some. */
    if (whole * 2 * t->nth <= w->rows) rows = whole;
    if (rows > room) rows = room >= group ? room / group * group : room;
    if (part->unit) rows = rows > part->unit ? rows / part->unit * part->unit : part->unit;
    return rows;
}

/* The chunks of a part that belong to group g, in runs of `run` and then one by one. */
struct chunks {
    int64_t rows, begin, end; /* rows of a chunk; chunks [begin, end) */
    int64_t run, runs;        /* the first runs·run of them are taken together */
};

static struct chunks chunks_of(const struct pass *p, const struct team_member *t, const struct product *part,
                               int64_t T, int g, bool last)
{
    const struct mat *w = part->w;
    struct chunks c = {.rows = chunk_rows(p, t, part, T), .run = 1};
    place_range(&p->m->place, g, (w->rows + c.rows - 1) / c.rows, &c.begin, &c.end);
    int64_t room = (int64_t)p->s->tile_floats / T / c.rows;
    if (T <= p->m->ops->mv_tokens) c.run = (int64_t)(RUN_BYTES / ((size_t)c.rows * w->row_bytes + 1));
    if (c.run > room) c.run = room;
    if (c.run < 1) c.run = 1;
    /* What lets threads finish together: at the end as many chunks are left as all threads take in a run. */
    int64_t alone = last ? c.run * t->nth : 0, all = c.end - c.begin;
    if (c.run > 1 && all > alone) c.runs = (all - alone) / c.run;
    return c;
}

static int64_t chunks_items(const struct chunks *c)
{
    return c->end - c->begin - c->runs * (c->run - 1);
}

bool product_next(const struct pass *p, struct team_member *t, const struct product *parts, int n_parts,
                  int64_t T, struct product_range *range)
{
    const struct place *place = &p->m->place;
    int own = place->group_of ? place->group_of[t->ith] : 0;
    for (int k = 0; k < place->groups; k++) { /* the own node's rows first, then what others have left */
        int g = (own + k) % place->groups;
        int64_t items = 0, i;
        for (int part = 0; part < n_parts; part++) {
            struct chunks c = chunks_of(p, t, &parts[part], T, g, part + 1 == n_parts);
            items += chunks_items(&c);
        }
        if (!team_next(t, SLOT_GROUPS + g, items, 1, &i)) continue;
        for (int part = 0; part < n_parts; part++) {
            struct chunks c = chunks_of(p, t, &parts[part], T, g, part + 1 == n_parts);
            if (i < chunks_items(&c)) {
                int64_t rows = parts[part].w->rows, n = i < c.runs ? c.run : 1;
                int64_t r0 = (c.begin + (i < c.runs ? i * c.run : i + c.runs * (c.run - 1))) * c.rows;
                int64_t r1 = r0 + n * c.rows;
                *range = (struct product_range){part, r0, r1 < rows ? r1 : rows};
                return true;
            }
            i -= chunks_items(&c);
        }
    }
    return false;
}

void product_rows(const struct pass *p, const struct team_member *t, const struct product *part,
                  int64_t begin, int64_t end, int64_t T, float *y, int64_t ldy)
{
    const struct mat *w = part->w;
    part->k->rows(y, ldy, w->data + (size_t)begin * w->row_bytes, w->row_bytes, end - begin, w->n, part->xp,
                  T, p->s->workers[t->ith].scratch);
    if (part->bias)
        for (int64_t i = 0; i < T; i++) p->m->ops->add(y + i * ldy, part->bias + begin, end - begin);
}

void product_add(const struct pass *p, struct team_member *t, const struct product *part, int64_t T,
                 const float *from, float *out, int64_t ld)
{
    float *tile = p->s->workers[t->ith].tile, scale = p->m->hp.residual_scale;
    struct product_range r;
    while (product_next(p, t, part, 1, T, &r)) {
        int64_t n = r.end - r.begin;
        product_rows(p, t, part, r.begin, r.end, T, tile, n);
        for (int64_t i = 0; i < T; i++) {
            const float *a = from + i * ld + r.begin, *b = tile + i * n;
            float *o = out + i * ld + r.begin;
            for (int64_t j = 0; j < n; j++) o[j] = a[j] + scale * b[j];
        }
    }
}
