/* What a checkpoint must hold: the tensors that weights_bind will ask for, by their names in the new file. */
#include "engine/convert.h"

#include "base/err.h"
#include "engine/arch/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct names {
    const char **name; /* sorted */
    size_t n;
    uint32_t layer;
    bool in_layer;
    char *missing;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool there(struct names *s, const char *stem, const char *suffix)
{
    char full[CONV_NAME];
    const char *key = full;
    if (s->in_layer)
        snprintf(full, sizeof full, "blk.%u.%s.%s", s->layer, stem, suffix);
    else
        snprintf(full, sizeof full, "%s.%s", stem, suffix);
    if (bsearch(&key, s->name, s->n, sizeof *s->name, by_text)) return true;
    memcpy(s->missing, full, sizeof full);
    return false;
}

static bool norm(struct names *s, const struct arch *a, const char *stem)
{
    return there(s, stem, "weight") && (!a->norm_bias || there(s, stem, "bias"));
}

/* Biases are optional for the engine: where only some layers have one, or q has one and k does not, a missing
 * one would be taken for a model without. */
static bool biases(struct names *s, const struct conv_expect *x)
{
    static const char *const stems[] = {"attn_q",      "attn_k",   "attn_v", "attn_qkv",
                                        "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    bool qkv = x->qkv_bias;
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++) {
        bool any = i < 3 && qkv;
        for (s->layer = 0; s->layer < x->layers; s->layer++) any |= there(s, stems[i], "bias");
        for (s->layer = 0; any && s->layer < x->layers; s->layer++)
            if (!there(s, stems[i], "bias")) return false;
        if (i == 0) qkv |= any;
    }
    return true;
}

static bool layer(struct names *s, const struct conv_expect *x)
{
    const struct arch *a = x->arch;
    if (!norm(s, a, "attn_norm") || (!a->parallel && !norm(s, a, "ffn_norm"))) return false;
    if (x->one_qkv
            ? !there(s, "attn_qkv", "weight")
            : !there(s, "attn_q", "weight") || !there(s, "attn_k", "weight") || !there(s, "attn_v", "weight"))
        return false;
    return there(s, "attn_output", "weight") && (!a->gated || there(s, "ffn_gate", "weight")) &&
           there(s, "ffn_up", "weight") && there(s, "ffn_down", "weight");
}

int conv_find_missing(const struct conv_list *l, const struct conv_expect *x, char missing[CONV_NAME],
                      struct err *e)
{
    const struct arch *a = x->arch;
    struct names s = {.name = malloc((l->n + 1) * sizeof *s.name), .n = l->n, .missing = missing};
    if (!s.name) return err_set(e, ERR_NOMEM, "no memory for the names of %zu tensors", l->n);
    for (size_t i = 0; i < l->n; i++) s.name[i] = l->t[i].name;
    qsort(s.name, s.n, sizeof *s.name, by_text);
    bool all = there(&s, "token_embd", "weight") && norm(&s, a, "output_norm") &&
               (x->tied || there(&s, "output", "weight")) &&
               (a->position != POSITION_LEARNED || there(&s, "position_embd", "weight"));
    s.in_layer = true;
    for (; all && s.layer < x->layers; s.layer++) all = layer(&s, x);
    all = all && biases(&s, x);
    free(s.name);
    if (all) *missing = 0;
    return 0;
}
