/* Opening and closing models: file → architecture → hyper-parameters → tokenizer → kernels → weights → team.
 */
#include "engine/model.h"

#include "base/err.h"
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/heat.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"
#include "placement/predictor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int model_fail(const struct err *e, char *err, size_t errlen)
{
    if (err && errlen) snprintf(err, errlen, "%s", e->msg);
    return e->code;
}

calor_model_settings calor_model_default(void)
{
    return (calor_model_settings){0};
}

void *model_alloc(struct calor_model *m, size_t bytes)
{
    return model_alloc_aligned(m, 64, bytes);
}

void *model_alloc_aligned(struct calor_model *m, size_t align, size_t bytes)
{
    if (m->n_owned == m->cap_owned) {
        size_t cap = m->cap_owned ? 2 * m->cap_owned : 64;
        void **grown = realloc(m->owned, cap * sizeof *grown);
        if (!grown) return NULL;
        m->owned = grown;
        m->cap_owned = cap;
    }
    if (bytes > SIZE_MAX - 2 * align) return NULL;
    void *p = aligned_alloc(align, (bytes + align) / align * align);
    if (p) m->owned[m->n_owned++] = p;
    return p;
}

uint8_t *model_alloc_huge(struct calor_model *m, size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    if (bytes > SIZE_MAX - 2 * huge) return NULL;
    bytes = bytes < huge ? bytes : (bytes + huge - 1) / huge * huge;
    uint8_t *p = model_alloc_aligned(m, bytes < huge ? 64 : huge, bytes);
    if (p && bytes >= huge) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

bool model_free(struct calor_model *m, const void *p)
{
    for (size_t i = m->n_owned; i-- > 0;) {
        if (m->owned[i] != p) continue;
        free(m->owned[i]);
        m->owned[i] = m->owned[--m->n_owned];
        return true;
    }
    return false;
}

/* The model's name as people may see it: what the file says, without control characters, else its path. */
static int read_name(struct calor_model *m, struct err *e)
{
    struct gguf_str s = {gguf_path(m->file), strlen(gguf_path(m->file))};
    int r = gguf_get_str(m->file, "general.name", &s, e);
    if (r < 0) return r;
    size_t n = s.n < 200 ? (size_t)s.n : 200;
    m->name = malloc(n + 1);
    if (!m->name) return err_set(e, ERR_NOMEM, "no memory for the model's name");
    for (size_t i = 0; i < n; i++) m->name[i] = (unsigned char)s.s[i] < 32 || s.s[i] == 127 ? '?' : s.s[i];
    m->name[n] = 0;
    return 0;
}

static int identify(struct calor_model *m, struct err *e)
{
    const char *path = gguf_path(m->file);
    struct gguf_str name;
    int r = gguf_get_str(m->file, "general.architecture", &name, e);
    if (r < 0) return r;
    if (r == 1) return err_set(e, ERR_FORMAT, "%s: the key general.architecture is missing", path);
    m->arch = arch_find(name.s, name.n);
    if (!m->arch)
        return err_set(e, ERR_UNSUPPORTED, "%s: the architecture \"%.*s\" is not one Calor runs: %s", path,
                       (int)(name.n < 40 ? name.n : 40), name.s, arch_names());
    const struct gguf_tensor *embd = gguf_find_tensor(m->file, "token_embd.weight");
    if (!embd)
        return err_set(e, ERR_FORMAT,
                       "%s: the tensor token_embd.weight is missing: this file holds no model that can run",
                       path);
    r = hparams_read(&m->hp, m->arch, m->file, embd->ne[1], e);
    if (r < 0) return r;
    if ((r = tok_create(&m->tok, m->file, e)) < 0) return r;
    if (tok_count(m->tok) > m->hp.vocab)
        return err_set(e, ERR_FORMAT, "%s: the tokenizer has %u tokens but token_embd.weight has %u rows",
                       path, tok_count(m->tok), m->hp.vocab);
    return 0;
}

/* Rotation angles are linear in the position, so everything else goes into one factor a pair: the base, llama
 * 3's divisors, linear scaling, and YaRN's blend of the scaled and the unscaled angle. */
static int make_frequencies(struct calor_model *m, struct err *e)
{
    const struct hparams *hp = &m->hp;
    m->rope_freq = model_alloc(m, (hp->rot / 2 + 1) * sizeof *m->rope_freq);
    if (!m->rope_freq) return err_set(e, ERR_NOMEM, "no memory for %u rotary frequencies", hp->rot / 2);
    for (uint32_t i = 0; i < hp->rot / 2; i++) {
        double freq = pow((double)hp->rope_base, -2.0 * i / hp->rot), scale = (double)hp->rope_scale;
        if (m->rope_factors) freq /= (double)m->rope_factors[i];
        if (hp->yarn) {
            double span = fmax(0.001, (double)hp->yarn_high - (double)hp->yarn_low);
            double keep = 1.0 - fmin(1.0, fmax(0.0, (i - (double)hp->yarn_low) / span));
            scale = scale * (1.0 - keep) + keep;
        }
        m->rope_freq[i] = freq * scale;
    }
    return 0;
}

/* Whether the FFN's weights are to be laid out by neuron. */
static bool by_neuron(const struct calor_model *m, const calor_model_settings *s)
{
    if (s->layout != CALOR_LAYOUT_AUTO) return s->layout == CALOR_LAYOUT_NEURON;
    return activation_has_zeros(&m->act) && m->hp.ffn <= NEURON_MOST;
}

int calor_model_open(calor_model **out, const char *path, const calor_model_settings *s, char *err,
                     size_t errlen)
{
    struct err e = {0};
    calor_model_settings defaults = calor_model_default();
    if (!s) s = &defaults;
    if (err && errlen) *err = 0;
    if (!out || !path) {
        err_set(&e, ERR_ARG, "calor_model_open: out and path must not be NULL");
        return model_fail(&e, err, errlen);
    }
    *out = NULL;
    struct calor_model *m = calloc(1, sizeof *m);
    if (!m) {
        err_set(&e, ERR_NOMEM, "no memory for a model");
        return model_fail(&e, err, errlen);
    }
    pthread_mutex_init(&m->run_lock, NULL);
    if (s->threads < 0 || s->threads > 1024) {
        err_set(&e, ERR_ARG, "threads is %d: expected 0 (all cores) to 1024", s->threads);
        goto fail;
    }
    if ((int)s->layout < CALOR_LAYOUT_AUTO || s->layout > CALOR_LAYOUT_NEURON) {
        err_set(&e, ERR_ARG, "layout is %d: expected one of CALOR_LAYOUT_…", (int)s->layout);
        goto fail;
    }
    m->mapped = !s->no_mmap;
    if (gguf_open(&m->file, path, s->no_mmap ? GGUF_READ : GGUF_MMAP, &e) < 0) goto fail;
    if (identify(m, &e) < 0) goto fail;
    if (read_name(m, &e) < 0) goto fail;
    if (activation_resolve(&m->act, m->arch, m->file, s->activation, &e) < 0) goto fail;
    if (m->act.kind == KERN_DRELU && !m->arch->gated) {
        err_set(&e, ERR_ARG, "the activation drelu needs a gated FFN; %s models have none", m->arch->name);
        goto fail;
    }
    if (kern_select(s->cpu, &m->ops, &e) < 0) goto fail;
    struct team_settings ts = {.threads = s->threads, .bind = 1};
    if (team_create(&m->team, &ts, &e) < 0) goto fail;
    if (place_init(&m->place, m) < 0) {
        err_set(&e, ERR_NOMEM, "no memory for a model");
        goto fail;
    }
    if (weights_bind(m, s, &e) < 0) goto fail;
    if (make_frequencies(m, &e) < 0) goto fail;
    if (s->profile && heat_take(m, s->profile, s->cett, by_neuron(m, s), &e) < 0) goto fail;
    if (by_neuron(m, s) && neurons_lay_out(m, s->planes != 0, s->progress, s->progress_arg, &e) < 0)
        goto fail;
    if ((s->predictor || s->own_predictor) && predicting_bind(m, s->predictor, &e) < 0) goto fail;
    if (s->progress && s->progress(1.0, s->progress_arg)) {
        err_set(&e, ERR_CANCELLED, "%s: loading was interrupted", path);
        goto fail;
    }
    *out = m;
    return 0;
fail:
    calor_model_close(&m);
    return model_fail(&e, err, errlen);
}

void calor_model_close(calor_model **pm)
{
    if (!pm || !*pm) return;
    struct calor_model *m = *pm;
    team_destroy(&m->team);
    place_finish(&m->place);
    tok_destroy(&m->tok);
    for (size_t i = 0; i < m->n_owned; i++) free(m->owned[i]);
    free(m->owned);
    free(m->layers);
    free(m->name);
    predictor_close(&m->predictor);
    gguf_close(&m->file);
    pthread_mutex_destroy(&m->run_lock);
    free(m);
    *pm = NULL;
}

void calor_model_describe(const calor_model *m, calor_model_info *info)
{
    *info = (calor_model_info){
        .architecture = m->arch->name,
        .name = m->name,
        .type = m->type,
        .activation = m->act.name,
        .activation_origin = m->act.origin,
        .cpu = m->ops->name,
        .vocab = m->hp.vocab,
        .width = m->hp.width,
        .ffn = m->hp.ffn,
        .layers = m->hp.layers,
        .heads = m->hp.heads,
        .kv_heads = m->hp.kv_heads,
        .head_dim = m->hp.head_dim,
        .context = m->hp.context,
        .parameters = m->parameters,
        .weight_bytes = m->weight_bytes,
        .by_neuron = m->layers[0].by.kind != NULL,
        .planes = m->layers[0].by.screen != NULL,
        .predictor = m->layers[0].predicting.fc1.data != NULL,
        .has_zeros = activation_has_zeros(&m->act),
        .threads = team_size(m->team),
    };
}
