/* Processors and memory nodes: see affinity.h. The topology comes from hwloc where the build has it, else
 * from Linux's /sys. */
#include "base/affinity.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef CALOR_HWLOC
#include <hwloc.h>
#else
#include <sys/syscall.h>
#endif

enum { MAX_CPUS = 8 * sizeof(((struct affinity_mask *)0)->bits) };

void affinity_save(struct affinity_mask *m)
{
    memset(m, 0, sizeof *m);
    /* The kernel demands room for all processors it could have, which may be more than are there. */
    if (sched_getaffinity(0, sizeof m->bits, (cpu_set_t *)m->bits) == 0) m->bytes = sizeof m->bits;
}

void affinity_restore(const struct affinity_mask *m)
{
    if (m->bytes) (void)sched_setaffinity(0, m->bytes, (const cpu_set_t *)m->bits);
}

static bool mask_has(const struct affinity_mask *m, int cpu)
{
    const size_t w = 8 * sizeof m->bits[0];
    return cpu >= 0 && cpu < MAX_CPUS && (m->bits[(size_t)cpu / w] >> ((size_t)cpu % w) & 1);
}

int affinity_bind_thread(int cpu)
{
    if (cpu < 0 || cpu >= MAX_CPUS) return -1;
    struct affinity_mask m = {.bytes = sizeof m.bits};
    const size_t w = 8 * sizeof m.bits[0];
    m.bits[(size_t)cpu / w] = 1ul << ((size_t)cpu % w);
    return sched_setaffinity(0, sizeof m.bits, (const cpu_set_t *)m.bits) == 0 ? 0 : -1;
}

int affinity_cpus(void)
{
    struct affinity_mask m;
    affinity_save(&m);
    int n = 0;
    for (size_t i = 0; i < sizeof m.bits / sizeof *m.bits; i++) n += __builtin_popcountl(m.bits[i]);
    if (n == 0) n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

/* The machine's topology, read once: processor → core and node. -1: no such processor. */
static struct {
    int core[MAX_CPUS]; /* lowest processor of the same core */
    int node[MAX_CPUS];
    int nodes;
#ifdef CALOR_HWLOC
    hwloc_topology_t hw;
#endif
} topo;
static pthread_once_t topo_once = PTHREAD_ONCE_INIT;

#ifdef CALOR_HWLOC
static void topo_read(void)
{
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) != 0) return;
    /* The mask this process has now may be narrowed or widened later: read the whole machine. */
    hwloc_topology_set_flags(t, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    if (hwloc_topology_load(t) != 0) {
        hwloc_topology_destroy(t);
        return;
    }
    for (hwloc_obj_t c = NULL; (c = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_CORE, c));) {
        int first = hwloc_bitmap_first(c->cpuset);
        for (int cpu = first; cpu >= 0 && cpu < MAX_CPUS; cpu = hwloc_bitmap_next(c->cpuset, cpu))
            topo.core[cpu] = first;
    }
    for (hwloc_obj_t m = NULL; (m = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_NUMANODE, m));) {
        int cpu = hwloc_bitmap_first(m->cpuset);
        for (; cpu >= 0 && cpu < MAX_CPUS; cpu = hwloc_bitmap_next(m->cpuset, cpu))
            if (topo.node[cpu] < 0) topo.node[cpu] = (int)m->logical_index;
    }
    topo.nodes = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
    topo.hw = t; /* kept for binding memory, for the life of the process */
}

static int bind_range(void *p, size_t n, int node)
{
    hwloc_obj_t obj = hwloc_get_obj_by_type(topo.hw, HWLOC_OBJ_NUMANODE, (unsigned)node);
    if (!obj) return -1;
    return hwloc_set_area_membind(topo.hw, p, n, obj->nodeset, HWLOC_MEMBIND_BIND,
                                  HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE);
}
#else
/* First number of a list such as "0-3,8-11", or -1. */
static int list_first(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    int v = -1;
    if (fscanf(f, "%d", &v) != 1) v = -1;
    fclose(f);
    return v;
}

static void topo_read(void)
{
    char path[128];
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        int first = list_first(path);
        if (first >= 0 && first < MAX_CPUS) topo.core[cpu] = first;
    }
    for (int node = 0;; node++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
        FILE *f = fopen(path, "re");
        if (!f) break;
        int a, b;
        char sep = ',';
        while (sep == ',' && fscanf(f, "%d", &a) == 1) {
            b = a;
            int c = fgetc(f);
            if (c == '-') {
                if (fscanf(f, "%d", &b) != 1) break;
                c = fgetc(f);
            }
            for (int cpu = a; cpu >= 0 && cpu <= b && cpu < MAX_CPUS; cpu++) topo.node[cpu] = node;
            sep = (char)c;
        }
        fclose(f);
        topo.nodes = node + 1;
    }
}

static int bind_range(void *p, size_t n, int node)
{
    unsigned long mask[16] = {0};
    const size_t w = 8 * sizeof mask[0];
    if (node < 0 || (size_t)node >= w * 16) return -1;
    mask[(size_t)node / w] = 1ul << ((size_t)node % w);
    /* MPOL_PREFERRED and MPOL_MF_MOVE of <linux/mempolicy.h>; the count is one past the last bit looked at.
     */
    return syscall(SYS_mbind, p, n, 1, mask, sizeof mask * 8, 2) == 0 ? 0 : -1;
}
#endif

static void topo_init(void)
{
    for (int i = 0; i < MAX_CPUS; i++) topo.core[i] = topo.node[i] = -1;
    topo_read();
    if (topo.nodes < 1) topo.nodes = 1;
}

int affinity_cores(int *cpus, int cap)
{
    pthread_once(&topo_once, topo_init);
    struct affinity_mask m;
    affinity_save(&m);
    if (!m.bytes) {
        int n = affinity_cpus();
        for (int i = 0; i < n && i < cap; i++) cpus[i] = i;
        return n;
    }
    bool seen[MAX_CPUS] = {false};
    int n = 0;
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!mask_has(&m, cpu)) continue;
        int core = topo.core[cpu] >= 0 ? topo.core[cpu] : cpu;
        if (seen[core]) continue;
        seen[core] = true;
        if (n < cap) cpus[n] = cpu;
        n++;
    }
    return n > 0 ? n : 1;
}

int affinity_nodes(void)
{
    pthread_once(&topo_once, topo_init);
    return topo.nodes;
}

int affinity_node_of(int cpu)
{
    pthread_once(&topo_once, topo_init);
    return cpu >= 0 && cpu < MAX_CPUS && topo.node[cpu] >= 0 ? topo.node[cpu] : 0;
}

int affinity_bind_memory(void *p, size_t n, int node)
{
    pthread_once(&topo_once, topo_init);
    if (topo.nodes <= 1) return 0;
    if (node < 0 || node >= topo.nodes) return -1;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) & ~(page - 1), end = ((uintptr_t)p + n) & ~(page - 1);
    if (begin >= end) return 0; /* no whole page inside */
    return bind_range((void *)begin, end - begin, node) == 0 ? 0 : -1;
}

/* ---- Control groups ---- */

/* Reads "QUOTA PERIOD" (v2: one file) or one number (v1); false when absent or "max". */
static bool read_numbers(const char *path, int want, double *a, double *b)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    int got = want == 2 ? fscanf(f, "%lf %lf", a, b) : fscanf(f, "%lf", a);
    fclose(f);
    return got == want;
}

static void take_limit(double *least, double quota, double period)
{
    if (quota > 0 && period > 0 && (*least == 0 || quota / period < *least)) *least = quota / period;
}

/* Walks from `group` ("/a/b") up to the mount's root: every level's limit holds. Inside a container the path
 * may not exist below the mount: only the levels that do count. */
static void walk_up(double *least, const char *root, const char *mount, const char *group, bool v2)
{
    char at[1024], path[2048];
    snprintf(at, sizeof at, "%s", group);
    for (;;) {
        size_t n = strlen(at);
        while (n > 0 && at[n - 1] == '/') at[--n] = 0;
        double quota = 0, period = 0;
        if (v2) {
            snprintf(path, sizeof path, "%s%s%s/cpu.max", root, mount, at);
            if (read_numbers(path, 2, &quota, &period)) take_limit(least, quota, period);
        } else {
            snprintf(path, sizeof path, "%s%s%s/cpu.cfs_quota_us", root, mount, at);
            bool have = read_numbers(path, 1, &quota, NULL);
            snprintf(path, sizeof path, "%s%s%s/cpu.cfs_period_us", root, mount, at);
            if (have && read_numbers(path, 1, &period, NULL)) take_limit(least, quota, period);
        }
        char *slash = strrchr(at, '/');
        if (!slash) break;
        *slash = 0;
    }
}

/* Whether the comma-separated list names the cpu controller. */
static bool names_cpu(const char *list)
{
    for (const char *p = list; p; p = strchr(p, ',')) {
        if (*p == ',') p++;
        if (strncmp(p, "cpu", 3) == 0 && (p[3] == ',' || p[3] == 0)) return true;
    }
    return false;
}

double affinity_quota(const char *root)
{
    if (!root) root = "";
    char path[1024], *line = NULL;
    size_t cap = 0;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    double least = 0;
    while (getline(&line, &cap, f) > 0) {
        /* "0::/group" (v2) or "4:cpu,cpuacct:/group" (v1) */
        line[strcspn(line, "\n")] = 0;
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        list++;
        if (!*list && strncmp(line, "0:", 2) == 0) {
            walk_up(&least, root, "/sys/fs/cgroup", group, true);
            walk_up(&least, root, "/sys/fs/cgroup/unified", group, true);
        } else if (names_cpu(list)) {
            walk_up(&least, root, "/sys/fs/cgroup/cpu", group, false);
            walk_up(&least, root, "/sys/fs/cgroup/cpu,cpuacct", group, false);
        }
    }
    free(line);
    fclose(f);
    return least;
}
