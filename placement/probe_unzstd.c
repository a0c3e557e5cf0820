/* How fast a core unpacks zstd pages like those of a store: 64 KiB of the high bytes of BF16 weights, packed
 * as literals only, the one plane that compresses well. */
#include "placement/probe_priv.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"

#include <stdlib.h>
#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY /* how literals are packed */
#include <zstd.h>

enum { PAGE = 65536, PAGES = 16 };

struct unpack {
    const unsigned char *packed[PAGES];
    size_t packed_bytes[PAGES];
    ZSTD_DCtx **dctx; /* a thread each */
    unsigned char *out;
    int *bad;
};

static void work(struct team_member *me, void *arg)
{
    struct unpack *u = arg;
    for (int i = 0; i < PAGES; i++)
        if (ZSTD_decompressDCtx(u->dctx[me->ith], u->out + (size_t)me->ith * PAGE, PAGE, u->packed[i],
                                u->packed_bytes[i]) != PAGE)
            u->bad[me->ith] = 1;
}

/* sign, exponent: the high byte of a Gaussian number of standard deviation 0.02 as BF16 */
static void fill(unsigned char *page, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    for (int i = 0; i < PAGE; i++) {
        float x = (float)(rng_normal(&r) * 0.02);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        page[i] = (unsigned char)(bits >> 24);
    }
}

static int pack(struct unpack *u, unsigned char *to, size_t room, double *ratio, struct err *e)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    unsigned char *page = malloc(PAGE);
    size_t total = 0;
    int rc = c && page ? 0 : err_set(e, ERR_NOMEM, "no memory to pack pages");
    if (rc == 0) {
        ZSTD_CCtx_setParameter(c, ZSTD_c_strategy, ZSTD_fast);
        ZSTD_CCtx_setParameter(c, ZSTD_c_minMatch, 7);
        ZSTD_CCtx_setParameter(c, ZSTD_c_targetLength, 1 << 16);
        ZSTD_CCtx_setParameter(c, ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
    }
    for (int i = 0; rc == 0 && i < PAGES; i++) {
        fill(page, 3 + (uint64_t)i);
        u->packed[i] = to + total;
        u->packed_bytes[i] = ZSTD_compress2(c, to + total, room - total, page, PAGE);
        if (ZSTD_isError(u->packed_bytes[i]))
            rc = err_set(e, ERR_UNSUPPORTED, "zstd cannot pack a page: %s",
                         ZSTD_getErrorName(u->packed_bytes[i]));
        else
            total += u->packed_bytes[i];
    }
    if (rc == 0) *ratio = (double)PAGES * PAGE / (double)total;
    ZSTD_freeCCtx(c);
    free(page);
    return rc;
}

int probe_unzstd(struct probe *p, double seconds)
{
    int threads = team_size(p->team), rc = probe_tell(p, "zstd", 0);
    if (rc) return rc;
    size_t room = (size_t)PAGES * ZSTD_COMPRESSBOUND(PAGE);
    unsigned char *packed = malloc(room);
    struct unpack u = {.out = malloc((size_t)threads * PAGE),
                       .dctx = calloc((size_t)threads, sizeof *u.dctx),
                       .bad = calloc((size_t)threads, sizeof *u.bad)};
    struct probe_samples s = {0};
    double ratio = 0;
    if (!packed || !u.out || !u.dctx || !u.bad) rc = err_set(p->e, ERR_NOMEM, "no memory to unpack pages");
    for (int t = 0; rc == 0 && t < threads; t++)
        if (!(u.dctx[t] = ZSTD_createDCtx())) rc = err_set(p->e, ERR_NOMEM, "no memory to unpack pages");
    if (rc == 0) rc = pack(&u, packed, room, &ratio, p->e);
    if (rc == 0) {
        team_run(p->team, work, &u);
        uint64_t start = clock_ns();
        while (s.n < 9 || (clock_since(start) < seconds && s.n < PROBE_SAMPLES)) {
            uint64_t begin = clock_ns();
            team_run(p->team, work, &u);
            probe_add(&s, (double)PAGES * PAGE / clock_since(begin));
        }
        for (int t = 0; t < threads; t++)
            if (u.bad[t]) rc = err_set(p->e, ERR_STATE, "zstd unpacked a page wrongly");
    }
    if (rc == 0) {
        p->m->unzstd = probe_figure(&s);
        machine_add_note(
            p->m, "unzstd",
            "zstd %s, all %d threads at once, pages of 64 KiB of BF16 weights' high bytes packed as literals "
            "(ratio %.2f); bytes out per core",
            ZSTD_versionString(), threads, ratio);
    }
    for (int t = 0; u.dctx && t < threads; t++) ZSTD_freeDCtx(u.dctx[t]);
    free(u.dctx);
    free(u.bad);
    free(u.out);
    free(packed);
    return rc;
}
