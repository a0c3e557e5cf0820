/* Vector operations: every tier against the reference tier, at all lengths around the vector widths. */
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <stdlib.h>

enum { LONGEST = 13824 };

/* One call of an operation: in and out buffers end where memory ends. */
struct call {
    const struct kern_ops *ops;
    int op, kind;
    int64_t n;
    bool in_place, with_up; /* or with b, for layernorm */
    float param;
    int heads, head_dim, rot;
    float *y, *x, *w, *b; /* y: result */
    void *bytes;          /* kv_store's */
};

enum {
    RMSNORM,
    LAYERNORM,
    ROPE_NORM,
    ROPE_NEOX,
    SILU,
    GELU,
    GELU_TANH,
    RELU,
    RELU2,
    FATRELU,
    DRELU,
    ADD,
    SCALE,
    SOFTMAX,
    STORE_F32,
    STORE_F16,
    STORE_Q8_0,
    VEC_OPS
};
static const char *const op_name[VEC_OPS] = {
    "rmsnorm",   "layernorm", "rope_norm", "rope_neox", "silu",       "gelu",
    "gelu_tanh", "relu",      "relu2",     "fatrelu",   "drelu",      "add",
    "scale",     "softmax",   "store_f32", "store_f16", "store_q8_0",
};

static bool exact(int op)
{
    return (op >= RELU && op <= SCALE) || op >= STORE_F32;
}

static void call_run(void *arg)
{
    struct call *c = arg;
    const struct kern_ops *o = c->ops;
    const float *x = c->in_place ? c->y : c->x;
    switch (c->op) {
    case RMSNORM: o->rmsnorm(c->y, x, c->w, c->n, 1e-5f); break;
    case LAYERNORM: o->layernorm(c->y, x, c->w, c->with_up ? c->b : NULL, c->n, 1e-5f); break;
    case ROPE_NORM:
    case ROPE_NEOX:
        o->rope(c->y, c->w, c->heads, c->head_dim, c->rot,
                c->op == ROPE_NORM ? KERN_ROPE_NORM : KERN_ROPE_NEOX);
        break;
    case SILU:
    case GELU:
    case GELU_TANH:
    case RELU:
    case RELU2:
    case FATRELU:
    case DRELU: o->act(c->y, x, c->with_up ? c->w : NULL, c->n, (enum kern_act)c->kind, c->param); break;
    case ADD: o->add(c->y, c->w, c->n); break;
    case SCALE: o->scale(c->y, c->param, c->n); break;
    case SOFTMAX: o->softmax(c->y, c->n); break;
    case STORE_F32: o->kv_store(DT_F32, c->bytes, c->x, c->n); break;
    case STORE_F16: o->kv_store(DT_F16, c->bytes, c->x, c->n); break;
    case STORE_Q8_0: o->kv_store(DT_Q8_0, c->bytes, c->x, c->n); break;
    default: break;
    }
}

static int kind_of(int op)
{
    switch (op) {
    case SILU: return KERN_SILU;
    case GELU: return KERN_GELU;
    case GELU_TANH: return KERN_GELU_TANH;
    case RELU: return KERN_RELU;
    case RELU2: return KERN_RELU2;
    case FATRELU: return KERN_FATRELU;
    default: return KERN_DRELU;
    }
}

/* Inputs that activations meet: every magnitude, both zeros, the threshold itself. */
static void fill_gate(struct rng *r, float *x, int64_t n, float threshold)
{
    static const float odd[] = {0.0f,  -0.0f,  1e-42f, -1e-42f, 88.8f, -88.8f, -104.5f,
                                1e30f, -1e30f, 20,     -20,     0.5f,  -0.5f};
    for (int64_t i = 0; i < n; i++) {
        int64_t which = pick(r, 16);
        if (which == 0)
            x[i] = odd[pick(r, 13)];
        else if (which == 1)
            x[i] = threshold;
        else
            x[i] = (float)(rng_normal(r) * exp2((double)pick(r, 12) - 7));
    }
}

static void one(struct verdict *v, struct rng *rng, int op, const struct kern_ops *ops, int64_t n,
                enum fill_x fill)
{
    const struct kern_ops *ref = kern_tier(KERN_REF);
    struct call c = {.op = op, .n = n, .kind = kind_of(op), .param = op == FATRELU ? 0.01f : 0.37f};
    c.in_place = pick(rng, 2) != 0;
    c.with_up = pick(rng, 3) != 0;
    if (op == ROPE_NORM || op == ROPE_NEOX) {
        c.heads = 1 + (int)pick(rng, 3);
        c.head_dim = (int)n;
        c.rot = (int)n & ~1;
        if (n >= 8 && pick(rng, 2)) c.rot -= 2 * (int)pick(rng, 3);
        c.n = n *= c.heads;
    }
    enum dtype store = op == STORE_F16 ? DT_F16 : op == STORE_Q8_0 ? DT_Q8_0 : DT_F32;
    uint64_t stored = 0;
    dtype_row_bytes(store, (uint64_t)n, &stored);
    struct guarded y[2], x, w, b, out[2];
    size_t bytes = (size_t)n * sizeof(float);
    guard_make(&x, bytes);
    guard_make(&w, bytes);
    guard_make(&b, bytes);
    fill_floats(rng, X_NORMAL, (float *)w.p, n);
    fill_floats(rng, X_NORMAL, (float *)b.p, n);
    if (op >= SILU && op <= DRELU)
        fill_gate(rng, (float *)x.p, n, c.param);
    else
        fill_floats(rng, fill, (float *)x.p, n);
    if (op == LAYERNORM && fill == X_OUTLIER) /* a mean far from 0 */
        for (int64_t i = 0; i < n; i++) ((float *)x.p)[i] += 100;
    if (op == ROPE_NORM || op == ROPE_NEOX) {
        for (int i = 0; i < c.rot / 2; i++) {
            double angle = rng_f64(rng) * 100;
            ((float *)w.p)[2 * i] = (float)cos(angle);
            ((float *)w.p)[2 * i + 1] = (float)sin(angle);
        }
    }
    bool alive = true;
    for (int side = 0; side < 2; side++) {
        guard_make(&y[side], bytes);
        guard_make(&out[side], stored + (size_t)(n & 1)); /* any address */
        memset(out[side].p, 0xcd, out[side].n);
        memcpy(y[side].p, x.p, bytes);
        c.ops = side ? ops : ref;
        c.y = (float *)y[side].p;
        c.x = (float *)x.p;
        c.w = (float *)w.p;
        c.b = (float *)b.p;
        c.bytes = out[side].p;
        alive = alive && kt_survives(call_run, &c);
    }
    v->ran = true;
    if (!alive) {
        verdict_fail(v, "touched memory outside its buffers, n %" PRId64, n);
    } else if (memcmp(out[0].p, out[1].p, out[0].n) != 0) {
        verdict_fail(v, "stored other bytes than the reference, n %" PRId64 ", x %s", n, fill_x_name[fill]);
    } else if (!guard_intact(&y[1]) || !guard_intact(&out[1])) {
        verdict_fail(v, "wrote before the start of a buffer, n %" PRId64, n);
    } else {
        const float *want = (float *)y[0].p, *got = (float *)y[1].p;
        double errors = 0, squares = 0;
        for (int64_t i = 0; i < n; i++) {
            if (exact(op) && memcmp(&want[i], &got[i], 4) != 0)
                return verdict_fail(v, "value %" PRId64 " of %" PRId64 " is %.9g, not %.9g (x %.9g)", i, n,
                                    got[i], want[i], ((float *)x.p)[i]);
            double off = fabs((double)want[i] - got[i]), size = fabs(want[i]);
            if (!isfinite(want[i]) && want[i] == got[i]) continue;
            /* A few units in the last place, each value by itself; far left of zero GELU multiplies the
             * rounding of its exponent; what underflows may do so earlier. */
            double unit = op == GELU || op == GELU_TANH ? 2e-5 : 4e-6;
            double limit = unit * size + (op < SILU ? 1e-7 : 0) + 1e-35;
            if (!(off <= limit) && op != RMSNORM && op != LAYERNORM && op != SOFTMAX)
                return verdict_fail(v, "value %" PRId64 " of %" PRId64 " is %.9g, not %.9g (x %.9g)", i, n,
                                    got[i], want[i], ((float *)x.p)[i]);
            if (size > 1e18) continue;
            errors += off * off;
            squares += size * size;
        }
        double nmse = squares > 1e-60 ? errors / squares : 0;
        if (nmse / 1e-12 > v->worst) v->worst = nmse / 1e-12;
        if (!(nmse <= 1e-12))
            verdict_fail(v, "NMSE %.3g, at most 1e-12; n %" PRId64 ", x %s", nmse, n, fill_x_name[fill]);
    }
    guard_free(&x);
    guard_free(&w);
    guard_free(&b);
    for (int side = 0; side < 2; side++) {
        guard_free(&y[side]);
        guard_free(&out[side]);
    }
}

void check_vec(struct kt *k)
{
    static const enum fill_x fills[] = {X_NORMAL, X_OUTLIER, X_ZERO, X_TINY, X_SMALL, X_CONST};
    for (int t = 1; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t),
                              *below = kern_tier((enum kern_tier)(t - 1));
        if (!ops || (ops->rmsnorm == below->rmsnorm && ops->act == below->act)) continue;
        for (int op = 0; op < VEC_OPS; op++) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", ops->name, op_name[op]);
            if (!kt_wanted(k, name)) continue;
            struct verdict v = {0};
            struct rng rng;
            rng_init(&rng, k->seed + (uint64_t)op);
            for (int64_t n = 1; n < 70 && !v.failed; n++)
                if (op != STORE_Q8_0 || n % 32 == 0) one(&v, &rng, op, ops, n, X_NORMAL);
            for (int f = 0; f < 6 && !v.failed; f++) {
                static const int64_t lengths[] = {32, 128, 160, 1024, 4096};
                for (int l = 0; l < 5 && !v.failed; l++) one(&v, &rng, op, ops, lengths[l], fills[f]);
            }
            if (!v.failed) one(&v, &rng, op, ops, LONGEST, X_NORMAL);
            verdict_report(k, &v, name);
        }
    }
}
