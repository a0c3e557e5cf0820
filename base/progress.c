/* Progress of long work: see progress.h. */
#include "base/progress.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void progress_start(struct progress *p, enum progress_mode mode, const char *what, FILE *to)
{
    const char *term = getenv("TERM");
    bool terminal = isatty(fileno(to)) && !(term && strcmp(term, "dumb") == 0);
    if (mode == PROGRESS_AUTO && !terminal) mode = PROGRESS_NONE;
    *p = (struct progress){.mode = mode, .what = what, .to = to, .start_ns = clock_ns()};
}

static void show(struct progress *p, double done)
{
    double seconds = clock_since(p->start_ns);
    if (p->mode == PROGRESS_JSON) {
        fprintf(p->to, "{\"progress\":\"%s\",\"done\":%.3f,\"seconds\":%.1f}\n", p->what, done, seconds);
    } else {
        char bar[31];
        int full = (int)(done * 30);
        for (int i = 0; i < 30; i++) bar[i] = i < full ? '#' : '.';
        bar[30] = 0;
        fprintf(p->to, "\r%s [%s] %3.0f %%", p->what, bar, done * 100);
        if (done > 0.02 && seconds > 2) fprintf(p->to, "  %.0f s left   ", seconds / done - seconds);
    }
    fflush(p->to);
    p->shown = true;
}

void progress_update(struct progress *p, double done)
{
    if (p->mode == PROGRESS_NONE) return;
    uint64_t now = clock_ns();
    if (now - p->last_ns < 100000000u) return;
    p->last_ns = now;
    show(p, !(done > 0) ? 0 : done > 1 ? 1 : done);
}

void progress_end(struct progress *p, bool complete)
{
    if (p->mode == PROGRESS_JSON && complete) show(p, 1);
    if (p->mode == PROGRESS_AUTO && p->shown) {
        fprintf(p->to, "\r%*s\r", 78, "");
        fflush(p->to);
    }
    p->mode = PROGRESS_NONE;
}
