/* The KV cache of one session: for each layer and KV head the rows of positions 0…context-1 one after the
 * other, so that attention streams them. Sized once, when the session opens. Private to engine/. */
#ifndef ENGINE_KV_H
#define ENGINE_KV_H

#include "base/dtype.h"

#include <stddef.h>
#include <stdint.h>

struct err;
struct hparams;

struct kv {
    enum dtype type;
    size_t row_bytes;   /* one position of one head */
    size_t head_bytes;  /* all positions of one head, a multiple of 64 */
    size_t layer_bytes; /* K and V of all heads of one layer */
    uint64_t bytes;     /* all */
    uint32_t context, kv_heads;
    uint8_t *data; /* 64-byte aligned */
};

/* Sizes it: `type` is "f16", "q8_0", "f32"; NULL: f16. kv_finish in any case. */
int kv_plan(struct kv *kv, const struct hparams *hp, uint32_t context, const char *type, struct err *e);
/* Takes the address space; pages are taken from the system as positions are first written. */
int kv_allocate(struct kv *kv, struct err *e);
void kv_finish(struct kv *kv);

static inline uint8_t *kv_k(const struct kv *kv, uint32_t layer, uint32_t head)
{
    return kv->data + layer * kv->layer_bytes + head * kv->head_bytes;
}

static inline uint8_t *kv_v(const struct kv *kv, uint32_t layer, uint32_t head)
{
    return kv_k(kv, layer, kv->kv_heads + head);
}

#endif
