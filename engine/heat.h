/* What a model takes from a profile while it is opened. Private to engine/. */
#ifndef ENGINE_HEAT_H
#define ENGINE_HEAT_H

#include <stdbool.h>

struct calor_model;
struct err;

/* Reads the profile at `path`, which must be of this model with this activation (else ERR_STALE), and keeps
 * the epsilons: those for `cett`, or with 0 those the profile was made with, or was found to keep perplexity
 * with; none where it has none of its own. With `order`, neurons_lay_out will put every layer's neurons from
 * hot to cold. The model's weights are bound by then. */
int heat_take(struct calor_model *m, const char *path, double cett, bool order, struct err *e);

#endif
