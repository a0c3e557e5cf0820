/* The probe: measures the machine it runs on (docs/probe.md). */
#ifndef PLACEMENT_PROBE_H
#define PLACEMENT_PROBE_H

#include "placement/machine.h"

#include <stdbool.h>

struct err;
struct strbuf;

struct probe_settings {
    const char *dir;      /* folder of the file system that is measured; NULL: ".", "": no disk */
    const char *topology; /* hwloc's XML of another machine; NULL: this one */
    bool quick;           /* about 10 s instead of about 50 */
    int threads;          /* 0: physical cores */
    /* Called now and then with the share done and what is being measured; anything but 0 ends the probe with
     * ERR_CANCELLED. May be NULL. */
    int (*progress)(double done, const char *what, void *arg);
    void *arg;
};

/* Fills *m. One probe at a time. ERR_CANCELLED; ERR_IO, ERR_ARG (folder, topology); ERR_NOMEM. What this
 * machine does not let anyone measure stays "not known", with a note on why. */
int probe_machine(struct machine *m, const struct probe_settings *s, struct err *e);

/* For people. */
void probe_report(const struct machine *m, struct strbuf *out);

#endif
