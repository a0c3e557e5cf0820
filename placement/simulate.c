#include "placement/simulate.h"

#include "base/err.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/stats.h"
#include "placement/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Neurons by when they were read last: a list through the ranks, newest first. */
struct cache {
    uint32_t room, held;
    uint32_t newest, oldest; /* NONE: empty */
    uint32_t *newer, *older; /* by rank */
    bool *in;
    uint64_t asked, had;
};

#define NONE UINT32_MAX

struct replay {
    const struct plan *p;
    const struct plan_model *m;
    const struct profile *profile;
    struct cost cost;
    struct simulation *out;
    enum profile_text text;
    uint32_t tokens, warm; /* in all; of them not counted */
    uint64_t seed;
    uint32_t *list, *rank; /* active neurons of a token; place of a neuron in the layer's order */
    double *time;          /* by token */
    struct cache cache;
    uint64_t asked, had;
};

struct simulate_settings simulate_default(void)
{
    return (struct simulate_settings){.cache = UINT64_MAX, .seed = 1};
}

void simulation_free(struct simulation **s)
{
    if (!*s) return;
    free((*s)->token);
    free((*s)->layer);
    free(*s);
    *s = NULL;
}

/* ---- The cache ---- */

static void unlink_rank(struct cache *c, uint32_t r)
{
    uint32_t a = c->newer[r], b = c->older[r];
    if (a == NONE)
        c->newest = b;
    else
        c->older[a] = b;
    if (b == NONE)
        c->oldest = a;
    else
        c->newer[b] = a;
}

static void push_newest(struct cache *c, uint32_t r)
{
    c->newer[r] = NONE;
    c->older[r] = c->newest;
    if (c->newest == NONE)
        c->oldest = r;
    else
        c->newer[c->newest] = r;
    c->newest = r;
}

/* True where it was there. Afterwards it is the newest. */
static bool cache_take(struct cache *c, uint32_t r)
{
    if (c->room == 0) return false;
    bool had = c->in[r];
    if (had)
        unlink_rank(c, r);
    else if (c->held == c->room) {
        c->in[c->oldest] = false;
        unlink_rank(c, c->oldest);
    } else
        c->held++;
    c->in[r] = true;
    push_newest(c, r);
    return had;
}

static void cache_empty(struct cache *c, uint32_t neurons, uint32_t room)
{
    c->room = room;
    c->held = 0;
    c->newest = c->oldest = NONE;
    memset(c->in, 0, neurons * sizeof *c->in);
}

/* ---- A token in a layer ---- */

/* Neurons by tier; those on disk go through the cache. */
static void sort_active(struct replay *r, uint32_t gpu, uint32_t ram, int64_t n, bool counts,
                        double read[PLAN_TIERS])
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t k = r->rank[r->list[i]];
        enum plan_tier at = k < gpu ? PLAN_GPU : k < ram ? PLAN_RAM : PLAN_DISK;
        if (at == PLAN_DISK) {
            bool had = cache_take(&r->cache, k);
            r->asked += counts;
            r->had += counts && had;
            if (had) at = PLAN_RAM;
        }
        read[at] += 1;
    }
}

/* Candidates are not recorded. Those that do not fire are taken to be as many as expected, so that the gate's
 * load goes up and down with the neurons that do. */
static void add_candidates(const struct cost_load *expected, const double active[PLAN_TIERS],
                           double out[PLAN_TIERS])
{
    for (int t = 0; t < PLAN_TIERS; t++) {
        double others = expected->read[PLAN_GATE][t] - expected->read[PLAN_UPDOWN][t];
        out[t] = (others > 0 ? others : 0) + active[t];
    }
}

static void count_limits(struct simulation *s, const struct cost_time *t)
{
    s->by[COST_BY_GPU] += t->attention.gpu;
    s->by[COST_BY_CPU] += t->attention.cpu;
    for (int p = 0; p < PLAN_PARTS; p++) {
        const struct cost_phase *f = &t->part[p];
        s->by[f->disk > fmax(f->gpu, f->cpu) ? COST_BY_DISK
              : f->gpu > f->cpu              ? COST_BY_GPU
                                             : COST_BY_CPU] += f->time;
    }
    s->by[COST_BY_SYNC] += t->sync;
    if (t->reads > t->compute) s->by[COST_BY_DISK] += t->reads - t->compute;
}

static void add_phase(struct cost_phase *sum, const struct cost_phase *x)
{
    sum->gpu += x->gpu;
    sum->cpu += x->cpu;
    sum->disk += x->disk;
    sum->time += x->time;
}

static void add_time(struct cost_time *sum, const struct cost_time *x)
{
    add_phase(&sum->attention, &x->attention);
    for (int p = 0; p < PLAN_PARTS; p++) add_phase(&sum->part[p], &x->part[p]);
    sum->sync += x->sync;
    sum->reads += x->reads;
    sum->compute += x->compute;
    sum->total += x->total;
}

/* One token in an entry, with its loads. */
static void account(struct replay *r, uint32_t entry, uint32_t token, const struct cost_load *load)
{
    const struct cost_layer *l = &r->cost.layer[entry];
    const struct cost_place *place = &r->p->place[entry];
    struct simulation *s = r->out;
    struct cost_time t;
    cost_time(&r->cost, l, place, load, &t);
    r->time[token] += t.total;
    if (token < r->warm) return;
    add_time(&s->layer[entry].mean, &t);
    count_limits(s, &t);
    bool embedding = entry > r->m->layers; /* of which one row is read */
    s->bytes[place->attention] += (double)l->attention_bytes / (embedding ? r->m->vocab : 1);
    for (int p = 0; p < PLAN_PARTS; p++)
        for (int tier = 0; tier < PLAN_TIERS; tier++)
            s->bytes[tier] += load->read[p][tier] * (double)l->part[p].bytes;
    for (int tier = 0; tier < PLAN_TIERS; tier++) s->layer[entry].read[tier] += load->read[PLAN_UPDOWN][tier];
}

/* ---- Tokens ---- */

/* Tokens of the layer's turn come from recorded runs or are drawn. */
struct source {
    struct profile_walk walk;
    uint32_t run;
    struct rng rng;
};

static bool next_run(struct source *s, const struct replay *r, uint32_t layer)
{
    for (; s->run < profile_runs(r->profile); s->run++)
        if (profile_run(r->profile, s->run)->text == r->text) {
            profile_walk_init(&s->walk, r->profile, layer, s->run++);
            return true;
        }
    return false;
}

static int64_t next_token(struct source *s, struct replay *r, uint32_t layer)
{
    int64_t n = 0;
    if (!r->out->drawn) {
        while ((n = profile_walk_next(&s->walk, r->list)) < 0)
            if (!next_run(s, r, layer)) return 0;
        return n;
    }
    const struct plan_layer *l = &r->m->layer[layer];
    for (uint32_t k = 0; k < r->m->neurons; k++)
        if (rng_f64(&s->rng) < (double)l->frequency[k]) r->list[n++] = l->order ? l->order[k] : k;
    return n;
}

/* Neurons of the layer that the cache has room for: its share of the disk's bytes in that of all layers. */
static uint32_t cache_room(const struct replay *r, uint32_t layer, double disk_bytes)
{
    const struct cost_layer *l = &r->cost.layer[layer];
    uint64_t neuron = l->part[PLAN_UPDOWN].bytes;
    if (disk_bytes <= 0 || neuron == 0) return 0;
    double own = (double)cost_bytes(l, &r->p->place[layer], PLAN_DISK);
    double room = (double)r->out->cache * own / disk_bytes / (double)neuron;
    return room < (double)r->m->neurons ? (uint32_t)room : r->m->neurons;
}

static int replay_layer(struct replay *r, uint32_t layer, double disk_bytes, struct err *e)
{
    const struct cost_layer *l = &r->cost.layer[layer];
    const struct plan_layer *model = &r->m->layer[layer];
    struct cost_load expected, load;
    struct source from = {.rng = {r->seed + layer}};
    uint32_t gpu, ram;
    cost_expect(l, &r->p->place[layer], &expected);
    plan_range(r->p, layer, PLAN_UPDOWN, &gpu, &ram);
    for (uint32_t k = 0; k < r->m->neurons; k++) r->rank[model->order ? model->order[k] : k] = k;
    cache_empty(&r->cache, r->m->neurons, cache_room(r, layer, disk_bytes));
    if (!r->out->drawn && !next_run(&from, r, layer))
        return err_set(e, ERR_STATE, "the profile has no recorded runs of layer %u", layer);
    for (uint32_t t = 0; t < r->tokens; t++) {
        int64_t n = next_token(&from, r, layer);
        load = expected;
        if (l->part[PLAN_UPDOWN].listed) {
            memset(load.read[PLAN_UPDOWN], 0, sizeof load.read[PLAN_UPDOWN]);
            sort_active(r, gpu, ram, n, t >= r->warm, load.read[PLAN_UPDOWN]);
            if (l->part[PLAN_GATE].listed)
                add_candidates(&expected, load.read[PLAN_UPDOWN], load.read[PLAN_GATE]);
        }
        account(r, layer, t, &load);
    }
    return 0;
}

static void finish(struct replay *r)
{
    struct simulation *s = r->out;
    double n = (double)s->tokens;
    for (uint32_t t = 0; t < s->tokens; t++) {
        s->token[t] = r->time[r->warm + t];
        s->mean += s->token[t] / n;
    }
    double *sorted = r->time + r->warm; /* no longer needed in order */
    stats_sort(sorted, s->tokens);
    s->p50 = stats_percentile(sorted, s->tokens, 50);
    s->p90 = stats_percentile(sorted, s->tokens, 90);
    s->p99 = stats_percentile(sorted, s->tokens, 99);
    s->most = sorted[s->tokens - 1];
    s->hits = r->asked ? (double)r->had / (double)r->asked : NAN;
    for (int i = 0; i < PLAN_TIERS; i++) s->bytes[i] /= n;
    for (int i = 0; i < COST_LIMITS; i++) s->by[i] /= n;
    for (uint32_t i = 0; i < s->layers; i++) {
        struct cost_time *t = &s->layer[i].mean, sum = *t;
        struct cost_phase *phase[] = {&t->attention, &t->part[0], &t->part[1], &t->part[2]};
        for (size_t k = 0; k < sizeof phase / sizeof *phase; k++) {
            phase[k]->gpu /= n;
            phase[k]->cpu /= n;
            phase[k]->disk /= n;
            phase[k]->time /= n;
        }
        t->sync = sum.sync / n;
        t->reads = sum.reads / n;
        t->compute = sum.compute / n;
        t->total = sum.total / n;
        for (int k = 0; k < PLAN_TIERS; k++) s->layer[i].read[k] /= n;
    }
}

/* How many tokens there are to replay, and of which text: held out where that was recorded. */
static uint32_t recorded(const struct profile *p, enum profile_text *text)
{
    uint64_t n[PROFILE_TEXTS] = {0};
    for (uint32_t i = 0; p && i < profile_runs(p); i++)
        n[profile_run(p, i)->text] += profile_run(p, i)->tokens;
    *text = n[PROFILE_HELD_OUT] ? PROFILE_HELD_OUT : PROFILE_CALIBRATION;
    return n[*text] < SIMULATE_MOST ? (uint32_t)n[*text] : SIMULATE_MOST;
}

static uint64_t left_of_ram(const struct plan *p)
{
    uint64_t room = ledger_ram_left(&p->ledger, p->gpu, p->disk);
    return room > p->used[PLAN_RAM] ? room - p->used[PLAN_RAM] : 0;
}

static int check(const struct plan *p, const struct plan_model *m, const struct profile *profile,
                 struct err *e)
{
    if (p->layers != m->layers || p->neurons != m->neurons)
        return err_set(e, ERR_ARG, "the plan is for %u layers of %u neurons, the model has %u of %u",
                       p->layers, p->neurons, m->layers, m->neurons);
    if (!profile) return 0;
    const struct profile_subject *s = profile_subject(profile);
    if (s->layers != m->layers || s->neurons != m->neurons)
        return err_set(e, ERR_ARG, "the profile is of %u layers of %u neurons, the model has %u of %u",
                       s->layers, s->neurons, m->layers, m->neurons);
    return 0;
}

static int replay_all(struct replay *r, struct err *e)
{
    double disk = 0;
    int rc = 0;
    for (uint32_t i = 0; i < r->m->layers; i++)
        disk += (double)cost_bytes(&r->cost.layer[i], &r->p->place[i], PLAN_DISK);
    if (disk == 0) r->out->cache = 0;
    /* Tokens until the cache is as full as it gets say nothing about the rest of the text. */
    r->warm = r->out->cache ? r->tokens / 4 : 0;
    r->out->tokens = r->tokens - r->warm;
    for (uint32_t i = 0; rc == 0 && i < r->m->layers; i++) rc = replay_layer(r, i, disk, e);
    for (uint32_t i = r->m->layers; rc == 0 && i < r->cost.entries; i++) { /* output and embedding */
        struct cost_load load;
        cost_expect(&r->cost.layer[i], &r->p->place[i], &load);
        for (uint32_t t = 0; t < r->tokens; t++) account(r, i, t, &load);
    }
    return rc;
}

int simulate(struct simulation **out, const struct plan *p, const struct plan_model *m,
             const struct machine *machine, const struct profile *profile, const struct simulate_settings *s,
             struct err *e)
{
    struct replay r = {.p = p, .m = m, .profile = profile, .seed = s->seed};
    struct cost_settings cs = plan_cost_settings(p);
    *out = NULL;
    int rc = check(p, m, profile, e);
    if (rc == 0) rc = cost_make(&r.cost, m, machine, &cs, e);
    if (rc) return rc;
    uint32_t have = recorded(profile, &r.text);
    r.tokens = have ? have : SIMULATE_DRAWN;
    if (s->tokens && (s->tokens < r.tokens || !have))
        r.tokens = s->tokens < SIMULATE_MOST ? s->tokens : SIMULATE_MOST;
    struct simulation *sim = r.out = calloc(1, sizeof *sim);
    r.list = calloc((size_t)m->neurons + 1, sizeof *r.list);
    r.rank = calloc((size_t)m->neurons + 1, sizeof *r.rank);
    r.time = calloc(r.tokens, sizeof *r.time);
    r.cache.newer = calloc((size_t)m->neurons + 1, sizeof *r.cache.newer);
    r.cache.older = calloc((size_t)m->neurons + 1, sizeof *r.cache.older);
    r.cache.in = calloc((size_t)m->neurons + 1, sizeof *r.cache.in);
    if (sim) {
        sim->token = calloc(r.tokens, sizeof *sim->token);
        sim->layer = calloc(r.cost.entries, sizeof *sim->layer);
    }
    if (!sim || !sim->token || !sim->layer || !r.list || !r.rank || !r.time || !r.cache.newer ||
        !r.cache.older || !r.cache.in) {
        rc = err_set(e, ERR_NOMEM, "no memory for replaying %u tokens", r.tokens);
    } else {
        sim->drawn = have == 0;
        sim->held_out = have && r.text == PROFILE_HELD_OUT;
        sim->layers = r.cost.entries;
        sim->cache = s->cache == UINT64_MAX ? left_of_ram(p) : s->cache;
        rc = replay_all(&r, e);
    }
    if (rc == 0) finish(&r);
    free(r.list);
    free(r.rank);
    free(r.time);
    free(r.cache.newer);
    free(r.cache.older);
    free(r.cache.in);
    cost_finish(&r.cost);
    if (rc) simulation_free(&sim);
    *out = sim;
    return rc;
}

json_t *simulation_json(const struct simulation *s)
{
    static const char *const limits[COST_LIMITS] = {"gpu", "cpu", "disk", "sync"};
    json_t *by = json_object(), *bytes = json_object();
    for (int i = 0; i < COST_LIMITS; i++) json_object_set_new(by, limits[i], json_number(s->by[i]));
    for (int i = 0; i < PLAN_TIERS; i++)
        json_object_set_new(bytes, plan_tier_names[i], json_number(s->bytes[i]));
    return json_pack(
        "{s:i, s:s, s:{s:o, s:o, s:o, s:o, s:o}, s:o, s:I, s:o, s:o}", "tokens", (int)s->tokens, "text",
        s->drawn      ? "drawn"
        : s->held_out ? "held-out"
                      : "calibration",
        "token_seconds", "mean", json_number(s->mean), "p50", json_number(s->p50), "p90", json_number(s->p90),
        "p99", json_number(s->p99), "max", json_number(s->most), "bytes_a_token", bytes, "cache_bytes",
        (json_int_t)s->cache, "cache_hits", json_number(s->hits), "limited_by_seconds", by);
}
