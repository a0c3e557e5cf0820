/* bamboo: Bamboo 7B and TurboSparse-Mistral. Mistral's layout with dReLU: max(0, gate)·max(0, up). */
#include "engine/arch/arch.h"

const struct arch arch_bamboo = {
    .name = "bamboo",
    .norm = NORM_RMS,
    .position = POSITION_ROPE_NORM,
    .gated = true,
    .window = true,
    .activation = "drelu",
};
