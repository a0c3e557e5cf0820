/* Processors and memory nodes this process may use, and binding to them. Everything here degrades to "no
 * limit, one node" where the platform tells nothing. Thread-safe. */
#ifndef BASE_AFFINITY_H
#define BASE_AFFINITY_H

#include <stddef.h>

/* Logical processors in the calling thread's affinity mask, at least 1. */
int affinity_cpus(void);

/* Physical cores with at least one processor in the calling thread's affinity mask, at least 1. For the first
 * `cap` of them cpus[i] is the lowest allowed processor of core i (operating system's number), in the order
 * of these numbers. */
int affinity_cores(int *cpus, int cap);

/* Processors' worth of time the control groups (v1 or v2, the process's own group and all above it) leave
 * this process, such as 1.5; 0: no limit. `root` stands before /proc and /sys (NULL: none; tests give a
 * made-up tree). */
double affinity_quota(const char *root);

/* Pins the calling thread to one processor. 0, or -1 where that is refused. */
int affinity_bind_thread(int cpu);

/* The calling thread's mask, saved and put back (opaque bytes). */
struct affinity_mask {
    unsigned long bits[128];
    size_t bytes; /* 0: unknown, nothing is put back */
};
void affinity_save(struct affinity_mask *m);
void affinity_restore(const struct affinity_mask *m);

/* Memory nodes of the machine, at least 1, and the node (0 … nodes-1) next to a processor; 0 when unknown. */
int affinity_nodes(void);
int affinity_node_of(int cpu);

/* Asks that the whole pages inside [p, p+n) lie on `node`: pages not touched yet are allocated there, pages
 * of this process alone that were touched move. A wish, not a demand: a full node spills to others. 0 when
 * done or when the machine has one node, -1 when refused (nothing is wrong then, only slower). */
int affinity_bind_memory(void *p, size_t n, int node);

#endif
