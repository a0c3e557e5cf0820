/* From tokens back to text as it comes: whole UTF-8 sequences only. */
#include "engine/tokenizer_parts.h"

#include "base/strbuf.h"

#include <string.h>

void tok_stream_init(struct tok_stream *s, bool at_start)
{
    *s = (struct tok_stream){.at_start = at_start};
}

/* Whether n bytes may be the beginning of a longer sequence. */
static bool may_grow(const char *s, int n)
{
    char x[4] = {0};
    uint32_t want = tok_lead_len((uint8_t)s[0]);
    if (want < 2 || n >= (int)want) return false;
    memcpy(x, s, (size_t)n);
    /* Some second byte must make it valid: the strictest ranges are tried from both sides. */
    for (int first = 0; first < 2; first++) {
        for (int k = n; k < (int)want; k++) x[k] = (char)(k == 1 && first ? 0xbf : k == 1 ? 0x80 : 0xbf);
        if (tok_utf8_len(x, want)) return true;
    }
    return false;
}

/* Gives out all of `pending` but an incomplete tail. */
static void drain(struct tok_stream *s, struct strbuf *out)
{
    int at = 0;
    while (at < s->n_pending) {
        int len = tok_utf8_len(s->pending + at, (size_t)(s->n_pending - at));
        if (!len && may_grow(s->pending + at, s->n_pending - at)) break;
        at += len ? len : 1; /* a byte that no sequence begins with goes out as it is */
    }
    strbuf_add(out, s->pending, (size_t)at);
    s->n_pending -= at;
    memmove(s->pending, s->pending + at, (size_t)s->n_pending);
}

void tok_stream_add(struct tok_stream *s, const struct tokenizer *t, int32_t id, bool special,
                    struct strbuf *out)
{
    size_t n;
    const char *p = tok_piece(t, id, special, &n);
    if (n && s->at_start) {
        if (t->add_space_prefix && !tok_is_control(t, id) && p[0] == ' ') {
            p++;
            n--;
        }
        s->at_start = false;
    }
    while (n) {
        size_t take = sizeof s->pending - (size_t)s->n_pending;
        if (take > n) take = n;
        memcpy(s->pending + s->n_pending, p, take);
        s->n_pending += (int)take;
        p += take;
        n -= take;
        drain(s, out);
    }
}

void tok_stream_flush(struct tok_stream *s, struct strbuf *out)
{
    strbuf_add(out, s->pending, (size_t)s->n_pending);
    s->n_pending = 0;
}
