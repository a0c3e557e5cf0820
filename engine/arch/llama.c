/* llama: LLaMA 1–3, Mistral, ReluLLaMA, ProSparse and everything else converted to this layout. */
#include "engine/arch/arch.h"

const struct arch arch_llama = {
    .name = "llama",
    .norm = NORM_RMS,
    .position = POSITION_ROPE_NORM,
    .gated = true,
    .window = true, /* Mistral 7B v0.1: each token sees the last 4096 */
    .activation = "silu",
};
