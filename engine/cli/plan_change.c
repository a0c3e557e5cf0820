/* calor plan's --what-if and --sweep: the same problem with other numbers. */
#include "engine/cli/plan.h"

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS_MOST = 200 };

static int whole(const char *key, const char *value, int64_t *out, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (end == value || *end || errno || v < 1 || v > INT32_MAX)
        return err_set(e, ERR_ARG, "%s=%.60s: expected a whole number from 1", key, value);
    *out = v;
    return 0;
}

static int choice(const char *key, const char *value, const char *const *names, int *out, struct err *e)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], value) == 0) {
            *out = i;
            return 0;
        }
    return err_set(e, ERR_ARG, "%s=%.60s: expected %s, %s or %s", key, value, names[0], names[1], names[2]);
}

int plan_job_set(struct plan_job *j, const char *text, struct err *e)
{
    static const char *const keys[] = {"vram", "ram",      "context", "kv",      "batch", "threads",
                                       "mode", "sparsity", "type",    "machine", NULL};
    static const char *const kv[] = {"f16", "q8_0", "f32", NULL};
    char key[32];
    const char *eq = strchr(text, '='), *value = eq ? eq + 1 : "";
    snprintf(key, sizeof key, "%.*s", eq ? (int)(eq - text) : 0, text);
    if (!eq || !*value) return err_set(e, ERR_ARG, "'%.60s' is not KEY=VALUE", text);
    if (strcmp(key, "vram") == 0) return size_parse(value, &j->vram, e);
    if (strcmp(key, "ram") == 0) return size_parse(value, &j->ram, e);
    if (strcmp(key, "context") == 0) return whole(key, value, &j->context, e);
    if (strcmp(key, "batch") == 0) return whole(key, value, &j->batch, e);
    if (strcmp(key, "threads") == 0) return whole(key, value, &j->threads, e);
    if (strcmp(key, "kv") == 0) return choice(key, value, kv, &j->kv, e);
    if (strcmp(key, "mode") == 0) return choice(key, value, plan_mode_names, &j->mode, e);
    if (strcmp(key, "machine") == 0) {
        j->machine_name = value;
        return 0;
    }
    if (strcmp(key, "type") == 0) {
        if (j->model_path) return err_set(e, ERR_ARG, "type=%.20s: a model has its own types", value);
        j->type = value;
        return 0;
    }
    if (strcmp(key, "sparsity") == 0) {
        char *end;
        j->sparsity = strtod(value, &end);
        if (end == value || *end || !(j->sparsity >= 0 && j->sparsity < 1))
            return err_set(e, ERR_ARG, "sparsity=%.60s: expected a share from 0, below 1", value);
        if (j->profile_path) return err_set(e, ERR_ARG, "sparsity=%.20s: the profile says it", value);
        return 0;
    }
    const char *near = cli_nearest(key, keys);
    return err_set(e, ERR_ARG, "'%.30s' is nothing that can be changed%s%s%s", key,
                   near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* ---- What if ---- */

int plan_what_if(const struct plan_job *base, const struct plan *p, const struct cli_strs *changes,
                 json_t *json, struct err *e)
{
    struct plan_job *j = malloc(sizeof *j);
    json_t *list = json ? json_array() : NULL;
    if (!j) return err_set(e, ERR_NOMEM, "no memory for another plan");
    if (!json) {
        printf("\nwhat if                            per token  tokens/s   first token        VRAM         "
               "RAM\n");
        printf("  %-31s %9.2f ms %9.1f %11.2f s\n", "as it is", p->time.token * 1e3, 1 / p->time.token,
               p->time.first);
    }
    int r = 0;
    for (int i = 0; i < changes->n && r == 0; i++) {
        struct plan *other = NULL;
        struct err why = {0};
        *j = *base;
        r = plan_job_set(j, changes->v[i], e);
        if (r) break;
        r = plan_job_prepare(j, &why);
        if (r == 0) r = plan_solve(&other, j->model, &j->machine, &j->settings, &why);
        if (r && r != ERR_FULL) {
            *e = why;
        } else if (json) {
            json_array_append_new(
                list, json_pack("{s:s, s:o, s:o, s:s}", "change", changes->v[i], "token_seconds",
                                json_number(other ? other->time.token : NAN), "first_token_seconds",
                                json_number(other ? other->time.first : NAN), "error", other ? "" : why.msg));
            r = 0;
        } else if (!other) {
            printf("  %-31s %s\n", changes->v[i], why.msg);
            r = 0;
        } else {
            char v[32], m[32];
            printf("  %-31s %9.2f ms %9.1f %11.2f s %11s %11s   %.2f×\n", changes->v[i],
                   other->time.token * 1e3, 1 / other->time.token, other->time.first,
                   size_format(other->used[PLAN_GPU], v, sizeof v),
                   size_format(other->used[PLAN_RAM], m, sizeof m), p->time.token / other->time.token);
        }
        plan_destroy(&other);
        plan_job_finish(j);
    }
    if (json) json_object_set_new(json, "what_if", list);
    free(j);
    return r;
}

/* ---- Sweeps ---- */

static int one_point(struct plan_sweep *s, struct plan_job *j, uint64_t value, struct err *e)
{
    struct plan_settings set = j->settings;
    struct plan_point *at = &s->point[s->n];
    struct plan *p = NULL;
    struct err why = {0};
    if (strcmp(s->key, "vram") == 0) {
        set.memory.vram = value;
        set.no_gpu = value == 0;
        /* A card with that much: its figures, other memory. */
        if (j->machine.n_gpus && value > j->machine.gpu[0].memory) j->machine.gpu[0].memory = value;
    } else if (strcmp(s->key, "ram") == 0) {
        set.memory.ram = value;
        if (value > j->machine.memory) j->machine.memory = value;
    } else {
        set.memory.context = (uint32_t)value;
        if (set.position > value) set.position = (uint32_t)value;
    }
    int r = plan_solve(&p, j->model, &j->machine, &set, &why);
    if (r && r != ERR_FULL) {
        *e = why;
        return r;
    }
    *at = (struct plan_point){.vram = p ? p->used[PLAN_GPU] : set.memory.vram,
                              .ram = p ? p->used[PLAN_RAM] : set.memory.ram,
                              .context = set.memory.context,
                              .token = p ? p->time.token : NAN};
    if (strcmp(s->key, "vram") == 0) at->vram = value;
    if (strcmp(s->key, "ram") == 0) at->ram = value;
    s->first[s->n++] = p ? p->time.first : NAN;
    plan_destroy(&p);
    return 0;
}

static int parse_sweep(struct plan_sweep *s, const char *text, uint64_t v[3], struct err *e)
{
    const char *eq = strchr(text, '=');
    char part[3][40];
    if (!eq || sscanf(eq + 1, "%39[^:]:%39[^:]:%39s", part[0], part[1], part[2]) != 3)
        return err_set(e, ERR_ARG, "--sweep %.60s: expected KEY=FROM:TO:STEP, such as vram=4G:24G:2G", text);
    snprintf(s->key, sizeof s->key, "%.*s", (int)(eq - text < 15 ? eq - text : 15), text);
    if (strcmp(s->key, "vram") != 0 && strcmp(s->key, "ram") != 0 && strcmp(s->key, "context") != 0)
        return err_set(e, ERR_ARG, "--sweep: '%s' is not vram, ram or context", s->key);
    for (int i = 0; i < 3; i++) {
        int r = size_parse(part[i], &v[i], e);
        if (r) return err_prefix(e, r, "--sweep %.60s", text);
    }
    if (v[2] == 0 || v[1] < v[0] || (v[1] - v[0]) / v[2] >= POINTS_MOST)
        return err_set(e, ERR_ARG, "--sweep %.60s: expected 1 to %d steps upwards", text, POINTS_MOST);
    if (strcmp(s->key, "context") == 0 && (v[0] < 1 || v[1] > INT32_MAX))
        return err_set(e, ERR_ARG, "--sweep %.60s: a context has 1 to %d tokens", text, INT32_MAX);
    return 0;
}

int plan_sweep_run(struct plan_sweep *s, const struct plan_job *base, const char *text, struct err *e)
{
    uint64_t v[3];
    int r = parse_sweep(s, text, v, e);
    if (r) return r;
    if (strcmp(s->key, "vram") == 0 && !base->machine.n_gpus)
        return err_set(e, ERR_ARG, "--sweep vram: the machine '%s' has no GPU", base->machine.name);
    struct plan_job *j = malloc(sizeof *j);
    s->point = calloc(POINTS_MOST, sizeof *s->point);
    s->first = calloc(POINTS_MOST, sizeof *s->first);
    if (!j || !s->point || !s->first) {
        r = err_set(e, ERR_NOMEM, "no memory for a sweep");
    } else {
        *j = *base; /* the model is shared, the machine's memory may grow */
        for (uint64_t at = v[0]; r == 0 && at <= v[1] && s->n < POINTS_MOST; at += v[2])
            r = one_point(s, j, at, e);
    }
    free(j);
    return r;
}

static uint64_t swept(const struct plan_sweep *s, size_t i)
{
    return strcmp(s->key, "vram") == 0  ? s->point[i].vram
           : strcmp(s->key, "ram") == 0 ? s->point[i].ram
                                        : s->point[i].context;
}

void plan_sweep_print(const struct plan_sweep *s)
{
    bool size = strcmp(s->key, "context") != 0;
    printf("\n%12s   per token  tokens/s   first token%s\n", s->key, size ? "   one more GiB saves" : "");
    for (size_t i = 0; i < s->n; i++) {
        char v[32];
        if (size)
            size_format(swept(s, i), v, sizeof v);
        else
            snprintf(v, sizeof v, "%u", s->point[i].context);
        if (isnan(s->point[i].token)) {
            printf("%12s   does not fit\n", v);
            continue;
        }
        printf("%12s %8.2f ms %9.1f %11.2f s", v, s->point[i].token * 1e3, 1 / s->point[i].token,
               s->first[i]);
        if (size && i && !isnan(s->point[i - 1].token))
            printf("%14.2f ms", (s->point[i - 1].token - s->point[i].token) * 1e3 /
                                    ((double)(swept(s, i) - swept(s, i - 1)) / 0x1p30));
        printf("\n");
    }
}

json_t *plan_sweep_json(const struct plan_sweep *s)
{
    json_t *j = json_array();
    for (size_t i = 0; i < s->n; i++)
        json_array_append_new(j, json_pack("{s:I, s:o, s:o}", s->key, (json_int_t)swept(s, i),
                                           "token_seconds", json_number(s->point[i].token),
                                           "first_token_seconds", json_number(s->first[i])));
    return j;
}

void plan_sweep_finish(struct plan_sweep *s)
{
    free(s->point);
    free(s->first);
    *s = (struct plan_sweep){0};
}
