/* Weights on the memory node of the threads that read them. On a machine whose threads sit on one node
 * nothing is copied; on several, each matrix's rows are split among the nodes in proportion to their threads,
 * and threads take their own node's rows first (product.c). Private to engine/. */
#ifndef ENGINE_PLACE_H
#define ENGINE_PLACE_H

#include <stdint.h>

struct calor_model;

/* More nodes than this are treated as one: the slots of a team are few. */
#define PLACE_GROUPS 4

struct place {
    int groups;                  /* nodes with threads; 1: no placement */
    int node[PLACE_GROUPS];      /* the memory node of each group */
    int first[PLACE_GROUPS + 1]; /* threads of groups before g, of all groups at the end */
    uint8_t *group_of;           /* of each thread; NULL with one group */
};

/* Looks where the team's threads sit. 0 or ERR_NOMEM; place_finish in any case. */
int place_init(struct place *p, const struct calor_model *m);
void place_finish(struct place *p);

/* The items [begin, end) of n that group g computes first. */
static inline void place_range(const struct place *p, int g, int64_t n, int64_t *begin, int64_t *end)
{
    *begin = n * p->first[g] / p->first[p->groups];
    *end = n * p->first[g + 1] / p->first[p->groups];
}

/* Binds the rows of a matrix in fresh memory to the nodes of their groups. */
void place_bind(const struct place *p, uint8_t *data, int64_t rows, uint64_t row_bytes);

#endif
