/* Reading machine.json, which is nobody's to trust: members by name, then the bounds of machine_check. */
#include "placement/machine_priv.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where in the file: "machine.json: gpus[0]". */
struct at {
    char where[600];
    struct err *e;
};

static struct at inside(const struct at *outer, const char *name, int index)
{
    struct at a = {.e = outer->e};
    /* An endless path loses its end, never its message. */
    if (index >= 0)
        snprintf(a.where, sizeof a.where, "%.500s: %s[%d]", outer->where, name, index);
    else
        snprintf(a.where, sizeof a.where, "%.500s: %s", outer->where, name);
    return a;
}

/* Every member must be one of `known` ("|name|name|"): a misspelt one would count as not measured. */
static int members(const struct at *a, const json_t *o, const char *known)
{
    const char *key;
    json_t *v;
    if (!json_is_object(o)) return err_set(a->e, ERR_FORMAT, "'%s': expected an object", a->where);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        char name[64];
        int n = snprintf(name, sizeof name, "|%s|", key);
        if (n < (int)sizeof name && strchr(key, '|') == NULL && strstr(known, name)) continue;
        return err_set(a->e, ERR_FORMAT,
                       "'%s' has a member \"%.40s\", which is not known: expected some of %s", a->where, key,
                       known);
    }
    return 0;
}

static int text(const struct at *a, const json_t *o, const char *key, char *out, size_t size)
{
    const char *s = "";
    int rc = json_get_str(o, key, &s, a->where, a->e);
    if (rc < 0) return rc;
    if (strlen(s) >= size)
        return err_set(a->e, ERR_FORMAT, "'%s': \"%s\" has %zu bytes: expected at most %zu", a->where, key,
                       strlen(s), size - 1);
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(a->e, ERR_FORMAT, "'%s': \"%s\" has a control character in it", a->where, key);
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int u32(const struct at *a, const json_t *o, const char *key, uint32_t *out)
{
    int rc = json_get_u32(o, key, out, a->where, a->e);
    return rc < 0 ? rc : 0;
}

static int u64(const struct at *a, const json_t *o, const char *key, uint64_t *out)
{
    int rc = json_get_u64(o, key, out, a->where, a->e);
    return rc < 0 ? rc : 0;
}

static int node_number(const struct at *a, const json_t *o, int *out)
{
    int64_t v = -1;
    int rc = json_get_i64(o, "node", &v, a->where, a->e);
    if (rc < 0) return rc;
    if (v < -1 || v >= MACHINE_NODES)
        return err_set(a->e, ERR_FORMAT, "'%s': \"node\" is %lld: expected -1 to %d", a->where, (long long)v,
                       MACHINE_NODES - 1);
    *out = (int)v;
    return 0;
}

/* A figure: a plain number where it was published, an object where it was measured; absent: not known. */
static int figure(const struct at *a, const json_t *o, const char *key, double unit, struct machine_figure *f)
{
    const json_t *v = json_object_get(o, key);
    *f = (struct machine_figure){0};
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) {
        int rc = json_get_f64(o, key, &f->value, a->where, a->e);
        if (rc < 0) return rc;
        if (!(f->value > 0))
            return err_set(a->e, ERR_FORMAT, "'%s': \"%s\" is %g: expected a positive number", a->where, key,
                           f->value);
        f->low = f->high = f->value *= unit;
        return 0;
    }
    struct at in = inside(a, key, -1);
    int rc = members(&in, v, "|value|low|high|samples|");
    if (rc) return rc;
    if ((rc = json_get_f64(v, "value", &f->value, in.where, in.e)) < 0) return rc;
    if (!(f->value > 0)) return err_set(a->e, ERR_FORMAT, "'%s': expected a positive \"value\"", in.where);
    f->low = f->high = f->value;
    if ((rc = json_get_f64(v, "low", &f->low, in.where, in.e)) < 0 ||
        (rc = json_get_f64(v, "high", &f->high, in.where, in.e)) < 0 ||
        (rc = u32(&in, v, "samples", &f->samples)))
        return rc;
    f->value *= unit;
    f->low *= unit;
    f->high *= unit;
    return 0;
}

/* The array of that name, with at most `most` values; *n = 0 where it is absent. */
static int array(const struct at *a, const json_t *o, const char *key, uint32_t most, json_t **out,
                 uint32_t *n)
{
    *n = 0;
    *out = NULL;
    int rc = json_get_array(o, key, out, a->where, a->e);
    if (rc) return rc < 0 ? rc : 0;
    size_t size = json_array_size(*out);
    if (size > most)
        return err_set(a->e, ERR_FORMAT, "'%s': \"%s\" has %zu values: expected at most %u", a->where, key,
                       size, most);
    *n = (uint32_t)size;
    return 0;
}

static int curve(const struct at *a, const json_t *o, const char *key, const char *x, struct machine_curve *c)
{
    json_t *list;
    char known[80];
    bool blocks = strcmp(x, "block") == 0;
    snprintf(known, sizeof known, "|%s|rate|%s", x, blocks ? "depth|p50_ns|p99_ns|" : "");
    int rc = array(a, o, key, MACHINE_POINTS, &list, &c->n);
    for (uint32_t i = 0; rc == 0 && i < c->n; i++) {
        struct at in = inside(a, key, (int)i);
        const json_t *v = json_array_get(list, i);
        struct machine_point *p = &c->at[i];
        *p = (struct machine_point){0};
        if ((rc = members(&in, v, known)) || (rc = u64(&in, v, x, &p->x)) ||
            (rc = u32(&in, v, "depth", &p->depth)) || (rc = figure(&in, v, "rate", 1, &p->rate)))
            break;
        if ((rc = json_get_f64(v, "p50_ns", &p->p50, in.where, in.e)) < 0 ||
            (rc = json_get_f64(v, "p99_ns", &p->p99, in.where, in.e)) < 0)
            break;
        rc = 0;
        p->p50 *= 1e-9;
        p->p99 *= 1e-9;
    }
    if (rc == 0) machine_sort_curve(c);
    return rc;
}

static int read_cpu(const struct at *a, const json_t *o, struct machine *m)
{
    int rc = members(a, o, "|name|packages|cores|performance_cores|threads|last_level_cache|barrier_ns|");
    if (rc) return rc;
    if ((rc = text(a, o, "name", m->cpu, sizeof m->cpu)) || (rc = u32(a, o, "packages", &m->packages)) ||
        (rc = u32(a, o, "cores", &m->cores)) ||
        (rc = u32(a, o, "performance_cores", &m->performance_cores)) ||
        (rc = u32(a, o, "threads", &m->threads)) ||
        (rc = u64(a, o, "last_level_cache", &m->last_level_cache)))
        return rc;
    return figure(a, o, "barrier_ns", 1e-9, &m->barrier);
}

static int read_memory(const struct at *a, const json_t *o, struct machine *m)
{
    json_t *nodes, *distance;
    uint32_t n;
    int rc = members(a, o, "|bytes|free|nodes|stream|scattered|");
    if (rc) return rc;
    if ((rc = u64(a, o, "bytes", &m->memory)) || (rc = u64(a, o, "free", &m->memory_free)) ||
        (rc = curve(a, o, "stream", "threads", &m->stream)) ||
        (rc = curve(a, o, "scattered", "row", &m->scattered)) ||
        (rc = array(a, o, "nodes", MACHINE_NODES, &nodes, &m->nodes)))
        return rc;
    for (uint32_t i = 0; i < m->nodes; i++) {
        struct at in = inside(a, "nodes", (int)i);
        const json_t *v = json_array_get(nodes, i);
        struct machine_node *node = &m->node[i];
        if ((rc = members(&in, v, "|bytes|cores|distance|")) || (rc = u64(&in, v, "bytes", &node->memory)) ||
            (rc = u32(&in, v, "cores", &node->cores)) ||
            (rc = array(&in, v, "distance", MACHINE_NODES, &distance, &n)))
            return rc;
        if (n && n != m->nodes)
            return err_set(a->e, ERR_FORMAT,
                           "'%s': \"distance\" has %u values: expected one for each of %u nodes", in.where, n,
                           m->nodes);
        for (uint32_t k = 0; k < m->nodes; k++) {
            const json_t *d = n ? json_array_get(distance, k) : NULL;
            if (d && (!json_is_integer(d) || json_integer_value(d) < 1 || json_integer_value(d) > 65535))
                return err_set(a->e, ERR_FORMAT, "'%s': \"distance\": expected whole numbers from 1 to 65535",
                               in.where);
            node->distance[k] = d ? (uint32_t)json_integer_value(d) : k == i ? 10 : 20;
        }
    }
    return 0;
}

static int read_kernels(const struct at *a, const json_t *root, struct machine *m)
{
    json_t *list;
    int rc = array(a, root, "kernels", DT_COUNT, &list, &m->n_kernels);
    for (uint32_t i = 0; rc == 0 && i < m->n_kernels; i++) {
        struct at in = inside(a, "kernels", (int)i);
        const json_t *v = json_array_get(list, i);
        struct machine_kernel *k = &m->kernel[i];
        const char *type = "";
        if ((rc = members(&in, v, "|type|matvec|listed|down|gemm|"))) break;
        if ((rc = json_get_str(v, "type", &type, in.where, in.e)) < 0) break;
        if (!dtype_parse(type, &k->type)) {
            rc = err_set(a->e, ERR_FORMAT, "'%s': \"type\" is \"%.20s\": expected one like Q4_0 or F16",
                         in.where, type);
            break;
        }
        if ((rc = figure(&in, v, "matvec", 1, &k->matvec)) ||
            (rc = figure(&in, v, "listed", 1, &k->listed)) || (rc = figure(&in, v, "down", 1, &k->down)) ||
            (rc = figure(&in, v, "gemm", 1, &k->gemm)))
            break;
    }
    return rc;
}

static int read_gpu(const struct at *a, const json_t *o, struct machine_gpu *g)
{
    int rc = members(a, o,
                     "|name|bus|node|bytes|reserved|read|scattered|gemm|pinned|pageable|launch_ns|"
                     "rendezvous_ns|");
    if (rc) return rc;
    if ((rc = text(a, o, "name", g->name, sizeof g->name)) ||
        (rc = text(a, o, "bus", g->bus, sizeof g->bus)) || (rc = node_number(a, o, &g->node)) ||
        (rc = u64(a, o, "bytes", &g->memory)) || (rc = u64(a, o, "reserved", &g->reserved)) ||
        (rc = figure(a, o, "read", 1, &g->read)) || (rc = figure(a, o, "scattered", 1, &g->scattered)) ||
        (rc = figure(a, o, "gemm", 1, &g->gemm)) || (rc = figure(a, o, "pinned", 1, &g->pinned)) ||
        (rc = figure(a, o, "pageable", 1, &g->pageable)) ||
        (rc = figure(a, o, "launch_ns", 1e-9, &g->launch)))
        return rc;
    return figure(a, o, "rendezvous_ns", 1e-9, &g->rendezvous);
}

static int read_disk(const struct at *a, const json_t *o, struct machine_disk *d)
{
    int rc = members(a, o, "|name|where|node|direct|read|");
    if (rc) return rc;
    if ((rc = text(a, o, "name", d->name, sizeof d->name)) ||
        (rc = text(a, o, "where", d->where, sizeof d->where)) || (rc = node_number(a, o, &d->node)) ||
        (rc = curve(a, o, "read", "block", &d->read)))
        return rc;
    rc = json_get_bool(o, "direct", &d->direct, a->where, a->e);
    return rc < 0 ? rc : 0;
}

static int read_notes(const struct at *a, const json_t *root, struct machine *m)
{
    json_t *list;
    int rc = array(a, root, "notes", MACHINE_NOTES, &list, &m->n_notes);
    for (uint32_t i = 0; rc == 0 && i < m->n_notes; i++) {
        struct at in = inside(a, "notes", (int)i);
        const json_t *v = json_array_get(list, i);
        if ((rc = members(&in, v, "|what|how|")) == 0 &&
            (rc = text(&in, v, "what", m->note[i].what, sizeof m->note[i].what)) == 0)
            rc = text(&in, v, "how", m->note[i].how, sizeof m->note[i].how);
    }
    return rc;
}

int machine_from_json(struct machine *m, const json_t *root, bool whole, const char *where, struct err *e)
{
    struct at a = {.e = e}, in;
    json_t *part = NULL, *list;
    snprintf(a.where, sizeof a.where, "%.500s", where);
    memset(m, 0, sizeof *m);
    int rc = members(&a, root, "|calor_machine|name|date|method|cpu|memory|kernels|unzstd|gpus|disks|notes|");
    if (rc) return rc;
    uint32_t version = 0;
    if ((rc = json_get_u32(root, "calor_machine", &version, a.where, e)) < 0) return rc;
    if (whole && rc == 1)
        return err_set(e, ERR_FORMAT,
                       "'%s' is no machine: \"calor_machine\" is missing; make one with `calor probe`",
                       where);
    if (whole && version != MACHINE_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "'%s' is a machine of version %u: expected %d; probe again", where,
                       version, MACHINE_VERSION);
    if ((rc = text(&a, root, "name", m->name, sizeof m->name)) ||
        (rc = text(&a, root, "date", m->date, sizeof m->date)) ||
        (rc = text(&a, root, "method", m->method, sizeof m->method)))
        return rc;
    if ((rc = json_get_object(root, "cpu", &part, a.where, e)) < 0) return rc;
    if (rc == 0) {
        in = inside(&a, "cpu", -1);
        if ((rc = read_cpu(&in, part, m))) return rc;
    }
    if ((rc = json_get_object(root, "memory", &part, a.where, e)) < 0) return rc;
    if (rc == 0) {
        in = inside(&a, "memory", -1);
        if ((rc = read_memory(&in, part, m))) return rc;
    }
    if ((rc = read_kernels(&a, root, m)) || (rc = figure(&a, root, "unzstd", 1, &m->unzstd)) ||
        (rc = array(&a, root, "gpus", MACHINE_GPUS, &list, &m->n_gpus)))
        return rc;
    for (uint32_t i = 0; i < m->n_gpus; i++) {
        in = inside(&a, "gpus", (int)i);
        if ((rc = read_gpu(&in, json_array_get(list, i), &m->gpu[i]))) return rc;
    }
    if ((rc = array(&a, root, "disks", MACHINE_DISKS, &list, &m->n_disks))) return rc;
    for (uint32_t i = 0; i < m->n_disks; i++) {
        in = inside(&a, "disks", (int)i);
        if ((rc = read_disk(&in, json_array_get(list, i), &m->disk[i]))) return rc;
    }
    if ((rc = read_notes(&a, root, m))) return rc;
    return whole ? machine_check(m, true, a.where, e) : 0;
}

int machine_parse(struct machine *m, const char *text_, size_t n, const char *path, struct err *e)
{
    json_t *root;
    int rc = json_text_parse(&root, text_, n, path, MACHINE_DEPTH, e);
    if (rc) return rc;
    rc = machine_from_json(m, root, true, path, e);
    json_decref(root);
    return rc;
}

int machine_read(struct machine *m, const char *path, struct err *e)
{
    char *data;
    size_t n;
    int rc = file_read_all(path, MACHINE_FILE_LIMIT, &data, &n, e);
    if (rc) return rc;
    rc = machine_parse(m, data, n, path, e);
    free(data);
    return rc;
}
