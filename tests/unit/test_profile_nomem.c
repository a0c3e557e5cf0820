/* Profiles without memory: recording, merging, reports, files. */
#include "tests/unit/starve.h"
#include "tests/unit/temp_dir.h"

#include "base/strbuf.h"
#include "placement/profile.h"

enum { LAYERS = 2, F = 40, D = 8, TOKENS = 12 };

static int record(struct profile **out, struct err *e)
{
    static const float grid[] = {0.0f, 1.0f, 2.0f};
    static const struct profile_ppl found = {1.0f, 0.25f, 0.75f, 5.05f, 5.0f, 9};
    static const struct profile_ppl_point steps[] = {{0.0f, 0.5f, 5.0f}, {0.25f, 0.75f, 5.05f}};
    struct profile_recorder *r;
    struct profile_settings s = {
        .subject = {
            .model = "m", .activation = "relu", .zeros = true, .layers = LAYERS, .neurons = F, .width = D}};
    float norms[F], h[TOKENS * F], sums[4 * D] = {1.0f};
    uint32_t counts[4] = {10, 10, 10, 10};
    for (int i = 0; i < F; i++) norms[i] = 1.0f;
    for (int i = 0; i < TOKENS * F; i++) h[i] = (float)(i % 7 % 3);
    *out = NULL;
    int rc = profile_recorder_create(&r, &s, e);
    for (uint32_t l = 0; rc == 0 && l < LAYERS; l++) {
        rc = profile_recorder_layer(r, l, norms, 0.0f, e);
        if (rc == 0) rc = profile_recorder_grid(r, l, grid, 3, e);
        if (rc == 0) rc = profile_recorder_sample(r, l, sums, counts, e);
    }
    if (rc == 0) rc = profile_recorder_ppl(r, &found, steps, 2, e);
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = profile_recorder_fatrelu(r, &(struct profile_fatrelu_point){(float)i, 0.5f, 5.0f}, e);
    for (int text = 0; rc == 0 && text < 2; text++) {
        rc = profile_recorder_begin(r, (enum profile_text)text, 0, 0, TOKENS, e);
        for (uint32_t l = 0; rc == 0 && l < LAYERS; l++) rc = profile_recorder_add(r, l, 0, TOKENS, h, e);
    }
    if (rc == 0) rc = profile_recorder_finish(out, r, e);
    profile_recorder_destroy(&r);
    return rc;
}

static int make(struct err *e)
{
    struct profile *p, *both = NULL;
    int rc = record(&p, e);
    if (rc == 0) rc = profile_merge(&both, p, p, e);
    if (rc == 0) rc = profile_write(both, in_dir("x.profile"), e);
    profile_close(&p);
    profile_close(&both);
    return rc;
}

static int read(struct err *e)
{
    struct profile *p;
    int rc = profile_open(&p, in_dir("whole.profile"), e);
    assert_true((rc == 0) == (p != NULL));
    profile_close(&p);
    return rc;
}

static struct profile *kept;

static int report(struct err *e)
{
    struct strbuf b;
    strbuf_init(&b);
    int rc = profile_report_html(kept, &b, e);
    strbuf_finish(&b);
    return rc;
}

static void without_memory(void **state)
{
    (void)state;
    struct err e;
    starve_plain = true;
    starve(make, 60);
    if (record(&kept, &e)) fail_msg("%s", e.msg);
    if (profile_write(kept, in_dir("whole.profile"), &e)) fail_msg("%s", e.msg);
    starve(read, 30);
    starve(report, 5);
    profile_close(&kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
