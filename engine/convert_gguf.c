/* Converting, the GGUF side: the same tensors and metadata in another type. */
#include "engine/convert.h"

#include "base/err.h"
#include "engine/activation.h"
#include "io/gguf.h"

#include <math.h>
#include <string.h>

int convert_gguf_plan(const struct gguf *f, enum dtype want, const char *activation, struct conv_list *l,
                      struct gguf_writer *w, struct err *e)
{
    if (gguf_is_powerinfer(f))
        return err_set(e, ERR_UNSUPPORTED,
                       "'%s' is a PowerInfer file: its transposed down matrices and predictors have no place "
                       "in a plain GGUF",
                       gguf_path(f));
    int rc = gguf_put_copy(w, f, NULL, e);
    if (rc == 0 && activation) {
        /* Calor's own key stands above every other. */
        struct activation known;
        rc = activation_parse(&known, activation, strlen(activation), NAN, e);
        rc = rc ? rc : gguf_put_str(w, "calor.activation", activation, e);
    }
    bool tied = !gguf_find_tensor(f, "output.weight");
    for (int64_t i = 0; rc == 0 && i < gguf_n_tensors(f); i++) {
        const struct gguf_tensor *g = gguf_tensor(f, i);
        struct conv_tensor *t;
        if (strlen(g->name) >= sizeof t->name)
            return err_set(e, ERR_UNSUPPORTED, "tensor name '%.64s…' is longer than %zu characters", g->name,
                           sizeof t->name - 1);
        if (!(t = conv_add(l, e))) return ERR_NOMEM;
        memcpy(t->name, g->name, strlen(g->name) + 1);
        t->n_dims = g->n_dims;
        memcpy(t->ne, g->ne, sizeof t->ne);
        t->gguf = g;
        /* Integer tables (token maps and the like) are carried over as they are. */
        t->type =
            dtype_info(g->type)->weights ? conv_pick_type(t->name, t->n_dims, t->ne, want, tied) : g->type;
    }
    return rc;
}
