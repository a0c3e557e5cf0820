/* A plan as one self-contained page with pictures: for people who would rather look than read. */
#ifndef PLACEMENT_PLAN_PAGE_H
#define PLACEMENT_PLAN_PAGE_H

#include "placement/plan.h"
#include "placement/simulate.h"

struct err;
struct strbuf;

/* A plan at other budgets: one point of the trade between memory and speed. */
struct plan_point {
    uint64_t vram, ram;
    uint32_t context;
    double token; /* seconds; NaN: it does not fit */
};

struct plan_page {
    const struct plan *plan;
    const struct plan_model *model;
    const struct machine *machine;
    const struct simulation *simulation; /* NULL: not simulated */
    const struct plan_point *points;     /* ascending in what was swept */
    size_t n_points;                     /* 0: not swept */
};

/* Appends the page. ERR_NOMEM, and the errors of cost_make. */
int plan_page_html(const struct plan_page *p, struct strbuf *b, struct err *e);

#endif
