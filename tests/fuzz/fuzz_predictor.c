/* The predictor reader, on whatever is a GGUF container: what it accepts must be usable to the last byte. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/half.h"
#include "io/gguf_priv.h"
#include "kernels/kernels.h"
#include "placement/predictor.h"

#include <math.h>
#include <string.h>

static void use_matrix(enum dtype type, const uint8_t *data, size_t row_bytes, uint64_t rows, uint32_t n)
{
    float *row = malloc(n * sizeof *row);
    if (!row) abort();
    for (uint64_t i = 0; i < rows; i++) {
        kern_tier(KERN_REF)->decode(type, row, data + i * row_bytes, n);
        for (uint32_t k = 0; k < n; k++) PROMISE(isfinite(row[k]));
    }
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct gguf *f;
    struct predictor *p;
    if (gguf_open_memory(&f, data, size, "fuzz", GGUF_MMAP, &e)) return 0;
    int rc = predictor_from_gguf(&p, f, &e);
    gguf_close(&f);
    PROMISE((rc == 0) == (p != NULL));
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM && rc != ERR_ARG));
    if (rc) return 0;
    PROMISE(memchr(p->subject.model, 0, 1024) && p->subject.layers > 0);
    PROMISE(isnan(p->recall) || (p->recall >= 0.0f && p->recall <= 1.0f));
    for (uint32_t i = 0; i < p->subject.layers; i++) {
        const struct predictor_layer *l = &p->layers[i];
        PROMISE(l->rank > 0 && l->rank <= PREDICTOR_RANK_MOST && !isnan(l->cut));
        PROMISE(predictor_layer_bytes(p, i) > 0 && predictor_layer_bytes(p, i) <= size);
        PROMISE(((uintptr_t)l->fc1 | (uintptr_t)l->fc2) % 64 == 0);
        use_matrix(l->fc1_type, l->fc1, l->fc1_row_bytes, l->rank, p->subject.width);
        use_matrix(l->fc2_type, l->fc2, l->fc2_row_bytes, p->subject.neurons, l->rank);
        for (uint32_t k = 0; k < p->subject.neurons; k++) PROMISE(isfinite(f16_to_f32(l->bias[k])));
        for (uint32_t k = 0; l->hidden_bias && k < l->rank; k++) PROMISE(isfinite(l->hidden_bias[k]));
    }
    predictor_close(&p);
    return 0;
}
