/* See place.h. */
#include "engine/place.h"

#include "base/affinity.h"
#include "base/err.h"
#include "base/threads.h"
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

static int node_of(const struct calor_model *m, int thread)
{
    int node = team_node(m->team, thread);
    return node > 0 ? node : 0;
}

int place_init(struct place *p, const struct calor_model *m)
{
    int n = team_size(m->team), count[PLACE_GROUPS] = {0};
    *p = (struct place){.groups = 1, .first = {0, n}};
    if (affinity_nodes() < 2) return 0;
    p->group_of = calloc((size_t)n, 1);
    if (!p->group_of) return ERR_NOMEM;
    int groups = 0;
    for (int i = 0; i < n; i++) {
        int node = node_of(m, i), g = 0;
        while (g < groups && p->node[g] != node) g++;
        if (g == PLACE_GROUPS) { /* too many */
            place_finish(p);
            *p = (struct place){.groups = 1, .first = {0, n}};
            return 0;
        }
        if (g == groups) p->node[groups++] = node;
        p->group_of[i] = (uint8_t)g;
        count[g]++;
    }
    p->groups = groups;
    for (int g = 0; g < groups; g++) p->first[g + 1] = p->first[g] + count[g];
    return 0;
}

void place_finish(struct place *p)
{
    free(p->group_of);
    p->group_of = NULL;
}

void place_bind(const struct place *p, uint8_t *data, int64_t rows, uint64_t row_bytes)
{
    for (int g = 0; g < p->groups; g++) {
        int64_t begin, end;
        place_range(p, g, rows, &begin, &end);
        affinity_bind_memory(data + (uint64_t)begin * row_bytes,
                             (size_t)((uint64_t)(end - begin) * row_bytes), p->node[g]);
    }
}
