/* What the files of the machine share. */
#ifndef PLACEMENT_MACHINE_PRIV_H
#define PLACEMENT_MACHINE_PRIV_H

#include "placement/machine.h"

enum {
    MACHINE_VERSION = 1,
    MACHINE_DEPTH = 8,            /* of the JSON */
    MACHINE_FILE_LIMIT = 1 << 20, /* bytes of it */
};

/* Bounds of what a machine can be: beyond them is a slip of the pen, or somebody's joke. */
#define MACHINE_MOST_BYTES   (UINT64_C(1) << 50)
#define MACHINE_MOST_RATE    1e18
#define MACHINE_MOST_SECONDS 1e4
#define MACHINE_MOST_CORES   65536u

/* A machine, or (parts of shipped ones) only some of its sections, which the caller joins and then checks:
 * `whole` says that processor and memory must be there, and everything is checked. */
int machine_from_json(struct machine *m, const json_t *root, bool whole, const char *where, struct err *e);

/* 0 where every number of m lies within the bounds and curves are in order; messages begin with `where`. */
int machine_check(const struct machine *m, bool whole, const char *where, struct err *e);

/* machines.json, built in. */
extern const unsigned char machines_json[];
extern const size_t machines_json_bytes;

/* Puts the points of a curve in order. */
void machine_sort_curve(struct machine_curve *c);

#endif
