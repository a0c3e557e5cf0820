/* Continues a text with libcalor:   complete MODEL [TEXT [TOKENS]]
 *
 *     cc complete.c -o complete $(pkg-config --cflags --libs calor)
 */
#include <calor.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, const char *err)
{
    fprintf(stderr, "%s: %s\n", what, err);
    return 1;
}

int main(int argc, char **argv)
{
    char err[512];
    calor_model *model = NULL;
    calor_session *session = NULL;
    calor_stream *text = NULL;
    int status = 1;

    if (argc < 2) return fail("usage", "complete MODEL [TEXT [TOKENS]]");
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    int tokens = argc > 3 ? atoi(argv[3]) : 32;

    /* NULL settings are the defaults: all cores, the fastest kernels, weights mapped from the file. */
    if (calor_model_open(&model, argv[1], NULL, err, sizeof err)) {
        fail("model", err);
        goto done;
    }
    if (calor_session_open(&session, model, NULL, err, sizeof err)) {
        fail("session", err);
        goto done;
    }
    if (calor_stream_open(&text, model, 0, err, sizeof err)) {
        fail("stream", err);
        goto done;
    }

    int32_t ids[1024];
    size_t n, len;
    if (calor_tokenize(model, prompt, strlen(prompt), CALOR_TOK_BOS, ids, 1024, &n, err, sizeof err)) {
        fail("prompt", err);
        goto done;
    }
    if (calor_eval(session, ids, n, err, sizeof err)) {
        fail("prompt", err);
        goto done;
    }

    calor_sampler sampler = calor_sampler_default();
    sampler.temperature = 0; /* greedy: the same text every time */
    fputs(prompt, stdout);
    for (int i = 0; i < tokens; i++) {
        int32_t id = calor_sample(session, &sampler, err, sizeof err);
        if (id < 0) {
            fail("sampling", err);
            goto done;
        }
        if (calor_token_ends(model, id)) break;
        const char *bytes = calor_stream_add(text, id, &len);
        fwrite(bytes, 1, len, stdout);
        int rc = calor_eval(session, &id, 1, err, sizeof err);
        if (rc == CALOR_EFULL) break; /* the context is full: stop here */
        if (rc) {
            fail("decoding", err);
            goto done;
        }
    }
    const char *rest = calor_stream_flush(text, &len);
    fwrite(rest, 1, len, stdout);
    putchar('\n');
    status = 0;
done: /* each of these takes NULL */
    calor_stream_close(&text);
    calor_session_close(&session);
    calor_model_close(&model);
    return status;
}
