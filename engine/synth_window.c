/* The first attention of a planted model: windows over the values of the last tokens.
 *
 * q and k of a head rotate in step for all pairs that take part, q turned back by the window's middle: the
 * score depends on the distance alone. The heads go in blocks of `windows` that share their values and have a
 * window each, one behind the other; the outputs of a block add up to zero. So whatever stays the same from
 * window to window cancels: what is left of a text whose tokens are not equally frequent has no constant
 * part, which would make some neurons hotter than planted. And a block's windows hold different values, so
 * that the context fills nearly the whole width even where few heads have values. */
#include "engine/synth.h"

#include <math.h>
#include <string.h>

#define ROPE_BASE 10000.0
enum { REACH = 4096 };

double synth_window_theta(const struct synth_window *w, uint32_t pair)
{
    return pow(ROPE_BASE, -(double)pair / w->pairs);
}

double synth_window_middle(const struct synth_window *w, uint32_t window)
{
    return w->middle * (1 + window);
}

/* Out of `heads` of which kv have values of their own. */
static void make_blocks(struct synth_window *w, uint32_t heads, uint32_t kv)
{
    uint32_t group = heads / kv;
    w->windows = group >= 3 ? group : heads;
    if (w->windows > SYNTH_WINDOWS_MOST) w->windows = SYNTH_WINDOWS_MOST;
    w->span = group > w->windows ? group : w->windows;
    w->shared = group < w->windows ? w->windows / group : 1;
    w->heads = heads;
    w->working = 0;
    for (uint32_t h = 0; h < heads; h++) w->working += synth_window_of(w, h) >= 0;
}

int synth_window_of(const struct synth_window *w, uint32_t head)
{
    uint32_t at = head % w->span, begin = head - at;
    if (begin + w->span > w->heads || at >= w->span / w->windows * w->windows) return -1;
    return (int)(at % w->windows);
}

void synth_window_make(struct synth_window *w, const struct synth_shape *h, double width)
{
    *w = (struct synth_window){.pairs = h->d / h->heads / 2, .middle = ceil(2 * width)};
    make_blocks(w, h->heads, h->kv);
    /* The curvature at the middle is PEAK·mean θ²: leave out the frequencies that make it too sharp. */
    for (;; w->first++) {
        double sum = 0;
        for (uint32_t j = w->first; j < w->pairs; j++)
            sum += synth_window_theta(w, j) * synth_window_theta(w, j);
        if (w->first + 1 >= w->pairs ||
            SYNTH_WINDOW_PEAK * sum / (w->pairs - w->first) <= 1 / (width * width))
            break;
    }
    double weight[SYNTH_WINDOWS_MOST], before[SYNTH_WINDOWS_MOST] = {0}, total[SYNTH_WINDOWS_MOST] = {0};
    double squares = 0, lag = 0;
    for (int pass = 0; pass < 2; pass++) /* weights add up to one: their sums first */
        for (int i = 0; i < REACH; i++) {
            for (uint32_t g = 0; g < w->windows; g++) {
                double score = 0, from = i - synth_window_middle(w, g);
                for (uint32_t j = w->first; j < w->pairs; j++) score += cos(from * synth_window_theta(w, j));
                weight[g] = exp(SYNTH_WINDOW_PEAK * (score / (w->pairs - w->first) - 1));
                if (pass == 0)
                    total[g] += weight[g];
                else
                    weight[g] /= total[g];
            }
            for (uint32_t g = 0; pass == 1 && g < w->windows; g++) {
                double v = weight[g] - weight[(g + 1) % w->windows];
                squares += v * v;
                lag += v * before[g];
                before[g] = v;
            }
        }
    w->smooth = lag / squares;
    w->energy = squares / w->windows;
}

void synth_window_output(const struct synth_window *w, uint32_t head, uint64_t row, float scale, float *v)
{
    bool minus = v[0] < 0;
    uint32_t h = 0, c;
    memset(v, 0, (size_t)w->heads * head * sizeof *v);
    row %= (uint64_t)w->working * head;
    /* The row's head among those that work, first by window, then by value, then by block. */
    uint64_t block = row / ((uint64_t)w->windows * head);
    uint32_t window = (uint32_t)(row % w->windows);
    c = (uint32_t)(row / w->windows % head);
    while (synth_window_of(w, h) != 0 || block-- > 0) h++;
    uint32_t next = h + (window + 1) % w->windows;
    v[(size_t)(h + window) * head + c] = minus ? -scale : scale;
    v[(size_t)next * head + c] = minus ? scale : -scale;
}
