/* calor inspect: what is in a file. This file finds out what kind it is; the kinds have files of their own.
 */
#include "engine/cli/inspect.h"

#include "base/err.h"
#include "base/file.h"
#include "engine/cli/cli.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int inspect_fn(const struct inspect *in, struct err *e);

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* By the first bytes; by the name only where the bytes say nothing. */
static int find_kind(const char *path, inspect_fn **out, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        *out = inspect_safetensors;
        return 0;
    }
    int fd = -1;
    uint64_t size = 0;
    unsigned char head[9] = {0};
    int rc = file_open(path, &fd, &size, e);
    if (rc) return rc;
    rc = file_read_at(fd, path, head, size < sizeof head ? (size_t)size : sizeof head, 0, e);
    close(fd);
    if (rc) return rc;
    uint64_t length;
    memcpy(&length, head, 8);
    bool named = ends_with(path, ".safetensors") || ends_with(path, ".safetensors.index.json");
    if (memcmp(head, "\x93NUMPY", 6) == 0 || ends_with(path, ".npy"))
        *out = inspect_npy;
    else if (named || (head[8] == '{' && length <= size))
        *out = inspect_safetensors;
    else if (memcmp(head, "GGUF", 4) == 0 || memcmp(head, "PWRI", 4) == 0 || ends_with(path, ".gguf"))
        *out = inspect_gguf;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "'%s' is no file that Calor knows: expected GGUF (models, profiles), safetensors, a "
                       "Hugging Face folder or .npy",
                       path);
    return 0;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct inspect in = {0};
    const struct cli_opt opts[] = {
        {0, "json", CLI_FLAG, &in.json, NULL, "everything, as JSON"},
        {0, "tensors", CLI_FLAG, &in.tensors, NULL, "every tensor, with bytes and offset"},
        {'k', "kv", CLI_STR, &in.key, "KEY", "one metadata value, whole"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, &in.path, NULL, 1, 1, &status)) return status;
    struct err e = {0};
    inspect_fn *kind = NULL;
    int rc = find_kind(in.path, &kind, &e);
    if (rc == 0) rc = kind(&in, &e);
    return rc ? cli_fail(&e) : CLI_OK;
}

const struct cli_command cmd_inspect = {
    "inspect",
    "FILE [--json] [--tensors] [--kv KEY]",
    "Show what is in a file",
    "FILE is a GGUF model (split ones by their first part; PowerInfer's models and GPU indexes\n"
    "too), a profile, a .safetensors file or index, a Hugging Face folder, or a .npy file. Tensors of\n"
    "several layers are shown on one line unless --tensors is given. Shapes are as the format\n"
    "has them: GGUF begins with the length of a row, safetensors ends with it.",
    "  calor inspect model.gguf\n"
    "  calor inspect model.gguf --kv tokenizer.chat_template\n"
    "  calor inspect Llama-3.2-1B/ --tensors\n"
    "  calor inspect model.gguf --json > model.json",
    run,
};
