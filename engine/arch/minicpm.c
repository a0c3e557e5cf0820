/* minicpm: MiniCPM 1 and 2. As llama, with scales on the embedding, on each branch before it joins the
 * residual, and on the logits. */
#include "engine/arch/arch.h"
#include "engine/hparams.h"

#include <math.h>

static int read_scales(struct hparams *hp, const struct gguf *f, struct err *e)
{
    /* Files from before the keys existed are MiniCPM-2B's: scale_emb 12, scale_depth 1.4, width 256 as base.
     */
    hp->embedding_scale = 12.0f;
    hp->residual_scale = 1.4f / sqrtf((float)hp->layers);
    hp->logit_scale = 256.0f / (float)hp->width;
    float divisor = 0.0f;
    int r = hparams_f32(f, "minicpm", "embedding_scale", 1e-6f, 1e6f, &hp->embedding_scale, e);
    if (r >= 0) r = hparams_f32(f, "minicpm", "residual_scale", 1e-6f, 1e6f, &hp->residual_scale, e);
    if (r >= 0) r = hparams_f32(f, "minicpm", "logit_scale", 1e-6f, 1e6f, &divisor, e);
    if (r == 0) hp->logit_scale = 1.0f / divisor; /* the key holds width / base width */
    return r < 0 ? r : 0;
}

const struct arch arch_minicpm = {
    .name = "minicpm",
    .norm = NORM_RMS,
    .position = POSITION_ROPE_NORM,
    .gated = true,
    .activation = "silu",
    .hparams = read_scales,
};
