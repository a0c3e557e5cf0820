/* The machine and its state as a measurement finds them: figures without them cannot be compared. */
#ifndef BASE_HOSTSTATE_H
#define BASE_HOSTSTATE_H

#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>

struct hoststate {
    char cpu[128];      /* "Intel(R) Xeon(R) Processor" */
    char features[512]; /* the vector extensions of the processor's flags, separated by blanks */
    char kernel[128];   /* "Linux 6.1.0-18-amd64" */
    char governor[32];  /* of the first processor; "" where there is none */
    char thp[32];       /* transparent huge pages: "always", "madvise", "never", "" */
    bool virtual_machine;
    int cpus, cores, nodes; /* allowed to this process: processors, physical cores; memory nodes */
    double cpu_quota;       /* control groups: processors' worth of time; 0: no limit */
    double load[3];         /* load average over 1, 5, 15 minutes */
    uint64_t memory;        /* bytes */
    uint64_t memory_limit;  /* of the control groups; 0: none */
    uint64_t memory_free;   /* what can be taken without swapping, below the limit */
    uint64_t page_cache;    /* bytes of files in memory */
    uint64_t swap_used;
};

/* Never fails: what cannot be found out stays 0 or "". `root` stands before /proc and /sys (NULL: none). */
void hoststate_read(struct hoststate *h, const char *root);

/* memory_free alone, which is quick; UINT64_MAX where it cannot be found out. */
uint64_t hoststate_memory_free(const char *root);

/* As a JSON object, the caller's (json_decref); NULL: no memory. */
json_t *hoststate_json(const struct hoststate *h);

#endif
