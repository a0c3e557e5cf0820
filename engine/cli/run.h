/* Writing text with a model: shared by completion (run.c) and conversation (chat.c). */
#ifndef ENGINE_CLI_RUN_H
#define ENGINE_CLI_RUN_H

#include "engine/calor.h"
#include "engine/cli/open.h"

#include "base/strbuf.h"

#include <stddef.h>
#include <stdint.h>

enum stop { STOP_LENGTH, STOP_END, STOP_CONTEXT, STOP_INTERRUPT, STOP_OUTPUT, STOP_ERROR };

struct run {
    struct open_options open;
    calor_model *model;
    calor_session *session;
    calor_sampler sampler;
    int64_t n; /* most tokens to write, -1: until the text ends or the context is full */
    double load_seconds, prompt_seconds, decode_seconds;
    uint64_t prompt_tokens, decode_tokens; /* computed */
    bool stream;                           /* text goes to standard output as it comes */
};

/* Continues the session's timeline by up to n tokens. ids (room for the whole context) gets the new tokens,
 * *n_ids their count; text gets what they say. `fresh`: a new text begins. */
enum stop run_generate(struct run *r, bool fresh, int32_t *ids, size_t *n_ids, struct strbuf *text);

/* Computes a prompt; prints the error. CLI_OK, the exit status, or -1 when it was interrupted. */
int run_prompt(struct run *r, const int32_t *ids, size_t n);

/* The summary, one line on stderr. */
void run_summary(const struct run *r, const char *why);

/* A conversation on the terminal. Returns the exit status. */
int chat_run(struct run *r, const char *template_name, const char *system);

#endif
