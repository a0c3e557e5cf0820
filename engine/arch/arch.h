/* Architectures: what makes a llama a llama. One small file each, one line each in table.c; the forward pass
 * reads these descriptions and has no architecture names in it. Private to engine/. How to add one:
 * docs/add-a-model.md. */
#ifndef ENGINE_ARCH_ARCH_H
#define ENGINE_ARCH_ARCH_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct gguf;
struct hparams;

enum norm_kind { NORM_RMS, NORM_LAYER };
enum position_kind {
    POSITION_ROPE_NORM, /* rotary, pairs (2i, 2i+1) */
    POSITION_ROPE_NEOX, /* rotary, pairs (i, i + rot/2) */
    POSITION_LEARNED,   /* position_embd.weight added to the token's embedding */
};

struct arch {
    const char *name; /* the file's general.architecture */
    enum norm_kind norm;
    enum position_kind position;
    uint32_t position_offset; /* learned positions: position p uses row p + offset */
    bool gated;               /* FFN = down(act(gate·x) ⊙ up·x), else down(act(up·x)) */
    bool parallel;            /* attention and FFN both read the layer's input, their outputs are added */
    bool norm_bias;           /* norms have a bias in every file */
    bool window;              /* attention.sliding_window applies to every layer as it stands */
    const char *activation;   /* when neither the file nor its name says: NULL where that would be a guess */
    /* Further keys of this architecture, after the common ones are read and checked; may be NULL. */
    int (*hparams)(struct hparams *hp, const struct gguf *f, struct err *e);
};

/* By general.architecture (not NUL-terminated); NULL if there is none. */
const struct arch *arch_find(const char *name, uint64_t n);
/* All names, separated by ", ", for messages. */
const char *arch_names(void);

extern const struct arch arch_bamboo, arch_falcon, arch_llama, arch_minicpm, arch_opt, arch_qwen2;

#endif
