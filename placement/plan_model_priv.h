/* What the two sources of plan_model share. Private to placement/. */
#ifndef PLACEMENT_PLAN_MODEL_PRIV_H
#define PLACEMENT_PLAN_MODEL_PRIV_H

#include "placement/plan_model.h"

/* Shapes, matrices and down_by_neuron are there: bytes of the layout and frequencies follow. On failure the
 * caller destroys the model. */
int plan_model_finish(struct plan_model *m, const struct profile *p, const struct plan_model_settings *s,
                      struct err *e);

#endif
