/* The .npy header parser. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "io/npy_priv.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct npy_layout l;
    int rc = npy_parse(&l, data, size, size, "fuzz", &e);
    PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz")));
    if (rc) return 0;
    PROMISE(l.data <= size && (l.rows == 0 || l.cols <= (size - l.data) / 4 / l.rows));
    PROMISE(strlen(l.note) <= NPY_NOTE_MAX && !strpbrk(l.note, "\n\x7f"));
    return 0;
}
