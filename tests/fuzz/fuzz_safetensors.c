/* The safetensors header parser. The length in front is corrected half of the time, or hardly any input would
 * get past it. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/rng.h"
#include "io/safetensors_priv.h"

#include <string.h>

static volatile uint64_t sink; /* keeps the reads */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct safetensors *f;
    int rc = safetensors_open_memory(&f, data, size, "fuzz", &e);
    PROMISE((rc == 0) == (f != NULL));
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM));
    if (rc) return 0;
    uint64_t total = 0;
    for (int64_t i = 0; i < safetensors_n(f); i++) {
        const struct st_tensor *t = safetensors_tensor(f, i);
        PROMISE(safetensors_find(f, t->name) == t);
        PROMISE(t->bytes == t->elements * st_dtype_bytes(t->dtype) && t->offset + t->bytes <= size);
        for (uint64_t k = 0; k < t->bytes; k++) sink = sink + ((const uint8_t *)t->data)[k];
        total += t->bytes;
        uint8_t byte;
        PROMISE(safetensors_read(f, t, t->bytes, &byte, 1, &e) == ERR_ARG);
        PROMISE(t->bytes == 0 || safetensors_read(f, t, t->bytes - 1, &byte, 1, &e) == 0);
    }
    PROMISE(total <= size);
    for (int64_t i = 0; i < safetensors_n_meta(f); i++) {
        const char *key, *value;
        safetensors_meta(f, i, &key, &value);
        sink = sink + strlen(key) + strlen(value);
    }
    safetensors_close(&f);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct rng r;
    rng_init(&r, seed);
    size_t n = LLVMFuzzerMutate(data, size, max);
    if (n < 9 || rng_below(&r, 2)) return n;
    const uint8_t *end = NULL; /* of the header: its last brace */
    for (size_t i = 8; i < n; i++)
        if (data[i] == '}') end = data + i + 1;
    uint64_t header = end ? (uint64_t)(end - data) - 8 : n - 8;
    memcpy(data, &header, 8);
    return n;
}
