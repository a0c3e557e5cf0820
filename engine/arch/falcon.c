/* falcon: Falcon 7B (one norm for both branches), 40B and 180B (a norm each: attn_norm_2 for attention,
 * attn_norm for the FFN). Attention and FFN run side by side on the layer's input. */
#include "engine/arch/arch.h"

const struct arch arch_falcon = {
    .name = "falcon",
    .norm = NORM_LAYER,
    .norm_bias = true,
    .position = POSITION_ROPE_NEOX,
    .parallel = true,
    .activation = "gelu",
};
