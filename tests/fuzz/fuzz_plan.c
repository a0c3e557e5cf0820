/* The reader of plan.json, against a small model: what it accepts must lie within the model. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "placement/plan_priv.h"

#include <string.h>

enum { NEURONS = 12, LAYERS = 2 };

static struct plan_model *model(void)
{
    static const struct plan_shape shape = {"fuzz", 8,  NEURONS, LAYERS, 2,      1,
                                            300,    64, true,    false,  DT_F16, DT_F16};
    struct plan_model_settings s = plan_model_default();
    struct plan_model *m;
    struct err e;
    s.sparsity = 0.5;
    if (plan_model_from_shape(&m, &shape, NULL, &s, &e)) abort();
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct plan *p = NULL;
    struct plan_model *m = model();
    int rc = plan_parse(&p, m, NULL, (const char *)data, size, "fuzz", &e);
    PROMISE((rc == 0) == (p != NULL));
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM));
    /* The model can be used whatever happened. */
    for (uint32_t i = 0; i < LAYERS; i++) {
        for (uint32_t k = 0; k < NEURONS; k++) {
            float f = m->layer[i].frequency[k];
            PROMISE(f >= 0 && f <= 1);
            PROMISE(!m->layer[i].order || m->layer[i].order[k] < NEURONS);
        }
        for (int part = 0; p && part < PLAN_PARTS; part++) {
            uint32_t gpu, ram;
            plan_range(p, i, (enum plan_part)part, &gpu, &ram);
            PROMISE(gpu <= ram && ram <= NEURONS);
        }
    }
    if (p) {
        PROMISE(p->layers == LAYERS && p->unit >= 1 && p->unit <= NEURONS && p->time.token > 0);
        json_t *j = plan_tree(p, m, true);
        char *text = j ? json_dumps(j, 0) : NULL;
        struct plan *again = NULL;
        PROMISE(text);
        PROMISE(plan_parse(&again, m, NULL, text, strlen(text), "again", &e) == 0);
        PROMISE(memcmp(again->place, p->place, (LAYERS + 2) * sizeof *p->place) == 0);
        plan_destroy(&again);
        json_decref(j);
        free(text);
    }
    plan_destroy(&p);
    plan_model_destroy(&m);
    return 0;
}
