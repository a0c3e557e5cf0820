/* See kv.h. */
#include "engine/kv.h"

#include "base/checked.h"
#include "base/err.h"
#include "engine/hparams.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int kv_plan(struct kv *kv, const struct hparams *hp, uint32_t context, const char *type, struct err *e)
{
    memset(kv, 0, sizeof *kv);
    if (!type || strcmp(type, "f16") == 0)
        kv->type = DT_F16;
    else if (strcmp(type, "q8_0") == 0)
        kv->type = DT_Q8_0;
    else if (strcmp(type, "f32") == 0)
        kv->type = DT_F32;
    else
        return err_set(e, ERR_ARG, "KV cache type \"%.20s\" is unknown: expected f16, q8_0 or f32", type);
    uint64_t row = 0, head = 0, layer = 0, all = 0;
    if (!dtype_row_bytes((uint32_t)kv->type, hp->head_dim, &row))
        return err_set(
            e, ERR_ARG,
            "a KV cache of type %s needs a head size that is a multiple of 32; this model's is %u: "
            "use f16",
            type, hp->head_dim);
    if (!checked_mul(row, context, &head) || !checked_align(head, 64, &head) ||
        !checked_mul(head, 2ull * hp->kv_heads, &layer) || !checked_mul(layer, hp->layers, &all) ||
        all > SIZE_MAX / 2)
        return err_set(e, ERR_ARG, "a KV cache of %u tokens is beyond any memory", context);
    kv->row_bytes = row;
    kv->head_bytes = head;
    kv->layer_bytes = layer;
    kv->bytes = all;
    kv->context = context;
    kv->kv_heads = hp->kv_heads;
    return 0;
}

int kv_allocate(struct kv *kv, struct err *e)
{
    void *p =
        mmap(NULL, kv->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set_errno(
            e, ERR_NOMEM, "no memory for the KV cache: %llu MiB for %u tokens; a smaller context needs less",
            (unsigned long long)(kv->bytes >> 20), kv->context);
    kv->data = p;
    return 0;
}

void kv_finish(struct kv *kv)
{
    if (kv->data) munmap(kv->data, kv->bytes);
    kv->data = NULL;
}
