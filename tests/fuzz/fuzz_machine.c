/* machine.json from strangers: what is accepted keeps its bounds, gives finite rates, and comes back the same
 * when it is written and read again. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/json.h"
#include "placement/machine_priv.h"

#include <math.h>
#include <string.h>

static void use_curve(const struct machine_curve *c)
{
    static const uint64_t x[] = {0, 1, 3, 4096, 100000, UINT64_C(1) << 50, UINT64_MAX};
    static const uint32_t depth[] = {0, 1, 5, 64, UINT32_MAX};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        for (size_t k = 0; k < sizeof depth / sizeof *depth; k++) {
            double r = machine_rate(c, x[i], depth[k]);
            PROMISE(isfinite(r) && (c->n ? r > 0 : r == 0));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine m, again;
    struct err e = {0};
    if (size > 100000) return 0;
    int rc = machine_parse(&m, (const char *)data, size, "fuzz", &e);
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM));
    if (rc) return 0;
    PROMISE(machine_check(&m, true, "fuzz", &e) == 0);
    use_curve(&m.stream);
    use_curve(&m.scattered);
    for (uint32_t i = 0; i < m.n_disks; i++) use_curve(&m.disk[i].read);
    json_t *j = machine_json(&m);
    PROMISE(j);
    rc = machine_from_json(&again, j, true, "again", &e);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    PROMISE(rc == 0);
    PROMISE(machine_identity(&again) == machine_identity(&m));
    json_decref(j);
    return 0;
}
