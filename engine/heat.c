/* Profiles, as models use them: see heat.h. */
#include "engine/heat.h"

#include "base/err.h"
#include "engine/model.h"
#include "io/gguf.h"
#include "placement/profile.h"

#include <math.h>
#include <string.h>

static int check(const struct calor_model *m, const struct profile *p, const char *path, struct err *e)
{
    const struct profile_subject *s = profile_subject(p);
    uint8_t identity[16];
    int rc = gguf_identity(m->file, identity, e);
    if (rc == 0) rc = profile_check_model(p, identity, m->name, e);
    if (rc == 0 && (s->layers != m->hp.layers || s->neurons != m->hp.ffn || s->width != m->hp.width))
        rc = err_set(e, ERR_STALE,
                     "the profile has %u layers of %u neurons %u wide, the model %u of %u, %u wide",
                     s->layers, s->neurons, s->width, m->hp.layers, m->hp.ffn, m->hp.width);
    if (rc == 0 && strcmp(s->activation, m->act.name) != 0)
        rc = err_set(e, ERR_STALE,
                     "the profile was made with the activation %s, the model runs with %s: make one with "
                     "--activation %s",
                     s->activation, m->act.name, m->act.name);
    return rc ? err_prefix(e, rc, "'%s'", path) : 0;
}

static int take_epsilons(struct calor_model *m, const struct profile *p, double cett, struct err *e)
{
    const struct profile_ppl *found = profile_ppl(p);
    bool own = !profile_subject(p)->zeros; /* else a neuron counts from 0 on, which leaves nothing out */
    if (cett == 0.0 && !own) {
        if (!found) return 0;
        cett = (double)found->cett;
    }
    m->epsilon = model_alloc(m, m->hp.layers * sizeof *m->epsilon);
    if (!m->epsilon) return err_set(e, ERR_NOMEM, "no memory for %u epsilons", m->hp.layers);
    for (uint32_t i = 0; i < m->hp.layers; i++) {
        m->epsilon[i] = profile_epsilon(p, i);
        int rc = cett > 0.0 ? profile_epsilon_for(p, i, cett, &m->epsilon[i], e) : 0;
        if (rc) return rc;
    }
    return 0;
}

int heat_take(struct calor_model *m, const char *path, double cett, bool order, struct err *e)
{
    struct profile *p;
    if (!(cett >= 0.0) || isinf(cett))
        return err_set(e, ERR_ARG, "a CETT of %g: expected a number from 0", cett);
    int rc = profile_open(&p, path, e);
    if (rc == 0) rc = check(m, p, path, e);
    if (rc == 0) rc = take_epsilons(m, p, cett, e);
    for (uint32_t i = 0; rc == 0 && order && i < m->hp.layers; i++)
        rc = neurons_set_order(m, i, profile_order(p, i), e);
    profile_close(&p);
    return rc;
}
