/* Arithmetic of training predictors: small matrix products and elementwise passes, written in plain C with
 * vector types, compiled once for each instruction set and chosen when the program runs. Private to
 * placement/. Every result is a pure function of the inputs on one instruction set. */
#ifndef PLACEMENT_TRAIN_MATH_H
#define PLACEMENT_TRAIN_MATH_H

#include <stdbool.h>
#include <stdint.h>

/* Columns of every matrix are padded to a multiple of this. */
enum { TRAIN_COLUMNS = 32 };

/* c[i*ldc + j] = Σ_k a[i*ai + k*ak]·b[k*ldb + j] for i in [0, m), j in [0, n), k in [0, depth), terms added
 * in order of k; n a multiple of TRAIN_COLUMNS. c overlaps neither a nor b. */
void train_product(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b, int64_t ldb,
                   int64_t m, int64_t n, int64_t depth);

/* Weighted binary cross-entropy of n outputs of one sample: z, the logits, become d loss / d logit. wanted:
 * magnitudes as BF16, 0 where not active. The loss of an active one is wanted·weight·log(1 + e^-z), of
 * another log(1 + e^z). */
void train_gradient(float *z, const uint16_t *wanted, float weight, int64_t n);

/* One step of Adam on n weights; g is the gradient times 1/`scale`. step: the learning rate with the
 * corrections for the first steps in it. */
struct train_adam {
    float step, beta1, beta2, epsilon, scale;
};
void train_adam(const struct train_adam *a, float *w, float *m, float *v, const float *g, int64_t n);

#endif
