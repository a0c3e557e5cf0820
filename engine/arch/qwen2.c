/* qwen2: Qwen 1.5 to 2.5. As llama, with the other rotary pairing and biases on q, k and v. */
#include "engine/arch/arch.h"

const struct arch arch_qwen2 = {
    .name = "qwen2",
    .norm = NORM_RMS,
    .position = POSITION_ROPE_NEOX,
    .gated = true,
    .activation = "silu",
};
