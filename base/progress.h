/* Progress of long work, for people at a terminal or for programs (JSON lines). */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum progress_mode {
    PROGRESS_AUTO, /* one line rewritten in place where `to` is a terminal, nothing elsewhere */
    PROGRESS_JSON, /* {"progress":"load","done":0.420,"seconds":1.3} a line, at most ten a second */
    PROGRESS_NONE,
};

/* One piece of work; one thread at a time. */
struct progress {
    enum progress_mode mode;
    const char *what;
    FILE *to;
    uint64_t start_ns, last_ns;
    bool shown;
};

/* `what`: a word or two for the work, kept by reference, without characters JSON would have to escape. */
void progress_start(struct progress *p, enum progress_mode mode, const char *what, FILE *to);
/* done: 0 … 1; anything else is clamped. */
void progress_update(struct progress *p, double done);
/* Removes the line of a terminal; for programs says done: 1 if `complete`. */
void progress_end(struct progress *p, bool complete);

#endif
