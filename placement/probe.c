/* What the machine is made of: packages, cores of each kind, memory nodes and their distances, caches, and on
 * which node GPUs and drives hang. hwloc reads it from the live machine or from an XML of another one. */
#include "placement/probe_priv.h"

#include "base/affinity.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hoststate.h"
#include "base/threads.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#if CALOR_HWLOC
#include <hwloc.h>

enum { DEVICES_MOST = 8 }; /* that are told of: the notes are for more than devices */

/* The cores of the fastest kind, all of them where there is only one kind. */
static uint32_t fast_cores(hwloc_topology_t t, uint32_t cores)
{
    int kinds = hwloc_cpukinds_get_nr(t, 0);
    if (kinds < 2) return cores;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    uint32_t n = cores;
    int efficiency = -1;
    /* Kinds are in the order of their performance; -1: hwloc could not tell. */
    if (set && hwloc_cpukinds_get_info(t, (unsigned)kinds - 1, set, &efficiency, NULL, NULL, 0) == 0 &&
        efficiency >= 0) {
        int k = hwloc_get_nbobjs_inside_cpuset_by_type(t, set, HWLOC_OBJ_CORE);
        if (k > 0) n = (uint32_t)k;
    }
    hwloc_bitmap_free(set);
    return n;
}

static uint64_t last_caches(hwloc_topology_t t)
{
    static const hwloc_obj_type_t level[] = {HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L2CACHE};
    for (int i = 0; i < 3; i++) {
        uint64_t sum = 0;
        hwloc_obj_t c = NULL;
        while ((c = hwloc_get_next_obj_by_type(t, level[i], c))) sum += c->attr->cache.size;
        if (sum) return sum;
    }
    return 0;
}

static void read_distances(hwloc_topology_t t, struct machine *m)
{
    for (uint32_t i = 0; i < m->nodes; i++)
        for (uint32_t k = 0; k < m->nodes; k++) m->node[i].distance[k] = i == k ? 10 : 20;
    unsigned n = 1;
    struct hwloc_distances_s *d = NULL;
    if (hwloc_distances_get_by_type(t, HWLOC_OBJ_NUMANODE, &n, &d, HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) !=
            0 ||
        n == 0 || !d)
        return;
    for (unsigned i = 0; i < d->nbobjs; i++)
        for (unsigned k = 0; k < d->nbobjs; k++) {
            unsigned a = d->objs[i]->logical_index, b = d->objs[k]->logical_index;
            uint64_t v = d->values[(size_t)i * d->nbobjs + k];
            if (a < m->nodes && b < m->nodes && v >= 1 && v <= 65535) m->node[a].distance[b] = (uint32_t)v;
        }
    hwloc_distances_release(t, d);
}

static void read_nodes(hwloc_topology_t t, struct machine *m)
{
    int n = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
    if (n > MACHINE_NODES)
        machine_add_note(m, "warning", "%d memory nodes: only the first %d are looked at", n, MACHINE_NODES);
    m->nodes = n < 1 ? 0 : n > MACHINE_NODES ? MACHINE_NODES : (uint32_t)n;
    for (uint32_t i = 0; i < m->nodes; i++) {
        hwloc_obj_t o = hwloc_get_obj_by_type(t, HWLOC_OBJ_NUMANODE, i);
        int cores = hwloc_get_nbobjs_inside_cpuset_by_type(t, o->cpuset, HWLOC_OBJ_CORE);
        m->node[i].memory = o->attr->numanode.local_memory;
        m->node[i].cores = cores > 0 ? (uint32_t)cores : 0;
        m->memory += m->node[i].memory;
    }
    read_distances(t, m);
}

/* Logical number of the memory node a device hangs on, -1 where it is near several. */
static int node_near(hwloc_topology_t t, hwloc_obj_t device)
{
    hwloc_obj_t o = hwloc_get_non_io_ancestor_obj(t, device);
    if (!o || !o->nodeset || hwloc_bitmap_weight(o->nodeset) != 1) return -1;
    hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(t, (unsigned)hwloc_bitmap_first(o->nodeset));
    return node && node->logical_index < MACHINE_NODES ? (int)node->logical_index : -1;
}

/* GPUs and drives, as notes: what is known of them without a driver is where they hang. */
static void read_devices(hwloc_topology_t t, struct machine *m)
{
    hwloc_obj_t o = NULL;
    int told = 0;
    while ((o = hwloc_get_next_pcidev(t, o)) && told < DEVICES_MOST) {
        const struct hwloc_pcidev_attr_s *a = &o->attr->pcidev;
        bool gpu = a->class_id >> 8 == 3 || a->class_id == 0x1200, drive = a->class_id == 0x0108;
        if (!gpu && !drive) continue;
        told++;
        const char *vendor = hwloc_obj_get_info_by_name(o, "PCIVendor"),
                   *device = hwloc_obj_get_info_by_name(o, "PCIDevice");
        machine_add_note(m, gpu ? "gpu" : "drive",
                         "%04x:%02x:%02x.%x %.60s %.100s, memory node %d, link %.1f GB/s%s", a->domain,
                         a->bus, a->dev, a->func, vendor ? vendor : "",
                         device    ? device
                         : o->name ? o->name
                                   : "",
                         node_near(t, o), (double)a->linkspeed,
                         gpu ? ": not measured, this build has no GPU kernels" : "");
    }
}

int probe_topology(struct probe *p)
{
    struct machine *m = p->m;
    const char *xml = p->s->topology;
    if (xml) { /* a file, not whatever waits for ever or lists a folder */
        int fd;
        uint64_t size;
        int rc = file_open(xml, &fd, &size, p->e);
        if (rc) return rc;
        close(fd);
        if (size > 64u << 20)
            return err_set(p->e, ERR_FORMAT, "'%s' has %llu bytes: no topology is as large", xml,
                           (unsigned long long)size);
    }
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) != 0) return err_set(p->e, ERR_NOMEM, "no memory for the topology");
    hwloc_topology_set_io_types_filter(t, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    int rc = 0;
    if ((xml && hwloc_topology_set_xml(t, xml) != 0) || hwloc_topology_load(t) != 0)
        rc = err_set(p->e, xml ? ERR_FORMAT : ERR_UNSUPPORTED,
                     xml ? "'%s' is no topology: expected XML written by hwloc (lstopo FILE.xml)"
                         : "hwloc cannot read this machine's topology",
                     xml);
    if (rc == 0) {
        int cores = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE),
            pus = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU),
            packages = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PACKAGE);
        if (cores < 1) cores = pus; /* some virtual machines tell only of processors */
        m->cores = cores < 1 ? 1 : (uint32_t)cores;
        m->packages = packages < 1 ? 1 : (uint32_t)packages;
        m->performance_cores = fast_cores(t, m->cores);
        m->threads = m->cores;
        m->last_level_cache = last_caches(t);
        read_nodes(t, m);
        read_devices(t, m);
        hwloc_obj_t package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
        const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
        snprintf(m->cpu, sizeof m->cpu, "%s", model ? model : "");
    }
    hwloc_topology_destroy(t);
    return rc;
}
#else
/* Without hwloc: as much as the system tells directly, one memory node after the other. */
int probe_topology(struct probe *p)
{
    if (p->s->topology)
        return err_set(p->e, ERR_UNSUPPORTED, "this build has no hwloc, so '%s' cannot be read",
                       p->s->topology);
    struct hoststate h;
    hoststate_read(&h, NULL);
    struct machine *m = p->m;
    m->cores = m->performance_cores = (uint32_t)(h.cores > 0 ? h.cores : threads_default());
    m->packages = 1;
    m->threads = m->cores;
    m->memory = h.memory;
    m->nodes = 1;
    m->node[0] = (struct machine_node){h.memory, m->cores, {10}};
    machine_add_note(m, "warning",
                     "built without hwloc: packages, caches, memory nodes and devices are not known");
    return 0;
}
#endif
