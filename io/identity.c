/* What tells one model from another without reading all of it: header, tensor directory, sizes, and the first
 * and last 4 KiB of each tensor. */
#include "base/err.h"
#include "base/file.h"
#include "io/gguf_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { END = 4096 };

static int add_piece(XXH3_state_t *x, const struct gguf *f, const struct gguf_tensor *t, uint64_t begin,
                     uint64_t n, struct err *e)
{
    uint8_t buf[2 * END];
    int rc = gguf_read_tensor(f, t, begin, buf, n, e);
    if (rc == 0) XXH3_128bits_update(x, buf, n);
    return rc;
}

/* From the file: the parser ends names in its own copy with a NUL, over other fields. */
static int add_metadata(XXH3_state_t *x, const struct gguf_shard *s, struct err *e)
{
    uint8_t buf[2 * END];
    for (uint64_t at = 0, n; at < s->meta_end; at += n) {
        n = s->meta_end - at < sizeof buf ? s->meta_end - at : sizeof buf;
        int rc = s->fd < 0 ? 0 : file_read_at(s->fd, s->path, buf, n, at, e);
        if (rc) return rc;
        XXH3_128bits_update(x, s->fd < 0 ? s->map + at : buf, n);
    }
    return 0;
}

int gguf_identity(const struct gguf *f, uint8_t out[16], struct err *e)
{
    XXH3_state_t *x = XXH3_createState();
    if (!x) return err_set(e, ERR_NOMEM, "no memory to identify '%s'", gguf_path(f));
    XXH3_128bits_reset(x);
    int rc = 0;
    for (int i = 0; rc == 0 && i < f->n_shards; i++) {
        const struct gguf_shard *s = &f->shards[i];
        uint8_t size[8];
        for (int k = 0; k < 8; k++) size[k] = (uint8_t)(s->size >> (8 * k));
        XXH3_128bits_update(x, size, sizeof size);
        rc = add_metadata(x, s, e);
    }
    for (uint64_t i = 0; rc == 0 && gguf_has_data(f) && i < f->n_tensors; i++) {
        const struct gguf_tensor *t = &f->tensors[i];
        if (t->bytes <= 2 * END) {
            rc = add_piece(x, f, t, 0, t->bytes, e);
        } else {
            rc = add_piece(x, f, t, 0, END, e);
            if (rc == 0) rc = add_piece(x, f, t, t->bytes - END, END, e);
        }
    }
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(x));
    for (int k = 0; k < 16; k++) out[k] = c.digest[k];
    XXH3_freeState(x);
    return rc;
}

void gguf_identity_text(const uint8_t id[16], char out[33])
{
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", id[i]);
}
