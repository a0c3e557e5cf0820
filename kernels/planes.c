/* The gate in two planes: taking rows apart and together, and what follows from z = Q·x for the neurons. The
 * same for every tier; the products are the tiers' (planes.c in their folders). */
#include "base/err.h"
#include "base/half.h"
#include "kernels/cpu/plane_words.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>

enum { Q8_BLOCK = 34, COARSE_BLOCK = 18, FINE_BLOCK = 16 };

bool kern_can_plane(enum dtype type)
{
    return type == DT_F16 || type == DT_BF16 || type == DT_Q8_0;
}

/* Bytes of n values at `bytes` a block of `block`, in whole cache lines; 0: none. */
static size_t lines(int64_t n, int64_t block, int64_t bytes)
{
    if (n <= 0 || n % block != 0 || n > INT64_MAX / 64) return 0;
    return ((size_t)(n / block * bytes) + 63) & ~(size_t)63;
}

size_t kern_plane_coarse_bytes(enum dtype type, int64_t n)
{
    if (!kern_can_plane(type)) return 0;
    return type == DT_Q8_0 ? lines(n, 32, COARSE_BLOCK) : lines(n, 1, 1);
}

size_t kern_plane_fine_bytes(enum dtype type, int64_t n)
{
    if (!kern_can_plane(type)) return 0;
    return type == DT_Q8_0 ? lines(n, 32, FINE_BLOCK) : lines(n, 1, 1);
}

/* A sum of squares to its root, no smaller: the sum's own rounding is below 1e-10. */
static float root_up(double squares)
{
    double root = sqrt(squares) * (1 + 1e-9);
    float f = (float)root;
    return (double)f < root ? nextafterf(f, INFINITY) : f;
}

/* ---- F16 and BF16 ---- */

static double word_value(enum dtype type, uint16_t word)
{
    return type == DT_F16 ? f16_to_f32(word) : bf16_to_f32(word);
}

static double coarse_value(const struct kern_plane_row *row, uint8_t c)
{
    return (double)bf16_to_f32(plane_coarse_bf16(c)) * row->unit;
}

/* `type` is a constant at every call. Inside the octaves errors and values are whole numbers of the octave's
 * last place, so their squares are summed as integers. */
static inline void split_words(enum dtype type, struct kern_plane_row *row, uint8_t *coarse, uint8_t *fine,
                               const uint8_t *src, int64_t n)
{
    const uint32_t slots = plane_slots(type), octave = 16 * slots;
    const int bias = type == DT_F16 ? 15 : 127, exponents = type == DT_F16 ? 31 : 255;
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t m = ref_u16(src + 2 * i) & 0x7fff;
        if (m > most) most = m;
    }
    row->base = plane_base(type, most);
    int low = (int)(row->base / octave) - bias; /* exponent of the lowest octave */
    row->unit = ldexpf(1, low + 7);
    uint64_t errors[8] = {0}, values[8] = {0};
    double error = 0, value = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t word = ref_u16(src + 2 * i);
        uint8_t c, f;
        plane_apart(type, row->base, word, &c, &f);
        coarse[plane_place(i)] = c;
        fine[plane_place(i)] = f;
        if (f < slots) {
            int o = c >> 4 & 7;
            int64_t off = (int64_t)f - slots / 2;
            uint64_t mantissa = octave + (c & 15) * slots + f;
            errors[o] += (uint64_t)(off * off);
            values[o] += mantissa * mantissa;
        } else {
            double w = word_value(type, word), e = w - coarse_value(row, c);
            error += e * e;
            value += w * w;
        }
    }
    for (int o = 0; o < 8; o++) {
        double place = ldexp(1, 2 * (low + o)) / ((double)octave * octave);
        error += (double)errors[o] * place;
        value += (double)values[o] * place;
    }
    row->error = row->size = INFINITY;
    if (most / octave < (uint32_t)exponents) { /* all finite */
        row->error = root_up(error);
        row->size = root_up((sqrt(error) + sqrt(value)) * (sqrt(error) + sqrt(value)));
    }
}

/* ---- Q8_0: q + 128 = 16·high + low, Q = d·(16·high + 7.5 - 128) ---- */

static void split_q8_0(struct kern_plane_row *row, uint8_t *coarse, uint8_t *fine, const uint8_t *src,
                       int64_t n)
{
    double error = 0, scales = 0;
    for (int64_t b = 0; b < n / 32; b++, src += Q8_BLOCK, coarse += COARSE_BLOCK, fine += FINE_BLOCK) {
        double d = f16_to_f32(ref_u16(src));
        int squares = 0;
        memcpy(coarse, src, 2);
        for (int i = 0; i < 16; i++) {
            uint8_t a = src[2 + i] ^ 0x80, c = src[18 + i] ^ 0x80;
            coarse[2 + i] = (uint8_t)(a >> 4 | (c & 0xf0));
            fine[i] = (uint8_t)((a & 15) | c << 4);
            int ea = 2 * (a & 15) - 15, ec = 2 * (c & 15) - 15;
            squares += ea * ea + ec * ec;
        }
        error += d * d * squares / 4;
        scales += 32 * d * d;
    }
    row->base = 0;
    row->unit = 1;
    row->error = root_up(error);
    /* Tiers multiply unsigned bytes and take 128 away again: terms reach d·(255 + 128), those of the coarse
     * part 16·15 + 120.5. */
    row->size = root_up(384.0 * 384.0 * scales);
}

static int check(enum dtype type, const struct kern_planes_at *at, size_t row_bytes, int64_t n,
                 const char *what, struct err *e)
{
    uint64_t packed;
    if (!kern_can_plane(type))
        return err_set(e, ERR_UNSUPPORTED, "%s %s in two planes: expected f16, bf16 or q8_0", what,
                       dtype_name(type));
    if (n <= 0 || !dtype_row_bytes(type, (uint64_t)n, &packed) || packed > row_bytes)
        return err_set(e, ERR_ARG, "%s rows of %" PRId64 " values of %s in two planes, %zu bytes apart", what,
                       n, dtype_name(type), row_bytes);
    if (at->coarse_stride % 64 || at->fine_stride % 64 ||
        at->coarse_stride < kern_plane_coarse_bytes(type, n) ||
        at->fine_stride < kern_plane_fine_bytes(type, n))
        return err_set(e, ERR_ARG,
                       "%s rows of %" PRId64 " values of %s in two planes: parts %zu and %zu bytes apart, "
                       "expected multiples of 64 from %zu and %zu",
                       what, n, dtype_name(type), at->coarse_stride, at->fine_stride,
                       kern_plane_coarse_bytes(type, n), kern_plane_fine_bytes(type, n));
    return 0;
}

int kern_planes_split(enum dtype type, const struct kern_planes_at *dst, const void *src, size_t row_bytes,
                      int64_t n, int64_t i0, int64_t i1, const uint32_t *at, struct err *e)
{
    int rc = check(type, dst, row_bytes, n, "taking apart", e);
    if (rc != 0) return rc;
    for (int64_t i = i0; i < i1; i++) {
        size_t to = at ? at[i] : (size_t)i;
        uint8_t *coarse = dst->coarse + to * dst->coarse_stride, *fine = dst->fine + to * dst->fine_stride;
        const uint8_t *row = (const uint8_t *)src + (size_t)i * row_bytes;
        /* padding; the last values of F16 and BF16 lie scattered over the last 64 bytes */
        size_t cn = type == DT_Q8_0 ? (size_t)(n / 32) * COARSE_BLOCK : (size_t)n & ~(size_t)63;
        size_t fn = type == DT_Q8_0 ? (size_t)(n / 32) * FINE_BLOCK : (size_t)n & ~(size_t)63;
        memset(coarse + cn, 0, dst->coarse_stride - cn);
        memset(fine + fn, 0, dst->fine_stride - fn);
        switch (type) {
        case DT_F16: split_words(DT_F16, &dst->rows[to], coarse, fine, row, n); break;
        case DT_BF16: split_words(DT_BF16, &dst->rows[to], coarse, fine, row, n); break;
        default: split_q8_0(&dst->rows[to], coarse, fine, row, n); break;
        }
    }
    return 0;
}

int kern_planes_join(enum dtype type, void *dst, size_t row_bytes, const struct kern_planes_at *w, int64_t n,
                     int64_t i0, int64_t i1, const uint32_t *at, struct err *e)
{
    int rc = check(type, w, row_bytes, n, "putting together", e);
    if (rc != 0) return rc;
    for (int64_t i = i0; i < i1; i++) {
        size_t from = at ? at[i] : (size_t)i;
        ref_plane_join(type, (uint8_t *)dst + (size_t)i * row_bytes, w->coarse + from * w->coarse_stride,
                       w->fine + from * w->fine_stride, &w->rows[from], n);
    }
    return 0;
}

/* ---- The token ---- */

void kern_plane_x_make(struct kern_plane_x *px, const float *x, int64_t n)
{
    double squares[8] = {0};
    for (int64_t i = 0; i < n; i++) squares[i & 7] += (double)x[i] * (double)x[i];
    double all = ((squares[0] + squares[4]) + (squares[2] + squares[6])) +
                 ((squares[1] + squares[5]) + (squares[3] + squares[7]));
    *px = (struct kern_plane_x){.norm = sqrt(all), .n = n};
    px->rest = px->norm;
    /* The largest few, ascending by size. A channel below a hundredth of ‖x‖² is not extreme. */
    int most = n / 64 < KERN_PLANE_EXTREMES ? (int)(n / 64) : KERN_PLANE_EXTREMES, count = 0;
    int32_t top[KERN_PLANE_EXTREMES];
    double least = all / 100;
    for (int64_t i = 0; i < n && most > 0; i++) {
        double v = (double)x[i] * (double)x[i];
        if (!(v > least)) continue;
        int at = 0;
        if (count == most)
            for (int j = 1; j < count; j++) top[j - 1] = top[j];
        else
            count++;
        for (at = count - 1; at > 0 && fabsf(x[top[at - 1]]) > fabsf(x[i]); at--) top[at] = top[at - 1];
        top[at] = (int32_t)i;
        if (count == most) {
            double smallest = (double)x[top[0]] * (double)x[top[0]];
            if (smallest > least) least = smallest;
        }
    }
    double extreme = 0;
    for (int j = 0; j < count; j++) extreme += (double)x[top[j]] * (double)x[top[j]];
    if (!(extreme > all / 4) || !(all < INFINITY)) return;
    for (int j = 0; j < count; j++) { /* by channel */
        int at = px->extremes++;
        for (; at > 0 && px->channel[at - 1] > top[j]; at--) px->channel[at] = px->channel[at - 1];
        px->channel[at] = top[j];
    }
    double rest = 0;
    for (int64_t i = 0, j = 0; i < n; i++) {
        if (j < px->extremes && px->channel[j] == i)
            px->value[j++] = x[i];
        else
            rest += (double)x[i] * (double)x[i];
    }
    px->rest = sqrt(rest);
}

void kern_plane_column(enum dtype type, float *e, const struct kern_planes_at *w, int64_t first,
                       int64_t count, int64_t n, int64_t channel)
{
    (void)n;
    for (int64_t i = 0; i < count; i++) {
        const struct kern_plane_row *row = &w->rows[first + i];
        const uint8_t *coarse = w->coarse + (size_t)(first + i) * w->coarse_stride;
        const uint8_t *fine = w->fine + (size_t)(first + i) * w->fine_stride;
        if (type == DT_Q8_0) {
            int64_t block = channel / 32, at = channel % 32;
            int low = fine[block * FINE_BLOCK + at % 16] >> (at < 16 ? 0 : 4) & 15;
            e[i] = f16_to_f32(ref_u16(coarse + block * COARSE_BLOCK)) * ((float)low - 7.5f);
        } else {
            uint8_t c = coarse[plane_place(channel)];
            uint16_t word = plane_together(type, row->base, c, fine[plane_place(channel)]);
            e[i] = (float)(word_value(type, word) - coarse_value(row, c));
        }
    }
}

void kern_plane_add_column(float *z, const float *e, float value, int64_t count)
{
    for (int64_t i = 0; i < count; i++) z[i] += e[i] * value;
}

/* ---- The bound ---- */

struct kern_plane_bound kern_plane_bound_make(const struct kern_plane_x *px, double k, bool exact, float t)
{
    double norm = exact ? px->rest : px->norm, n = (double)px->n;
    struct kern_plane_bound b = {.threshold = t, .strict = t > 0};
    b.error = (float)((k > 0 ? k * norm / sqrt(n) : norm) * (1 + 1e-6));
    /* Every tier sums a product in at least 8 chains and adds these up in at most 8 steps: each of the coarse
     * and the exact product is within (n/16 + 16)·2^-24·size·‖x‖ (a few more roundings come with scales,
     * columns and this comparison); twice their sum. Denormal products round by up to 2^-126·unit each
     * whatever x is: a floor for ‖x‖ covers them, and `fixed` those of tiny weights. */
    double rounding = (n / 16 + 32) * 0x1p-22;
    b.rounding = (float)(rounding * fmax(px->norm, 0x1p-80));
    if (isnan(px->norm)) b.rounding = NAN;
    b.fixed = 1e-33f + 0x1p-21f * fabsf(t);
    b.size_most = (float)(1e37 / fmax(px->norm, 1)); /* beyond it an exact sum could overflow on its way */
    return b;
}

int64_t kern_plane_candidates(uint16_t *list, const float *z, const float *bias,
                              const struct kern_plane_row *rows, int64_t count,
                              const struct kern_plane_bound *b)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        float add = bias ? bias[i] : 0;
        float most =
            z[i] + add +
            (b->error * rows[i].error + b->rounding * rows[i].size + b->fixed + 0x1p-21f * fabsf(add));
        bool off = (b->strict ? most < b->threshold : most <= b->threshold) & (z[i] >= -3e38f) &
                   (rows[i].size <= b->size_most);
        list[found] = (uint16_t)i;
        found += !off;
    }
    return found;
}
