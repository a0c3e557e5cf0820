/* Writing machine.json: see machine.h, docs/machine-format.md. */
#include "placement/machine_priv.h"

#include "base/err.h"
#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Trees are built member by member; a failed allocation leaves a hole, which `ok` remembers. */
struct tree {
    bool ok;
};

static void put(struct tree *t, json_t *o, const char *key, json_t *v)
{
    if (json_object_set_new(o, key, v) != 0) t->ok = false;
}

static void append(struct tree *t, json_t *list, json_t *v)
{
    if (json_array_append_new(list, v) != 0) t->ok = false;
}

static void put_text(struct tree *t, json_t *o, const char *key, const char *text)
{
    if (!*text) return;
    json_t *v = json_string(text);
    if (!v) { /* not UTF-8, such as the name of an old folder: its plain characters */
        char plain[1024];
        snprintf(plain, sizeof plain, "%s", text);
        for (char *p = plain; *p; p++)
            if (*p & 0x80) *p = '?';
        v = json_string(plain);
    }
    put(t, o, key, v);
}

static void put_int(struct tree *t, json_t *o, const char *key, uint64_t v)
{
    if (v) put(t, o, key, json_integer((json_int_t)v));
}

static json_t *whole(double v)
{
    return json_integer((json_int_t)llround(v));
}

static void put_figure(struct tree *t, json_t *o, const char *key, const struct machine_figure *f,
                       double unit)
{
    if (!(f->value > 0)) return;
    if (f->samples == 0 && f->low == f->value && f->high == f->value) {
        put(t, o, key, whole(f->value / unit));
        return;
    }
    json_t *v = json_object();
    put(t, v, "value", whole(f->value / unit));
    put(t, v, "low", whole(f->low / unit));
    put(t, v, "high", whole(f->high / unit));
    put(t, v, "samples", json_integer(f->samples));
    put(t, o, key, v);
}

static void put_curve(struct tree *t, json_t *o, const char *key, const char *x,
                      const struct machine_curve *c)
{
    if (c->n == 0) return;
    json_t *list = json_array();
    for (uint32_t i = 0; i < c->n; i++) {
        const struct machine_point *p = &c->at[i];
        json_t *v = json_object();
        put_int(t, v, x, p->x);
        put_int(t, v, "depth", p->depth);
        put_figure(t, v, "rate", &p->rate, 1);
        if (p->p50 > 0) put(t, v, "p50_ns", whole(p->p50 * 1e9));
        if (p->p99 > 0) put(t, v, "p99_ns", whole(p->p99 * 1e9));
        append(t, list, v);
    }
    put(t, o, key, list);
}

static json_t *cpu_json(struct tree *t, const struct machine *m)
{
    json_t *o = json_object();
    put_text(t, o, "name", m->cpu);
    put_int(t, o, "packages", m->packages);
    put_int(t, o, "cores", m->cores);
    put_int(t, o, "performance_cores", m->performance_cores);
    put_int(t, o, "threads", m->threads);
    put_int(t, o, "last_level_cache", m->last_level_cache);
    put_figure(t, o, "barrier_ns", &m->barrier, 1e-9);
    return o;
}

static json_t *memory_json(struct tree *t, const struct machine *m)
{
    json_t *o = json_object(), *nodes = json_array();
    put_int(t, o, "bytes", m->memory);
    put_int(t, o, "free", m->memory_free);
    for (uint32_t i = 0; i < m->nodes; i++) {
        json_t *n = json_object(), *d = json_array();
        put_int(t, n, "bytes", m->node[i].memory);
        put_int(t, n, "cores", m->node[i].cores);
        for (uint32_t k = 0; k < m->nodes; k++) append(t, d, json_integer(m->node[i].distance[k]));
        put(t, n, "distance", d);
        append(t, nodes, n);
    }
    put(t, o, "nodes", nodes);
    put_curve(t, o, "stream", "threads", &m->stream);
    put_curve(t, o, "scattered", "row", &m->scattered);
    return o;
}

static json_t *gpu_json(struct tree *t, const struct machine_gpu *g)
{
    json_t *o = json_object();
    put_text(t, o, "name", g->name);
    put_text(t, o, "bus", g->bus);
    put(t, o, "node", json_integer(g->node));
    put_int(t, o, "bytes", g->memory);
    put_int(t, o, "reserved", g->reserved);
    put_figure(t, o, "read", &g->read, 1);
    put_figure(t, o, "scattered", &g->scattered, 1);
    put_figure(t, o, "gemm", &g->gemm, 1);
    put_figure(t, o, "pinned", &g->pinned, 1);
    put_figure(t, o, "pageable", &g->pageable, 1);
    put_figure(t, o, "launch_ns", &g->launch, 1e-9);
    put_figure(t, o, "rendezvous_ns", &g->rendezvous, 1e-9);
    return o;
}

json_t *machine_json(const struct machine *m)
{
    struct tree tree = {true}, *t = &tree;
    json_t *root = json_object(), *kernels = json_array(), *gpus = json_array(), *disks = json_array(),
           *notes = json_array();
    put(t, root, "calor_machine", json_integer(MACHINE_VERSION));
    put_text(t, root, "name", m->name);
    put_text(t, root, "date", m->date);
    put_text(t, root, "method", m->method);
    put(t, root, "cpu", cpu_json(t, m));
    put(t, root, "memory", memory_json(t, m));
    for (uint32_t i = 0; i < m->n_kernels; i++) {
        const struct machine_kernel *k = &m->kernel[i];
        json_t *o = json_object();
        put_text(t, o, "type", dtype_name((uint32_t)k->type));
        put_figure(t, o, "matvec", &k->matvec, 1);
        put_figure(t, o, "listed", &k->listed, 1);
        put_figure(t, o, "down", &k->down, 1);
        put_figure(t, o, "gemm", &k->gemm, 1);
        append(t, kernels, o);
    }
    put(t, root, "kernels", kernels);
    put_figure(t, root, "unzstd", &m->unzstd, 1);
    for (uint32_t i = 0; i < m->n_gpus; i++) append(t, gpus, gpu_json(t, &m->gpu[i]));
    put(t, root, "gpus", gpus);
    for (uint32_t i = 0; i < m->n_disks; i++) {
        const struct machine_disk *d = &m->disk[i];
        json_t *o = json_object();
        put_text(t, o, "name", d->name);
        put_text(t, o, "where", d->where);
        put(t, o, "node", json_integer(d->node));
        put(t, o, "direct", json_boolean(d->direct));
        put_curve(t, o, "read", "block", &d->read);
        append(t, disks, o);
    }
    put(t, root, "disks", disks);
    for (uint32_t i = 0; i < m->n_notes; i++) {
        json_t *o = json_object();
        put_text(t, o, "what", m->note[i].what);
        put_text(t, o, "how", m->note[i].how);
        append(t, notes, o);
    }
    put(t, root, "notes", notes);
    if (tree.ok) return root;
    json_decref(root);
    return NULL;
}

int machine_write(const struct machine *m, const char *path, struct err *e)
{
    int rc = machine_check(m, true, path, e);
    if (rc) return rc;
    json_t *root = machine_json(m);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!text) return err_set(e, ERR_NOMEM, "no memory to write '%s'", path);
    struct file_out f;
    rc = file_out_open(&f, path, e);
    if (rc == 0) {
        if ((rc = file_out_write(&f, text, strlen(text), e)) == 0 &&
            (rc = file_out_write(&f, "\n", 1, e)) == 0)
            rc = file_out_commit(&f, e);
        else
            file_out_discard(&f);
    }
    free(text);
    return rc;
}
