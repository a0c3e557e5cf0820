/* opt: OPT (except 350M, which norms after the branches and projects its embeddings). Learned positions that
 * start at row 2, biases everywhere, an ungated FFN. */
#include "engine/arch/arch.h"

const struct arch arch_opt = {
    .name = "opt",
    .norm = NORM_LAYER,
    .norm_bias = true,
    .position = POSITION_LEARNED,
    .position_offset = 2,
    .activation = "relu",
};
