/* Screens: cheap tests that rule neurons out before their gate is read. What a screen leaves are candidates;
 * they get the exact gate, which decides (ffn_neurons.c). Private to engine/. What each costs and keeps:
 * docs/screens.md.
 *
 *   plane      the gate's coarse plane with a bound on what the fine plane can change: CALOR_EXACT and
 *              CALOR_SURE on models opened with planes
 *   predictor  a small trained network: CALOR_PREDICT */
#ifndef ENGINE_SCREEN_H
#define ENGINE_SCREEN_H

#include "engine/neurons.h"
#include "engine/pass.h"

/* The gates that may let a neuron through: those above `least` (or not below it), and NaN, which has to show.
 * `all`: every one. */
struct gate_test {
    float least;
    bool all, at_least;
};

/* The tokens' prepared inputs: each thread has its own. */
struct ffn_inputs {
    const void *gate[NEURON_TOKENS], *up[NEURON_TOKENS];
    const void *predictor[NEURON_TOKENS]; /* what fc1 reads; with CALOR_PREDICT only */
    uint8_t *rest;                        /* of this thread's memory for prepared inputs */
};

/* What a screen knows of the tokens: each thread has its own. */
struct screen_work {
    struct kern_plane_x x[NEURON_TOKENS];
    struct kern_plane_bound bound[NEURON_TOKENS];
    const void *hidden[NEURON_TOKENS]; /* prepared for fc2 */
};

struct screen {
    const char *name;
    /* Looks at the tokens. All threads call it, and it may let them meet. */
    void (*begin)(const struct pass *p, struct team_member *t, uint32_t layer, const struct gate_test *test,
                  const struct ffn_inputs *x, int64_t T, struct screen_work *w);
    /* The candidates among neurons [i, i + n), at most KERN_BLOCK, for token k: their places in it,
     * ascending. Returns how many. */
    int64_t (*candidates)(const struct pass *p, struct team_member *t, uint32_t layer,
                          const struct screen_work *w, int64_t k, int64_t i, int64_t n, uint16_t *list);
};

/* The screen of a layer in this pass, NULL where every gate is to be computed. */
const struct screen *screen_of(const struct pass *p, const struct layer *l, const struct gate_test *test);

/* Bytes a thread needs for prepared inputs of one token, beside those of gate and up. */
size_t screen_input_bytes(const struct layer *l);

/* With a session's `recall`: after the blocks of T tokens have been summed, all threads count what is active
 * with nothing left out (recall.c); behind the next barrier, one thread adds the blocks up, in order. */
void ffn_recall(const struct pass *p, struct team_member *t, uint32_t layer, const struct ffn_inputs *x,
                int64_t T);
void ffn_recall_add(const struct pass *p, uint32_t layer, int64_t T);

#endif
