/* Stands for aio_uring.c in builds without liburing. */
#include "io/aio_priv.h"

#include "base/err.h"

static int none_open(struct aio *a, const struct aio_settings *s, struct err *e)
{
    (void)a;
    (void)s;
    return err_set(e, ERR_UNSUPPORTED, "this build has no io_uring (meson option uring)");
}

static void none_close(struct aio *a)
{
    (void)a;
}

const struct aio_ops aio_uring = {.name = "io_uring", .open = none_open, .close = none_close};
