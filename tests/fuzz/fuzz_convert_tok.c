/* Checkpoints' tokenizer files. The first byte says what the rest is: a tokenizer.model, a tokenizer.json, or
 * merges.txt for a vocabulary made here. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/json_text.h"
#include "base/log.h"
#include "engine/convert_tok_parts.h"

#include <string.h>

static void silent(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t rows = 300;
    static volatile uint64_t sink; /* keeps the reads */
    log_set_sink(silent, NULL);
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    size_t n = size - 1;
    struct err e = {0};
    struct hf_vocab v;
    json_t *tree = NULL;
    PROMISE(hf_vocab_init(&v, rows, &e) == 0);
    int rc;
    if (data[0] % 3 == 0)
        rc = hf_read_sentencepiece(&v, text, n, "input", &e);
    else if (data[0] % 3 == 1) {
        rc = json_text_parse(&tree, text, n, "input", JSON_TEXT_DEPTH, &e);
        if (rc == 0) rc = hf_read_tokenizer_json(&v, tree, "input", &e);
    } else {
        tree = json_pack("{s:i,s:i}", "a", 0, "b", 1);
        rc = hf_read_vocab_json(&v, tree, text, n, "input", &e);
    }
    PROMISE(rc == 0 || e.msg[0]);
    PROMISE(v.n <= rows);
    for (uint32_t i = 0; i < v.n; i++)
        for (uint64_t k = 0; k < v.tok[i].n; k++) sink = sink + (uint8_t)v.tok[i].s[k];
    for (size_t i = 0; i < v.n_merge; i++)
        for (uint64_t k = 0; k < v.merge[i].n; k++) sink = sink + (uint8_t)v.merge[i].s[k];
    PROMISE(rc != 0 || v.model);
    hf_vocab_finish(&v);
    json_decref(tree);
    return 0;
}
