/* placement/plan_page: pages of plans on machines with and without GPU and disk, simulated or not, say what
 * the plan says and hold no number that is none. */
#include "tests/unit/temp_dir.h"

#include "base/size.h"
#include "base/strbuf.h"
#include "placement/plan_page.h"
#include "tests/unit/plan_machines.h"

#include <math.h>
#include <stdlib.h>

static void pages(void **state)
{
    (void)state;
    struct err e;
    struct plan_shape shape = small_shape(DT_Q8_0);
    for (int kind = 0; kind < 8; kind++) {
        bool gpu = kind & 1, disk = kind & 2, simulated = kind & 4;
        struct plan_model_settings ms = plan_model_default();
        struct plan_model *m;
        ms.mode = kind & 1 ? PLAN_SURE : PLAN_EXACT;
        ms.sparsity = 0.9;
        OK(plan_model_from_shape(&m, &shape, NULL, &ms, &e));
        snprintf(m->name, sizeof m->name, "<model> & \"co\"");
        struct machine machine = desktop(32 * GB, gpu ? 900 << 20 : 0, disk);
        struct plan_settings s = plan_default(m, &machine);
        if (disk) s.memory.ram = 290 << 20;
        struct plan *p;
        OK(plan_solve(&p, m, &machine, &s, &e));
        assert_true(p->disk == disk || gpu);
        struct simulation *sim = NULL;
        struct simulate_settings ss = simulate_default();
        if (simulated) OK(simulate(&sim, p, m, &machine, NULL, &ss, &e));
        struct plan_point points[] = {
            {1 << 30, 0, 512, 0.01}, {2u << 30, 0, 512, 0.005}, {3u << 30, 0, 512, NAN}};
        struct plan_page page = {p, m, &machine, sim, points, simulated ? 3 : 0};
        struct strbuf b;
        char want[64], size[32];
        strbuf_init(&b);
        OK(plan_page_html(&page, &b, &e));
        assert_null(strstr(b.s, ">nan"));
        assert_null(strstr(b.s, "\"nan"));
        assert_null(strstr(b.s, "-nan"));
        assert_null(strstr(b.s, "inf<"));
        assert_null(strstr(b.s, "<model>"));
        assert_null(strstr(b.s, "http"));
        snprintf(want, sizeof want, p->time.token > 0.01 ? "%.3g tokens/s" : "%.0f tokens/s",
                 1 / p->time.token);
        assert_non_null(strstr(b.s, want));
        for (int t = 0; t < PLAN_TIERS; t++) {
            snprintf(want, sizeof want, "%s", size_format(p->used[t], size, sizeof size));
            assert_non_null(strstr(b.s, want));
        }
        assert_int_equal(strstr(b.s, "99 of 100") != NULL, simulated);
        assert_int_equal(strstr(b.s, "What memory buys") != NULL, simulated);
        assert_int_equal(strstr(b.s, "reading buffers") != NULL, p->disk);
        assert_int_equal(strstr(b.s, "pinned staging") != NULL, p->gpu);
        assert_int_equal(strstr(b.s, "Screens, read whole") != NULL, gpu);
        if (getenv("CALOR_KEEP_PAGES")) { /* to look at them */
            snprintf(want, sizeof want, "%s/page%d.html", getenv("CALOR_KEEP_PAGES"), kind);
            FILE *f = fopen(want, "w");
            assert_non_null(f);
            fwrite(b.s, 1, b.len, f);
            fclose(f);
        }
        strbuf_finish(&b);
        simulation_free(&sim);
        plan_destroy(&p);
        plan_model_destroy(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
