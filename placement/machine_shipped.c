/* The shipped machines: parts by name out of machines.json, which is built in, joined to a whole one. */
#include "placement/machine_priv.h"

#include "base/err.h"
#include "base/json_text.h"
#include "base/nearest.h"
#include "base/size.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MOST = 16, NAMES_MOST = 128, NAME_BYTES = 64 };

/* One name being joined. */
struct join {
    const char *name; /* all of it, for messages */
    const json_t *parts;
    struct machine *m;
    struct machine *part; /* room for one */
    bool host;            /* processor and memory are there */
    struct err *e;
};

static int file(json_t **root, json_t **parts, struct err *e)
{
    int rc = json_text_parse(root, (const char *)machines_json, machines_json_bytes, "machines.json",
                             MACHINE_DEPTH + 2, e);
    if (rc) return rc;
    if (json_get_object(*root, "parts", parts, "machines.json", e) == 0) return 0;
    json_decref(*root);
    return err_set(e, ERR_FORMAT, "'machines.json' has no parts");
}

int machine_shipped_each(int (*fn)(const char *name, const char *says, void *arg), void *arg, struct err *e)
{
    json_t *root, *parts, *v;
    const char *key;
    int rc = file(&root, &parts, e);
    if (rc) return rc;
    json_object_foreach(parts, key, v)
    {
        const char *says = "";
        if ((rc = json_get_str(v, "says", &says, key, e)) < 0 || (rc = fn(key, says, arg))) break;
    }
    json_decref(root);
    return rc;
}

static int unknown(const struct join *j, const char *name)
{
    const char *names[NAMES_MOST], *key;
    json_t *v;
    int n = 0;
    json_object_foreach((json_t *)(uintptr_t)j->parts, key, v) if (n < NAMES_MOST - 1) names[n++] = key;
    names[n] = NULL;
    const char *near = nearest_name(name, names);
    return err_set(j->e, ERR_ARG,
                   "'%.100s': no machine has a part '%.60s'%s%s%s; `calor probe --list` shows them all",
                   j->name, name, near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Gives the machine another memory. */
static int resize(const struct join *j, const char *text)
{
    uint64_t bytes;
    struct machine *m = j->part;
    if (m->cores == 0)
        return err_set(j->e, ERR_ARG, "'%.100s': only the part with processor and memory can have a size",
                       j->name);
    int rc = size_parse(text, &bytes, j->e);
    if (rc) return err_prefix(j->e, rc, "'%.100s'", j->name);
    m->memory = bytes;
    m->node[0].memory = bytes;
    return 0;
}

static int add_host(struct join *j)
{
    struct machine *m = j->m;
    const struct machine *p = j->part;
    if (j->host)
        return err_set(j->e, ERR_ARG, "'%.100s' has two parts with processor and memory: expected one",
                       j->name);
    j->host = true;
    memcpy(m->cpu, p->cpu, sizeof m->cpu);
    m->packages = p->packages;
    m->cores = p->cores;
    m->performance_cores = p->performance_cores;
    m->threads = p->threads;
    m->memory = p->memory;
    m->last_level_cache = p->last_level_cache;
    m->nodes = p->nodes;
    memcpy(m->node, p->node, sizeof m->node);
    m->stream = p->stream;
    m->scattered = p->scattered;
    m->barrier = p->barrier;
    m->n_kernels = p->n_kernels;
    memcpy(m->kernel, p->kernel, sizeof m->kernel);
    m->unzstd = p->unzstd;
    return 0;
}

/* The sections of a part are those of a machine, without what describes it. */
static int read_part(struct join *j, const char *name, const json_t *v)
{
    json_t *o = json_copy((json_t *)(uintptr_t)v);
    if (!o) return err_set(j->e, ERR_NOMEM, "no memory for '%.100s'", j->name);
    json_object_del(o, "says");
    json_object_del(o, "source");
    char where[96];
    snprintf(where, sizeof where, "machines.json: %.60s", name);
    int rc = machine_from_json(j->part, o, false, where, j->e);
    json_decref(o);
    return rc;
}

static int add_parts(struct join *j, const char *names, int depth);

static int add_part(struct join *j, char *name, int depth)
{
    char *size = strchr(name, ':');
    if (size) *size++ = 0;
    const json_t *v = json_object_get(j->parts, name);
    if (!v) return unknown(j, name);
    const char *join = NULL, *source = "";
    int rc = json_get_str(v, "join", &join, name, j->e);
    if (rc < 0) return rc;
    if (join && (size || depth))
        return err_set(j->e, ERR_ARG,
                       "'%.100s': '%.60s' is a whole machine: give its parts instead, '%.100s'", j->name,
                       name, join);
    if (join) return add_parts(j, join, depth + 1);
    if ((rc = read_part(j, name, v)) || (size && (rc = resize(j, size)))) return rc;
    if (j->part->cores && (rc = add_host(j))) return rc;
    struct machine *m = j->m;
    for (uint32_t i = 0; i < j->part->n_gpus; i++) {
        if (m->n_gpus == MACHINE_GPUS)
            return err_set(j->e, ERR_ARG, "'%.100s' has more than %d GPUs", j->name, MACHINE_GPUS);
        m->gpu[m->n_gpus++] = j->part->gpu[i];
    }
    for (uint32_t i = 0; i < j->part->n_disks; i++) {
        if (m->n_disks == MACHINE_DISKS)
            return err_set(j->e, ERR_ARG, "'%.100s' has more than %d drives", j->name, MACHINE_DISKS);
        m->disk[m->n_disks++] = j->part->disk[i];
    }
    if ((rc = json_get_str(v, "source", &source, name, j->e)) < 0) return rc;
    machine_add_note(m, name, "%s", source);
    return 0;
}

static int add_parts(struct join *j, const char *names, int depth)
{
    int n = 0;
    for (const char *p = names;; p++) {
        char one[NAME_BYTES];
        size_t len = strcspn(p, "+");
        if (len == 0 || len >= sizeof one || ++n > PARTS_MOST)
            return err_set(j->e, ERR_ARG,
                           "'%.100s' is no machine: expected parts joined by '+', such as "
                           "rtx4090+ddr5-5600x2+gen4, or a file made by `calor probe`",
                           j->name);
        for (size_t i = 0; i < len; i++) one[i] = (char)tolower((unsigned char)p[i]);
        one[len] = 0;
        int rc = add_part(j, one, depth);
        if (rc) return rc;
        p += len;
        if (!*p) return 0;
    }
}

int machine_shipped(struct machine *m, const char *name, struct err *e)
{
    json_t *root, *parts;
    const char *date = "";
    int rc = file(&root, &parts, e);
    if (rc) return rc;
    memset(m, 0, sizeof *m);
    struct join j = {.name = name, .parts = parts, .m = m, .e = e, .part = malloc(sizeof *j.part)};
    rc = j.part ? add_parts(&j, name, 0) : err_set(e, ERR_NOMEM, "no memory for the machine '%.100s'", name);
    if (rc == 0 && !j.host)
        rc = err_set(e, ERR_ARG,
                     "'%.100s' has no processor and memory: add one, such as %.60s+ddr5-5600x2; `calor probe "
                     "--list` shows them all",
                     name, name);
    if (rc == 0 && (rc = json_get_str(root, "date", &date, "machines.json", e)) >= 0) {
        snprintf(m->name, sizeof m->name, "%s", name);
        snprintf(m->date, sizeof m->date, "%s", date);
        snprintf(m->method, sizeof m->method,
                 "Not measured: published figures of the parts, and the assumptions stated in the notes.");
        rc = machine_check(m, true, "machines.json", e);
    }
    free(j.part);
    json_decref(root);
    return rc;
}
