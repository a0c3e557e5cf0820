/* calor tokenize: text to token ids. Needs a file's vocabulary only. */
#include "base/err.h"
#include "base/file.h"
#include "engine/calor.h"
#include "engine/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (512u << 20)

static int read_stdin(char **text, size_t *n, struct err *e)
{
    size_t cap = 65536;
    char *s = malloc(cap);
    *n = 0;
    while (s) {
        size_t k = fread(s + *n, 1, cap - *n, stdin);
        *n += k;
        if (k == 0) break;
        if (*n < cap) continue;
        char *more = cap < MOST_BYTES ? realloc(s, cap * 2) : NULL;
        if (!more) {
            free(s);
            return err_set(e, ERR_ARG, "standard input: expected at most %u MiB of text", MOST_BYTES >> 20);
        }
        s = more;
        cap *= 2;
    }
    if (s && ferror(stdin)) {
        free(s);
        return err_set_errno(e, ERR_IO, "standard input");
    }
    *text = s;
    return s ? 0 : err_set(e, ERR_NOMEM, "no memory for the text");
}

/* Bytes that are no UTF-8 by themselves (a part of a character) are shown as U+FFFD. */
static void print_string(const char *s, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        size_t len = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;
        bool ok = len > 0 && len <= n - i;
        for (size_t k = 1; ok && k < len; k++) ok = ((unsigned char)s[i + k] & 0xc0) == 0x80;
        if (ok && len > 2) { /* overlong forms, surrogates and what lies beyond Unicode */
            unsigned char d = (unsigned char)s[i + 1];
            ok = !((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
                   (c == 0xf4 && d > 0x8f));
        }
        if (!ok) {
            fputs("\xef\xbf\xbd", stdout);
            i++;
        } else if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) {
            printf("\\u%04x", c);
            i++;
        } else {
            fwrite(s + i, 1, len, stdout);
            i += len;
        }
    }
    putchar('"');
}

static void print_json(const calor_vocab *v, const int32_t *ids, size_t n)
{
    printf("{\"count\":%zu,\"ids\":[", n);
    for (size_t i = 0; i < n && cli_stdout_ok(); i++) printf("%s%d", i ? "," : "", ids[i]);
    printf("],\"pieces\":[");
    for (size_t i = 0; i < n && cli_stdout_ok(); i++) {
        size_t len;
        const char *p = calor_vocab_piece(v, ids[i], &len);
        if (i) putchar(',');
        print_string(p, len);
    }
    puts("]}");
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    const char *model, *prompt = NULL, *file = NULL;
    bool bos = false, special = false, json = false;
    const struct cli_opt opts[] = {
        {'p', "prompt", CLI_STR, &prompt, "TEXT", "the text"},
        {'f', "file", CLI_STR, &file, "FILE", "read the text from FILE (-: standard input)"},
        {0, "bos", CLI_FLAG, &bos, NULL, "put the BOS token first, where the model wants one"},
        {0, "special", CLI_FLAG, &special, NULL, "read control tokens written out in the text"},
        {0, "json", CLI_FLAG, &json, NULL, "print an object with ids and the text of each token"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, &model, NULL, 1, 1, &status)) return status;
    if (!prompt == !file) return cli_usage(self, "expected a text: either -p TEXT or -f FILE");

    struct err e;
    char *text = NULL, err[512];
    size_t n = prompt ? strlen(prompt) : 0, count;
    int rc = 0;
    if (file)
        rc = strcmp(file, "-") ? file_read_all(file, MOST_BYTES, &text, &n, &e) : read_stdin(&text, &n, &e);
    if (rc < 0) return cli_fail(&e);
    calor_vocab *v = NULL;
    int32_t *ids = NULL;
    rc = calor_vocab_open(&v, model, err, sizeof err);
    if (rc == 0)
        rc = calor_vocab_tokenize(v, prompt ? prompt : text, n,
                                  (bos ? CALOR_TOK_BOS : 0) | (special ? CALOR_TOK_SPECIAL : 0), &ids, &count,
                                  err, sizeof err);
    if (rc < 0)
        status = cli_fail_text(rc, err);
    else {
        status = CLI_OK;
        if (json)
            print_json(v, ids, count);
        else {
            for (size_t i = 0; i < count && cli_stdout_ok(); i++) printf("%s%d", i ? " " : "", ids[i]);
            putchar('\n');
        }
    }
    calor_free(ids);
    calor_vocab_close(&v);
    free(text);
    return status;
}

const struct cli_command cmd_tokenize = {
    "tokenize",
    "MODEL (-p TEXT | -f FILE)",
    "Show a text as token ids",
    "Prints the ids on one line, separated by spaces. Without --bos and --special the text is taken as it "
    "is. MODEL\n"
    "may also be a file that holds a vocabulary only.",
    "  calor tokenize model.gguf -p \"Once upon a time\"\n  calor tokenize model.gguf --bos --json -f "
    "story.txt",
    run,
};
