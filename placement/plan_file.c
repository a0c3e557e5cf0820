/* plan.json (docs/plan-schema.md): writing, and reading what nobody vouches for. */
#include "placement/plan_priv.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_text.h"
#include "io/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 8 };
#define FILE_LIMIT (UINT64_C(512) << 20)

/* ---- Base64 (RFC 4648, padded) ---- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static json_t *base64(const void *data, size_t n)
{
    const uint8_t *p = data;
    char *text = malloc((n + 2) / 3 * 4 + 1), *at = text;
    if (!text) return NULL;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;
        if (i + 1 < n) v |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < n) v |= p[i + 2];
        *at++ = digits[v >> 18];
        *at++ = digits[v >> 12 & 63];
        *at++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *at++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *at = 0;
    json_t *j = json_stringn_nocheck(text, (size_t)(at - text));
    free(text);
    return j;
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Exactly n bytes, n a multiple of 4. False: not that. */
static bool unbase64(void *data, size_t n, const char *text, size_t len)
{
    uint8_t *out = data;
    if (len != (n + 2) / 3 * 4) return false;
    for (size_t i = 0, at = 0; i < len; i += 4, at += 3) {
        size_t left = n - at < 3 ? n - at : 3;
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) {
            int d = k <= left ? digit(text[i + k]) : text[i + k] == '=' ? 0 : -1;
            if (d < 0) return false;
            v = v << 6 | (uint32_t)d;
        }
        for (size_t k = 0; k < left; k++) out[at + k] = (uint8_t)(v >> (16 - 8 * k));
    }
    return true;
}

/* ---- Writing ---- */

static json_t *hex64(uint64_t v)
{
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, v);
    return json_string(text);
}

static json_t *size_json(uint64_t v)
{
    return v > INT64_MAX ? json_null() : json_integer((json_int_t)v);
}

static json_t *model_json(const struct plan_model *m)
{
    char id[33];
    gguf_identity_text(m->identity, id);
    return json_pack("{s:s, s:s, s:o, s:i, s:i, s:i, s:s, s:o, s:f}", "name", m->name, "origin", m->origin,
                     "identity", m->has_identity ? json_string(id) : json_null(), "layers", (int)m->layers,
                     "neurons", (int)m->neurons, "width", (int)m->width, "mode", plan_mode_names[m->mode],
                     "bytes", size_json(plan_model_bytes(m)), "sparsity", plan_model_sparsity(m));
}

static json_t *statistics_json(const struct plan_model *m)
{
    static const char *const names[] = {"none", "assumed", "profile"};
    return json_pack("{s:s, s:s, s:I, s:I, s:o}", "source", names[m->statistics], "text", m->statistics_text,
                     "tokens", (json_int_t)m->profile_tokens[0], "tokens_held_out",
                     (json_int_t)m->profile_tokens[1], "hash",
                     m->statistics == PLAN_PROFILE ? hex64(m->profile_hash) : json_null());
}

static json_t *settings_json(const struct plan_settings *s)
{
    const struct ledger_settings *l = &s->memory;
    return json_pack("{s:i, s:i, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:i, s:f, s:b, s:b, s:b}",
                     "context", (int)l->context, "batch", (int)l->batch, "threads", (int)l->threads, "kv",
                     dtype_name((uint32_t)l->kv), "vram", size_json(l->vram), "ram", size_json(l->ram),
                     "margin", size_json(l->margin), "staging", size_json(l->staging), "reading",
                     size_json(l->reading), "position", (int)s->position, "prompt", (int)s->prompt, "unit",
                     (int)s->unit, "listed", (int)s->listed, "disk_ratio", s->disk_ratio, "zstd", s->zstd,
                     "no_gpu", s->no_gpu, "no_disk", s->no_disk);
}

static json_t *memory_json(const struct plan *p)
{
    const struct ledger *l = &p->ledger;
    struct plan_memory v;
    plan_memory_of(p, &v);
    json_t *ram =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "weights", size_json(v.weights[PLAN_RAM]),
                  "kv", size_json(v.kv[PLAN_RAM]), "process", size_json(l->process), "compute",
                  size_json(l->compute), "loading", size_json(l->loading), "staging",
                  size_json(p->gpu ? l->staging : 0), "reading", size_json(p->disk ? l->reading : 0), "total",
                  size_json(v.total[PLAN_RAM]), "ceiling", size_json(l->ram));
    json_t *vram =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "weights", size_json(v.weights[PLAN_GPU]), "kv",
                  size_json(v.kv[PLAN_GPU]), "reserved", size_json(p->gpu ? l->reserved : 0), "compute",
                  size_json(p->gpu ? l->gpu_compute : 0), "staging", size_json(p->gpu ? l->gpu_staging : 0),
                  "total", size_json(v.total[PLAN_GPU]), "ceiling", size_json(l->vram));
    return json_pack("{s:o, s:o, s:{s:o}}", "ram", ram, "vram", vram, "disk", "weights",
                     size_json(v.weights[PLAN_DISK]));
}

static json_t *prediction_json(const struct plan *p)
{
    static const char *const names[COST_LIMITS] = {"gpu", "cpu", "disk", "sync"};
    const struct plan_time *t = &p->time;
    json_t *by = json_object(), *others = json_object();
    for (int i = 0; i < COST_LIMITS; i++) json_object_set_new(by, names[i], json_number(t->by[i]));
    for (int i = 0; i < PLAN_RULES; i++)
        json_object_set_new(others, plan_rule_names[i], json_number(p->others[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "token_seconds", json_number(t->token),
                     "low", json_number(t->low), "high", json_number(t->high), "full_context",
                     json_number(t->token_full), "first_token_seconds", json_number(t->first), "bound",
                     json_number(p->bound), "disk_bytes", json_number(t->reads), "limited_by", by,
                     "alternatives", others);
}

static json_t *layer_json(const struct plan *p, const struct plan_model *m, uint32_t i, bool whole)
{
    const struct cost_place *at = &p->place[i];
    const struct plan_layer *l = &m->layer[i];
    json_t *j =
        json_pack("{s:s, s:s}", "attention", plan_tier_names[at->attention], "kv", plan_tier_names[at->kv]);
    for (int part = 0; j && part < PLAN_PARTS; part++) {
        uint32_t gpu, ram;
        plan_range(p, i, (enum plan_part)part, &gpu, &ram);
        if (l->row[part])
            json_object_set_new(j, plan_part_names[part], json_pack("[i, i]", (int)gpu, (int)ram));
    }
    json_object_set_new(j, "coverage",
                        json_pack("{s:o, s:o}", "calibration",
                                  json_number(plan_coverage(p, m, i, PLAN_GPU, false)), "held_out",
                                  json_number(plan_coverage(p, m, i, PLAN_GPU, true))));
    if (!whole) return j;
    json_object_set_new(j, "order", l->order ? base64(l->order, m->neurons * sizeof *l->order) : json_null());
    json_object_set_new(j, "frequency", base64(l->frequency, m->neurons * sizeof *l->frequency));
    return j;
}

json_t *plan_tree(const struct plan *p, const struct plan_model *m, bool whole)
{
    json_t *layers = json_array();
    for (uint32_t i = 0; i < p->layers; i++) json_array_append_new(layers, layer_json(p, m, i, whole));
    return json_pack("{s:i, s:o, s:o, s:{s:s, s:o}, s:o, s:b, s:s, s:o, s:o, s:s, s:s, s:o, s:s}",
                     "calor_plan", PLAN_VERSION, "model", model_json(m), "statistics", statistics_json(m),
                     "machine", "name", p->machine_name, "identity", hex64(p->machine), "settings",
                     settings_json(&p->settings), "degraded", p->degraded, "degraded_why", p->degraded_why,
                     "memory", memory_json(p), "prediction", prediction_json(p), "output",
                     plan_tier_names[p->place[p->layers].attention], "embedding",
                     plan_tier_names[p->place[p->layers + 1].attention], "layers", layers, "notes", p->notes);
}

json_t *plan_json(const struct plan *p, const struct plan_model *m)
{
    return plan_tree(p, m, false);
}

int plan_write(const struct plan *p, const struct plan_model *m, const char *path, struct err *e)
{
    json_t *j = plan_tree(p, m, true);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text) return err_set(e, ERR_NOMEM, "no memory to write a plan");
    struct file_out f = {0};
    int r = file_out_open(&f, path, e);
    if (r == 0) {
        r = file_out_write(&f, text, strlen(text), e);
        if (r == 0) r = file_out_write(&f, "\n", 1, e);
        if (r == 0) r = file_out_commit(&f, e);
        file_out_discard(&f);
    }
    free(text);
    return r;
}

/* ---- Reading ---- */

struct reader {
    const char *path;
    struct plan *p;
    struct plan_model *m;
    struct err *e;
};

__attribute__((format(printf, 2, 3))) static int bad(const struct reader *r, const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(r->e, ERR_FORMAT, "'%s': %s", r->path, what);
}

static int object(const struct reader *r, const json_t *from, const char *key, json_t **out)
{
    int rc = json_get_object(from, key, out, r->path, r->e);
    return rc == 1 ? bad(r, "a plan needs \"%s\", which is not there", key) : rc;
}

static int text(const struct reader *r, const json_t *from, const char *key, const char **out)
{
    int rc = json_get_str(from, key, out, r->path, r->e);
    return rc == 1 ? bad(r, "a plan needs \"%s\", which is not there", key) : rc;
}

static int number(const struct reader *r, const json_t *from, const char *key, uint32_t lo, uint32_t hi,
                  uint32_t *out)
{
    int rc = json_get_u32(from, key, out, r->path, r->e);
    if (rc == 1) return bad(r, "a plan needs \"%s\", which is not there", key);
    if (rc == 0 && (*out < lo || *out > hi))
        return bad(r, "\"%s\" is %u: expected %u to %u", key, *out, lo, hi);
    return rc;
}

static int size(const struct reader *r, const json_t *from, const char *key, uint64_t *out)
{
    *out = UINT64_MAX;
    int rc = json_get_u64(from, key, out, r->path, r->e);
    return rc == 1 ? 0 : rc;
}

static int hash(const struct reader *r, const json_t *from, const char *key, uint64_t *out)
{
    const char *s = NULL;
    int rc = text(r, from, key, &s);
    if (rc) return rc;
    if (strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return bad(r, "\"%s\" is not 16 hexadecimal digits", key);
    *out = strtoull(s, NULL, 16);
    return 0;
}

static int tier(const struct reader *r, const json_t *from, const char *key, bool disk, uint8_t *out)
{
    const char *s = NULL;
    int rc = text(r, from, key, &s);
    if (rc) return rc;
    for (int t = 0; t < PLAN_TIERS - !disk; t++)
        if (strcmp(s, plan_tier_names[t]) == 0) {
            *out = (uint8_t)t;
            return 0;
        }
    return bad(r, "\"%s\" is \"%.40s\": expected gpu, ram%s", key, s, disk ? " or disk" : "");
}

static int read_model(const struct reader *r, const json_t *root)
{
    json_t *j = NULL;
    const char *name = NULL, *mode = NULL, *id = NULL;
    uint32_t layers = 0, neurons = 0, width = 0;
    int rc = object(r, root, "model", &j);
    if (rc == 0) rc = text(r, j, "name", &name);
    if (rc == 0) rc = text(r, j, "mode", &mode);
    if (rc == 0) rc = number(r, j, "layers", 1, 4096, &layers);
    if (rc == 0) rc = number(r, j, "neurons", 1, 1u << 20, &neurons);
    if (rc == 0) rc = number(r, j, "width", 1, 1u << 20, &width);
    if (rc == 0 && (rc = json_get_str(j, "identity", &id, r->path, r->e)) == 1) rc = 0;
    if (rc) return rc;
    char own[33];
    gguf_identity_text(r->m->identity, own);
    if (layers != r->m->layers || neurons != r->m->neurons || width != r->m->width ||
        (id && r->m->has_identity && strcmp(id, own) != 0))
        return err_set(
            r->e, ERR_STALE,
            "'%s' is a plan for another model: for '%.60s' (%u layers of %u neurons, %.32s), this is '%s' "
            "(%u of %u, %s): plan again",
            r->path, name, layers, neurons, id ? id : "a shape", r->m->name, r->m->layers, r->m->neurons,
            r->m->has_identity ? own : "a shape");
    if (strcmp(mode, plan_mode_names[r->m->mode]) != 0)
        return err_set(r->e, ERR_STALE, "'%s' is a plan for the mode %.20s, not %s: plan again", r->path,
                       mode, plan_mode_names[r->m->mode]);
    return 0;
}

static int read_statistics(const struct reader *r, const json_t *root)
{
    json_t *j = NULL;
    const char *source = NULL;
    uint64_t h = 0;
    int rc = object(r, root, "statistics", &j);
    if (rc == 0) rc = text(r, j, "source", &source);
    if (rc == 0 && strcmp(source, "profile") == 0) rc = hash(r, j, "hash", &h);
    if (rc) return rc;
    if (r->m->statistics == PLAN_PROFILE && h != r->m->profile_hash)
        return err_set(r->e, ERR_STALE,
                       "'%s' was made with another profile (%016" PRIx64 ", this one is %016" PRIx64
                       "): plan again",
                       r->path, h, r->m->profile_hash);
    r->m->profile_hash = h;
    return 0;
}

static int read_settings(const struct reader *r, const json_t *root)
{
    struct plan_settings *s = &r->p->settings;
    struct ledger_settings *l = &s->memory;
    json_t *j = NULL;
    const char *kv = NULL;
    int rc = object(r, root, "settings", &j);
    if (rc == 0) rc = number(r, j, "context", 1, INT32_MAX, &l->context);
    if (rc == 0) rc = number(r, j, "batch", 1, INT32_MAX, &l->batch);
    if (rc == 0) rc = number(r, j, "threads", 1, 65536, &l->threads);
    if (rc == 0) rc = number(r, j, "position", 1, INT32_MAX, &s->position);
    if (rc == 0) rc = number(r, j, "prompt", 1, INT32_MAX, &s->prompt);
    if (rc == 0) rc = number(r, j, "unit", 1, 1u << 20, &s->unit);
    if (rc == 0) rc = number(r, j, "listed", 0, INT32_MAX, &s->listed);
    if (rc == 0) rc = size(r, j, "vram", &l->vram);
    if (rc == 0) rc = size(r, j, "ram", &l->ram);
    if (rc == 0) rc = size(r, j, "margin", &l->margin);
    if (rc == 0) rc = size(r, j, "staging", &l->staging);
    if (rc == 0) rc = size(r, j, "reading", &l->reading);
    if (rc == 0) rc = json_get_f64(j, "disk_ratio", &s->disk_ratio, r->path, r->e);
    if (rc == 0) rc = json_get_bool(j, "zstd", &s->zstd, r->path, r->e);
    if (rc == 0) rc = json_get_bool(j, "no_gpu", &s->no_gpu, r->path, r->e);
    if (rc == 0) rc = json_get_bool(j, "no_disk", &s->no_disk, r->path, r->e);
    if (rc == 1) return bad(r, "\"settings\" is not whole");
    if (rc == 0) rc = text(r, j, "kv", &kv);
    if (rc) return rc;
    if (!dtype_parse(kv, &l->kv) || !plan_model_kv(r->m, l->kv, 1))
        return bad(r, "\"kv\" is \"%.20s\": no type that this model's KV cache can have", kv);
    if (!(s->disk_ratio >= 1 && s->disk_ratio < 100))
        return bad(r, "\"disk_ratio\" is %g: expected 1 or more", s->disk_ratio);
    if (l->margin > UINT64_C(1) << 50 || l->staging > UINT64_C(1) << 50 || l->reading > UINT64_C(1) << 50)
        return bad(r, "\"margin\", \"staging\" and \"reading\" are sizes of buffers");
    if (s->unit > r->m->neurons)
        return bad(r, "\"unit\" is %u: a layer has %u neurons", s->unit, r->m->neurons);
    return 0;
}

/* An end of a range, in neurons, to units. */
static bool units_of(const struct reader *r, const json_t *j, uint32_t *out)
{
    json_int_t v = json_is_integer(j) ? json_integer_value(j) : -1;
    uint32_t unit = r->p->unit, n = r->m->neurons;
    if (v < 0 || v > (json_int_t)n || ((uint32_t)v % unit && (uint32_t)v != n)) return false;
    *out = ((uint32_t)v + unit - 1) / unit;
    return true;
}

static int read_part(const struct reader *r, const json_t *j, uint32_t layer, int part)
{
    const json_t *a = json_object_get(j, plan_part_names[part]);
    struct cost_place *at = &r->p->place[layer];
    at->part[part].gpu = 0;
    at->part[part].ram = (r->m->neurons + r->p->unit - 1) / r->p->unit;
    if (!r->m->layer[layer].row[part]) return 0;
    if (!json_is_array(a) || json_array_size(a) != 2 ||
        !units_of(r, json_array_get(a, 0), &at->part[part].gpu) ||
        !units_of(r, json_array_get(a, 1), &at->part[part].ram) || at->part[part].gpu > at->part[part].ram)
        return bad(r, "layer %u: \"%s\" is no pair of ends [gpu, ram] in steps of %u neurons, at most %u",
                   layer, plan_part_names[part], r->p->unit, r->m->neurons);
    return 0;
}

static int read_bytes(const struct reader *r, const json_t *j, uint32_t layer, const char *key, void *out)
{
    const json_t *s = json_object_get(j, key);
    if (!json_is_string(s) ||
        !unbase64(out, (size_t)r->m->neurons * 4, json_string_value(s), json_string_length(s)))
        return bad(r, "layer %u: \"%s\" is not %u numbers of 4 bytes in base64", layer, key, r->m->neurons);
    return 0;
}

static int read_order(const struct reader *r, const json_t *j, uint32_t layer, uint8_t *seen)
{
    struct plan_layer *l = &r->m->layer[layer];
    uint32_t n = r->m->neurons;
    if (json_is_null(json_object_get(j, "order"))) {
        free(l->order);
        l->order = NULL;
    } else {
        if (!l->order && !(l->order = malloc(n * sizeof *l->order)))
            return err_set(r->e, ERR_NOMEM, "no memory for the order of %u neurons", n);
        for (uint32_t i = 0; i < n; i++) l->order[i] = i; /* never anything else than neurons */
        uint32_t *order = malloc(n * sizeof *order);
        if (!order) return err_set(r->e, ERR_NOMEM, "no memory for the order of %u neurons", n);
        int rc = read_bytes(r, j, layer, "order", order);
        memset(seen, 0, n);
        for (uint32_t i = 0; i < n && rc == 0; i++) {
            if (order[i] >= n || seen[order[i]])
                rc = bad(r, "layer %u: \"order\" is no order: neuron %u stands there twice or is none of %u",
                         layer, order[i], n);
            else
                seen[order[i]] = 1;
        }
        if (rc == 0) memcpy(l->order, order, n * sizeof *order);
        free(order);
        if (rc) return rc;
    }
    float *f = malloc(n * sizeof *f);
    if (!f) return err_set(r->e, ERR_NOMEM, "no memory for the frequencies of %u neurons", n);
    int rc = read_bytes(r, j, layer, "frequency", f);
    double sum = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (!(f[i] >= 0 && f[i] <= 1) || (i && f[i] > f[i - 1]))
            rc = bad(r, "layer %u: \"frequency\" %u is %g: expected shares from hot to cold", layer, i,
                     (double)f[i]);
        else
            sum += (double)f[i];
    }
    if (rc == 0) {
        memcpy(l->frequency, f, n * sizeof *f);
        l->active = sum;
        free(l->held_out);
        l->held_out = NULL;
        if (l->candidates < sum / n) l->candidates = sum / n;
    }
    free(f);
    return rc;
}

static int read_layers(const struct reader *r, const json_t *root)
{
    json_t *all = NULL;
    int rc = json_get_array(root, "layers", &all, r->path, r->e);
    if (rc < 0) return rc;
    if (rc == 1 || json_array_size(all) != r->m->layers)
        return bad(r, "\"layers\" has %zu entries: expected %u", rc == 1 ? (size_t)0 : json_array_size(all),
                   r->m->layers);
    uint8_t *seen = malloc(r->m->neurons);
    if (!seen) return err_set(r->e, ERR_NOMEM, "no memory to read a plan");
    rc = 0;
    for (uint32_t i = 0; i < r->m->layers && rc == 0; i++) {
        const json_t *j = json_array_get(all, i);
        if (!json_is_object(j)) {
            rc = bad(r, "layer %u is no object", i);
            break;
        }
        rc = tier(r, j, "attention", true, &r->p->place[i].attention);
        if (rc == 0) rc = tier(r, j, "kv", false, &r->p->place[i].kv);
        for (int part = 0; part < PLAN_PARTS && rc == 0; part++) rc = read_part(r, j, i, part);
        if (rc == 0) rc = read_order(r, j, i, seen);
    }
    free(seen);
    return rc;
}

static int read_prediction(const struct reader *r, const json_t *root)
{
    struct plan *p = r->p;
    json_t *j = NULL;
    int rc = object(r, root, "prediction", &j);
    if (rc) return rc;
    p->time.first = NAN;
    rc = json_get_f64(j, "token_seconds", &p->time.token, r->path, r->e);
    if (rc == 0) rc = json_get_f64(j, "low", &p->time.low, r->path, r->e);
    if (rc == 0) rc = json_get_f64(j, "high", &p->time.high, r->path, r->e);
    if (rc == 0) rc = json_get_f64(j, "full_context", &p->time.token_full, r->path, r->e);
    if (rc == 0) rc = json_get_f64(j, "bound", &p->bound, r->path, r->e);
    if (rc == 0 && (rc = json_get_f64(j, "first_token_seconds", &p->time.first, r->path, r->e)) == 1) rc = 0;
    if (rc == 1 || (rc == 0 && !(p->time.token > 0))) return bad(r, "\"prediction\" is not whole");
    for (int i = 0; i < PLAN_RULES; i++) p->others[i] = NAN;
    return rc;
}

static int read_root(const struct reader *r, const json_t *root, const struct machine *machine)
{
    json_t *j = NULL;
    const char *name = NULL;
    uint32_t version = 0;
    if (!json_is_object(root) || !json_object_get(root, "calor_plan"))
        return bad(r, "no plan: make one with `calor plan`");
    int rc = number(r, root, "calor_plan", 0, UINT32_MAX, &version);
    if (rc) return rc;
    if (version != PLAN_VERSION)
        return err_set(r->e, ERR_UNSUPPORTED, "'%s' is a plan of version %u: expected %d", r->path, version,
                       PLAN_VERSION);
    rc = object(r, root, "machine", &j);
    if (rc == 0) rc = text(r, j, "name", &name);
    if (rc == 0) rc = hash(r, j, "identity", &r->p->machine);
    if (rc) return rc;
    snprintf(r->p->machine_name, sizeof r->p->machine_name, "%s", name);
    if ((rc = read_model(r, root)) || (rc = read_statistics(r, root))) return rc;
    if (machine && machine_identity(machine) != r->p->machine)
        return err_set(r->e, ERR_STALE,
                       "'%s' was made for the machine '%.60s', which differs from '%s': plan again", r->path,
                       name, machine->name);
    if ((rc = read_settings(r, root))) return rc;
    r->p->layers = r->m->layers;
    r->p->neurons = r->m->neurons;
    r->p->unit = r->p->settings.unit;
    r->p->place = calloc((size_t)r->p->layers + 2, sizeof *r->p->place);
    if (!r->p->place) return err_set(r->e, ERR_NOMEM, "no memory for a plan");
    if ((rc = read_layers(r, root))) return rc;
    struct cost_place *out = &r->p->place[r->p->layers];
    if ((rc = tier(r, root, "output", true, &out[0].attention)) ||
        (rc = tier(r, root, "embedding", true, &out[1].attention)))
        return rc;
    out[0].kv = out[0].attention == PLAN_GPU ? PLAN_GPU : PLAN_RAM;
    out[1].kv = PLAN_RAM;
    if (out[1].attention == PLAN_GPU) return bad(r, "\"embedding\" is \"gpu\": expected ram or disk");
    return read_prediction(r, root);
}

int plan_parse(struct plan **out, struct plan_model *m, const struct machine *machine, const char *data,
               size_t n, const char *path, struct err *e)
{
    *out = NULL;
    json_t *root = NULL;
    struct json_counts c;
    json_text_count(data, n, &c);
    /* A plan has a handful of values a layer: what would be built is bounded before it is. */
    if (c.containers > 64 + 8ull * m->layers || c.commas > 512 + 32ull * m->layers)
        return err_set(e, ERR_FORMAT, "'%s': more members than a plan of %u layers has", path, m->layers);
    int r = json_text_parse(&root, data, n, path, DEPTH, e);
    if (r) return r;
    struct plan *p = calloc(1, sizeof *p);
    struct reader rd = {.path = path, .p = p, .m = m, .e = e};
    r = p ? read_root(&rd, root, machine) : err_set(e, ERR_NOMEM, "no memory for a plan");
    json_decref(root);
    if (r) {
        plan_destroy(&p);
        return r;
    }
    *out = p;
    return 0;
}

int plan_read(struct plan **out, struct plan_model *m, const struct machine *machine, const char *path,
              struct err *e)
{
    char *data = NULL;
    size_t n;
    *out = NULL;
    int r = file_read_all(path, FILE_LIMIT, &data, &n, e);
    if (r == 0) r = plan_parse(out, m, machine, data, n, path, e);
    free(data);
    return r;
}
