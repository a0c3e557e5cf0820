/* What the files of `calor plan` share. */
#ifndef ENGINE_CLI_PLAN_H
#define ENGINE_CLI_PLAN_H

#include "engine/cli/cli.h"
#include "placement/plan.h"
#include "placement/plan_page.h"
#include "placement/profile.h"

#include <jansson.h>

/* Exit statuses of the command: docs/architecture.md §6. Bad flags end with CLI_ERROR, since 2 has a meaning.
 */
enum { PLAN_FITS = 0, PLAN_DEGRADED = 2, PLAN_IMPOSSIBLE = 3, PLAN_STALE = 4 };

/* All that a plan is made from, as the command line has it. */
struct plan_job {
    const char *model_path, *shape, *type, *hotness, *profile_path, *machine_name;
    double sparsity, candidates;
    uint64_t vram, ram; /* UINT64_MAX: what there is */
    int64_t context, batch, threads, prompt, position;
    int kv, mode;
    bool no_disk;

    struct machine machine;
    char machine_note[400]; /* where the machine comes from, where that has to be said */
    struct profile *profile;
    struct plan_model *model;
    struct plan_settings settings;
};

/* Opens what the job names; plan_job_finish either way. */
int plan_job_prepare(struct plan_job *j, struct err *e);
void plan_job_finish(struct plan_job *j);

/* "k=v" of --what-if into the job, before it is prepared. ERR_ARG. */
int plan_job_set(struct plan_job *j, const char *text, struct err *e);

/* --what-if: plans once more with each change, and prints both side by side, or adds to `json`. */
int plan_what_if(const struct plan_job *base, const struct plan *p, const struct cli_strs *changes,
                 json_t *json, struct err *e);

/* --sweep "vram=4G:24G:2G". Points are the caller's (free); those that do not fit have NaN. */
struct plan_sweep {
    char key[16];
    struct plan_point *point;
    double *first; /* seconds to first token */
    size_t n;
};
int plan_sweep_run(struct plan_sweep *s, const struct plan_job *base, const char *text, struct err *e);
void plan_sweep_print(const struct plan_sweep *s);
json_t *plan_sweep_json(const struct plan_sweep *s);
void plan_sweep_finish(struct plan_sweep *s);

/* The exit status for an error. Prints it. */
int plan_fail(const struct err *e);

#endif
