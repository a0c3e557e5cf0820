/* What the files of `calor inspect` share: printing text that files hold, and JSON without building a tree.
 */
#ifndef ENGINE_CLI_INSPECT_H
#define ENGINE_CLI_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct gguf;

struct inspect {
    const char *path;
    const char *key; /* print this value whole, or NULL */
    bool json, tensors;
};

/* Each returns 0 or an error. */
int inspect_gguf(const struct inspect *in, struct err *e);
int inspect_safetensors(const struct inspect *in, struct err *e);
int inspect_npy(const struct inspect *in, struct err *e);
int inspect_profile(const struct inspect *in, struct err *e);
bool inspect_is_profile(const struct gguf *f);

/* Prints at most `width` columns of text on one line: control characters escaped, bytes that are no UTF-8 as
 * \xNN, "…" at the end when something was left out. Returns the columns used. */
int show_text(const char *s, size_t n, int width);

/* A JSON string; bytes that are no UTF-8 become U+FFFD. json_bytes: for values, nothing is lost: such strings
 * become {"hex": "…"}. */
void json_put_text(const char *s, size_t n);
void json_put_bytes(const char *s, size_t n);
void json_put_double(double v, int digits); /* null for what JSON lacks */

/* One line "  label        formatted". */
void show_field(const char *label, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "7.24 billion" */
char *show_count(uint64_t n, char *buf, size_t size);

/* Tensors by element type, and those that differ only in their layer's number as one line. */
struct inspect_tensor {
    const char *name, *type;
    const uint64_t *shape;
    int n_dims;
    uint64_t values, bytes, offset;
    int shard;
};
/* `n` tensors, of which `get` gives the i-th; `one_file`: shards need not be shown. */
int show_tensors(uint64_t n, void (*get)(const void *file, uint64_t i, struct inspect_tensor *out),
                 const void *file, bool every, struct err *e);
/* Members "parameters", "tensor_bytes", "bits_per_weight", "types", "tensors" (without the braces around). */
int json_put_tensors(uint64_t n, void (*get)(const void *file, uint64_t i, struct inspect_tensor *out),
                     const void *file, struct err *e);

#endif
