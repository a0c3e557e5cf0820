/* Resolving the FFN's activation. A model run with the wrong one still produces fluent-looking numbers (a
 * ReLU² model run with SiLU: perplexity 99.8 instead of 17.1), so nothing here is a guess: a name that hints
 * at a ReLU variant without telling which is an error, not a default. */
#include "engine/activation.h"

#include "base/err.h"
#include "engine/arch/arch.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    enum kern_act kind;
    const char *canonical;
} spellings[] = {
    {"silu", KERN_SILU, "silu"},
    {"swish", KERN_SILU, "silu"},
    {"gelu", KERN_GELU, "gelu"},
    {"gelu_python", KERN_GELU, "gelu"},
    {"gelu_tanh", KERN_GELU_TANH, "gelu_tanh"},
    {"gelu_new", KERN_GELU_TANH, "gelu_tanh"},
    {"gelu_fast", KERN_GELU_TANH, "gelu_tanh"},
    {"gelu_pytorch_tanh", KERN_GELU_TANH, "gelu_tanh"},
    {"relu", KERN_RELU, "relu"},
    {"relu2", KERN_RELU2, "relu2"},
    {"relu_squared", KERN_RELU2, "relu2"},
    {"fatrelu", KERN_FATRELU, "fatrelu"},
    {"drelu", KERN_DRELU, "drelu"},
};

int activation_parse(struct activation *out, const char *text, size_t n, float param, struct err *e)
{
    const char *colon = memchr(text, ':', n);
    size_t len = colon ? (size_t)(colon - text) : n;
    if (colon) {
        char number[32], *end;
        size_t digits = n - len - 1;
        if (digits == 0 || digits >= sizeof number)
            return err_set(e, ERR_ARG, "activation \"%.*s\": expected a number after the colon",
                           (int)(n < 60 ? n : 60), text);
        memcpy(number, colon + 1, digits);
        number[digits] = 0;
        param = strtof(number, &end);
        if (*end || !isfinite(param))
            return err_set(e, ERR_ARG, "activation \"%.*s\": \"%s\" is not a number", (int)(n < 60 ? n : 60),
                           text, number);
    }
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        if (strlen(spellings[i].name) != len || strncasecmp(spellings[i].name, text, len) != 0) continue;
        out->kind = spellings[i].kind;
        out->param = 0.0f;
        if (out->kind == KERN_FATRELU) {
            if (!(param >= 0.0f && param < 1e6f))
                return err_set(e, ERR_ARG,
                               "activation \"fatrelu\" needs its threshold, for example fatrelu:0.01");
            out->param = param;
            snprintf(out->name, sizeof out->name, "fatrelu:%g", (double)param);
        } else if (colon) {
            return err_set(e, ERR_ARG, "activation \"%s\" takes no number", spellings[i].name);
        } else {
            snprintf(out->name, sizeof out->name, "%s", spellings[i].canonical);
        }
        return 0;
    }
    return err_set(
        e, ERR_ARG,
        "activation \"%.*s\" is unknown: expected silu, gelu, gelu_tanh, relu, relu2, fatrelu:T or "
        "drelu",
        (int)(n < 60 ? n : 60), text);
}

/* Reads `key` and its companion key_param; 1 when absent. */
static int from_key(struct activation *out, const struct gguf *f, const char *key, struct err *e)
{
    struct gguf_str text;
    int r = gguf_get_str(f, key, &text, e);
    if (r != 0) return r;
    char pkey[160];
    float param = NAN;
    snprintf(pkey, sizeof pkey, "%s_param", key);
    if ((r = gguf_get_f32(f, pkey, &param, e)) < 0) return r;
    r = activation_parse(out, text.s, text.n, param, e);
    if (r < 0) {
        r = err_prefix(e, r, "%s: %s", gguf_path(f), key);
        if (e) e->code = ERR_UNSUPPORTED;
        return ERR_UNSUPPORTED;
    }
    return 0;
}

/* Whether the letters and digits of `name` contain `word` (lower case), whatever the case and punctuation. */
static bool mentions(const char *name, size_t n, const char *word)
{
    char plain[256];
    size_t k = 0;
    for (size_t i = 0; i < n && k + 1 < sizeof plain; i++) {
        char c = name[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) plain[k++] = c;
    }
    plain[k] = 0;
    return strstr(plain, word) != NULL;
}

/* Published models whose files may lack a key. Names as they appear with punctuation and case removed. */
static const struct {
    const char *word, *activation;
} known[] = {
    {"minicpms1b", "fatrelu:0.03"},
    {"prosparsellama27b", "fatrelu:0.01"},
    {"prosparsellama213b", "fatrelu:0.01"},
    {"relullama", "relu"},
    {"relufalcon", "relu"},
    {"bamboo", "drelu"},
    {"turbosparsemistral", "drelu"},
    {"galactica", "gelu"},
};

/* Words in a model's or file's name that say "not the family's usual activation" without saying which. */
static const char *const hints[] = {"relu", "sparse", "bamboo", "minicpms"};

int activation_resolve(struct activation *out, const struct arch *arch, const struct gguf *f,
                       const char *override, struct err *e)
{
    memset(out, 0, sizeof *out);
    if (override) {
        out->origin = "the caller";
        return activation_parse(out, override, strlen(override), NAN, e);
    }
    static const char *const suffixes[] = {"hidden_activation", "hidden_act", "activation_function"};
    out->origin = "the file";
    int r = from_key(out, f, "calor.activation", e);
    for (size_t i = 0; r == 1 && i < sizeof suffixes / sizeof *suffixes; i++) {
        char key[128];
        snprintf(key, sizeof key, "%s.%s", arch->name, suffixes[i]);
        r = from_key(out, f, key, e);
    }
    if (r != 1) return r;

    struct gguf_str name = {"", 0};
    if ((r = gguf_get_str(f, "general.name", &name, e)) < 0) return r;
    out->origin = "the model's name";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (mentions(name.s, name.n, known[i].word))
            return activation_parse(out, known[i].activation, strlen(known[i].activation), NAN, e);
    /* PowerInfer runs every model of its own format with ReLU, except Bamboo. */
    if (gguf_is_powerinfer(f)) {
        const char *text = arch->activation && strcmp(arch->activation, "drelu") == 0 ? "drelu" : "relu";
        out->origin = "PowerInfer's format";
        return activation_parse(out, text, strlen(text), NAN, e);
    }
    const char *path = gguf_path(f), *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    bool settled =
        arch->activation && (strcmp(arch->activation, "relu") == 0 || strcmp(arch->activation, "drelu") == 0);
    for (size_t i = 0; !settled && i < sizeof hints / sizeof *hints; i++)
        if (mentions(name.s, name.n, hints[i]) || mentions(base, strlen(base), hints[i]))
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: the file does not say which activation its FFN has, and its name (\"%.*s\") "
                           "hints at a ReLU variant: give --activation relu, fatrelu:0.01, drelu, silu … as "
                           "the model's config.json says (hidden_act)",
                           path, (int)(name.n < 80 ? name.n : 80), name.s);
    if (!arch->activation)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s: the file does not say which activation its FFN has: give --activation NAME as the "
            "model's config.json says (hidden_act)",
            path);
    out->origin = "the architecture";
    return activation_parse(out, arch->activation, strlen(arch->activation), NAN, e);
}
