/* convert_tok DIR ROWS OUT.gguf: a checkpoint folder's tokenizer alone, for test_convert_tok.py. */
#include "engine/convert_tok.h"
#include "base/err.h"
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct err e = {0};
    struct gguf_writer *w = NULL;
    int rc = argc == 4 ? gguf_writer_create(&w, argv[3], &e)
                       : err_set(&e, ERR_ARG, "usage: convert_tok DIR ROWS OUT");
    if (rc == 0) rc = gguf_put_str(w, "general.architecture", "llama", &e);
    if (rc == 0) rc = convert_tokenizer(argv[1], (uint32_t)strtoul(argv[2], NULL, 10), w, &e);
    if (rc == 0) rc = gguf_write_header(w, &e);
    if (rc == 0) rc = gguf_writer_finish(w, &e);
    gguf_writer_destroy(&w);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    return rc ? 1 : 0;
}
