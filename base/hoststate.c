/* The machine and its state: see hoststate.h. */
#include "base/hoststate.h"

#include "base/affinity.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

static void trim(char *s)
{
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
}

static void copy(char *dst, size_t cap, const char *src)
{
    snprintf(dst, cap, "%s", src);
    trim(dst);
}

static FILE *open_at(const char *root, const char *path)
{
    char full[2048];
    snprintf(full, sizeof full, "%s%s", root, path);
    return fopen(full, "re");
}

static bool first_line(const char *root, const char *path, char *dst, size_t cap)
{
    FILE *f = open_at(root, path);
    if (!f) return false;
    bool ok = fgets(dst, (int)cap, f) != NULL;
    fclose(f);
    if (ok) trim(dst);
    return ok;
}

/* Whether a processor flag says what vector code can run. */
static bool is_vector_flag(const char *f)
{
    static const char *const prefix[] = {"avx",  "amx",   "fma", "f16c", "sse4",
                                         "vaes", "asimd", "sve", "i8mm", "bf16"};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
        if (strncmp(f, prefix[i], strlen(prefix[i])) == 0) return true;
    return false;
}

static void read_cpuinfo(struct hoststate *h, const char *root)
{
    FILE *f = open_at(root, "/proc/cpuinfo");
    if (!f) return;
    char *line = NULL;
    size_t cap = 0, used = 0;
    bool flags = false;
    while (getline(&line, &cap, f) > 0 && !(flags && h->cpu[0])) {
        char *value = strchr(line, ':');
        if (!value) continue;
        value += value[1] == ' ' ? 2 : 1;
        if (strncmp(line, "model name", 10) == 0) copy(h->cpu, sizeof h->cpu, value);
        if (!flags && (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0)) {
            flags = true;
            char *save, *word = strtok_r(value, " \n", &save);
            for (; word; word = strtok_r(NULL, " \n", &save)) {
                if (strcmp(word, "hypervisor") == 0) h->virtual_machine = true;
                size_t n = strlen(word);
                if (!is_vector_flag(word) || used + n + 2 > sizeof h->features) continue;
                used += (size_t)snprintf(h->features + used, sizeof h->features - used, "%s%s",
                                         used ? " " : "", word);
            }
        }
    }
    free(line);
    fclose(f);
}

static void read_meminfo(struct hoststate *h, const char *root)
{
    FILE *f = open_at(root, "/proc/meminfo");
    if (!f) return;
    char line[256];
    unsigned long long kib, swap_total = 0, swap_free = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1) h->memory = kib * 1024;
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) h->memory_free = kib * 1024;
        if (sscanf(line, "Cached: %llu", &kib) == 1) h->page_cache = kib * 1024;
        if (sscanf(line, "SwapTotal: %llu", &kib) == 1) swap_total = kib;
        if (sscanf(line, "SwapFree: %llu", &kib) == 1) swap_free = kib;
    }
    h->swap_used = (swap_total - swap_free) * 1024;
    fclose(f);
}

/* Lowers the limit to what one control group says, and the free memory to what it leaves. Its files count the
 * page cache as used, but that is given back when needed: `file` bytes of memory.stat are free. */
static void take_group(struct hoststate *h, const char *root, const char *dir, const char *limit_file,
                       const char *usage_file, const char *file_key)
{
    char path[1200], text[64];
    snprintf(path, sizeof path, "%s/%s", dir, limit_file);
    if (!first_line(root, path, text, sizeof text)) return;
    uint64_t limit = strtoull(text, NULL, 10); /* "max" gives 0; version 1 writes a huge number */
    if (limit == 0 || (h->memory && limit >= h->memory)) return;
    if (h->memory_limit == 0 || limit < h->memory_limit) h->memory_limit = limit;
    snprintf(path, sizeof path, "%s/%s", dir, usage_file);
    if (!first_line(root, path, text, sizeof text)) return;
    uint64_t used = strtoull(text, NULL, 10), file = 0;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = open_at(root, path);
    if (f) {
        char line[128];
        unsigned long long v;
        size_t n = strlen(file_key);
        while (fgets(line, sizeof line, f))
            if (strncmp(line, file_key, n) == 0 && sscanf(line + n, " %llu", &v) == 1) file = v;
        fclose(f);
    }
    used = used > file ? used - file : 0;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < h->memory_free) h->memory_free = left;
}

static void read_groups(struct hoststate *h, const char *root)
{
    FILE *f = open_at(root, "/proc/self/cgroup");
    if (!f) return;
    char line[1024], dir[1100];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        bool v2 = list[1] == 0, v1 = strcmp(list + 1, "memory") == 0;
        if (!v2 && !v1) continue;
        /* Every level's limit holds; inside a container only the upper ones may be visible. */
        for (;;) {
            size_t n = strlen(group);
            while (n && group[n - 1] == '/') group[--n] = 0;
            snprintf(dir, sizeof dir, "/sys/fs/cgroup%s%s", v2 ? "" : "/memory", group);
            if (v2)
                take_group(h, root, dir, "memory.max", "memory.current", "file");
            else
                take_group(h, root, dir, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache");
            char *slash = strrchr(group, '/');
            if (!slash) break;
            *slash = 0;
        }
    }
    fclose(f);
}

/* The word in brackets of "always [madvise] never". */
static void read_thp(struct hoststate *h, const char *root)
{
    char text[128];
    if (!first_line(root, "/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text)) return;
    char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;
    if (!close) return;
    *close = 0;
    copy(h->thp, sizeof h->thp, open + 1);
}

void hoststate_read(struct hoststate *h, const char *root)
{
    memset(h, 0, sizeof *h);
    if (!root) root = "";
    read_cpuinfo(h, root);
    read_meminfo(h, root);
    read_groups(h, root);
    read_thp(h, root);
    char text[128];
    if (first_line(root, "/proc/loadavg", text, sizeof text) &&
        sscanf(text, "%lf %lf %lf", &h->load[0], &h->load[1], &h->load[2]) != 3)
        memset(h->load, 0, sizeof h->load);
    first_line(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", h->governor,
               sizeof h->governor);
    struct utsname u;
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%.40s %.80s", u.sysname, u.release);
        copy(h->kernel, sizeof h->kernel, text);
        if (!h->cpu[0]) copy(h->cpu, sizeof h->cpu, u.machine);
    }
    h->cpus = affinity_cpus();
    h->cores = affinity_cores(NULL, 0);
    h->nodes = affinity_nodes();
    h->cpu_quota = affinity_quota(root);
}

uint64_t hoststate_memory_free(const char *root)
{
    struct hoststate h = {0};
    if (!root) root = "";
    read_meminfo(&h, root);
    read_groups(&h, root);
    return h.memory ? h.memory_free : UINT64_MAX;
}

json_t *hoststate_json(const struct hoststate *h)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:i, s:f, s:[f,f,f], s:I, s:I, s:I, s:I, s:I}", //
        "cpu", h->cpu, "features", h->features, "kernel", h->kernel, "governor", h->governor,
        "transparent_huge_pages", h->thp, "virtual_machine", (int)h->virtual_machine, "cpus", h->cpus,
        "cores", h->cores, "nodes", h->nodes, "cpu_quota", h->cpu_quota, "load", h->load[0], h->load[1],
        h->load[2], "memory", (json_int_t)h->memory, "memory_limit", (json_int_t)h->memory_limit,
        "memory_free", (json_int_t)h->memory_free, "page_cache", (json_int_t)h->page_cache, "swap_used",
        (json_int_t)h->swap_used);
}
