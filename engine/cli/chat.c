/* calor run without a prompt: a conversation on the terminal. */
#include "engine/cli/run.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct talk {
    struct run *r;
    const char *template_name;
    calor_chat_message *msgs;
    size_t n, cap;
    bool system;     /* msgs[0] is the system message */
    int32_t *ids;    /* the session's timeline */
    int32_t *answer; /* ids being written */
    size_t context;
};

static bool say(struct talk *t, const char *role, char *text)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        calor_chat_message *more = realloc(t->msgs, cap * sizeof *more);
        if (!more) return false;
        t->msgs = more;
        t->cap = cap;
    }
    t->msgs[t->n++] = (calor_chat_message){role, text};
    return true;
}

static void forget(struct talk *t, size_t keep)
{
    while (t->n > keep) free((void *)(uintptr_t)t->msgs[--t->n].text);
}

/* Computes what the conversation has beyond the session's timeline. CLI_OK, -1 when interrupted, or the exit
 * status after printing the error. */
static int catch_up(struct talk *t)
{
    char err[1000];
    size_t n, same = 0, have = calor_position(t->r->session);
    int32_t *ids = NULL;
    int rc = calor_chat_tokens(t->r->model, t->template_name, t->msgs, t->n, &ids, &n, err, sizeof err),
        status;
    if (rc < 0) return cli_fail_text(rc, err);
    if (n == 0 || n >= t->context) {
        snprintf(
            err, sizeof err,
            "the conversation needs %zu tokens, the context has %zu: /clear begins again, -c N gives more", n,
            t->context);
        calor_free(ids);
        return cli_fail_text(CALOR_EFULL, err);
    }
    while (same < have && same + 1 < n && ids[same] == t->ids[same]) same++;
    calor_rewind(t->r->session, (uint32_t)same);
    status = run_prompt(t->r, ids + same, n - same);
    memcpy(t->ids, ids, n * sizeof *ids);
    calor_free(ids);
    return status;
}

/* One answer. False ends the conversation. */
static bool answer(struct talk *t, int *status)
{
    struct strbuf text;
    size_t n = 0;
    strbuf_init(&text);
    int rc = catch_up(t);
    enum stop why = STOP_INTERRUPT;
    if (rc == CLI_OK) {
        size_t at = calor_position(t->r->session);
        why = run_generate(t->r, true, t->answer, &n, &text);
        memcpy(t->ids + at, t->answer, (calor_position(t->r->session) - at) * sizeof *t->ids);
        putchar('\n');
        fflush(stdout);
        if (why == STOP_CONTEXT)
            fprintf(stderr, "(the context of %zu tokens is full: /clear begins again)\n", t->context);
    }
    bool go_on = why != STOP_ERROR && why != STOP_OUTPUT;
    if (!go_on) *status = CLI_ERROR;
    char *said = rc == CLI_OK ? strbuf_take(&text) : NULL;
    strbuf_finish(&text);
    if (rc != CLI_OK)
        forget(t, t->n - 1); /* the message that could not be answered */
    else if (!said || !say(t, "assistant", said)) {
        free(said);
        *status = cli_fail_text(CALOR_ENOMEM, "no memory for the conversation");
        go_on = false;
    }
    cli_interrupt_clear(); /* an interrupt ended the answer, not the conversation */
    return go_on;
}

static bool command(struct talk *t, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0 || strcmp(line, "/bye") == 0) return false;
    if (strcmp(line, "/clear") == 0) {
        forget(t, t->system ? 1 : 0);
        fprintf(stderr, "(a new conversation)\n");
    } else {
        fprintf(stderr, "%s/clear  begin again\n/quit   leave (or Ctrl-D); Ctrl-C stops an answer\n",
                strcmp(line, "/help") == 0 ? "" : "unknown command; there are:\n");
    }
    return true;
}

/* Whether this model's conversations can be written at all: said before the first message is typed. */
static int try_template(const struct talk *t)
{
    char err[1000], *text = NULL;
    size_t len;
    int rc = calor_chat(t->r->model, t->template_name, &(calor_chat_message){"user", "?"}, 1, &text, &len,
                        err, sizeof err);
    calor_free(text);
    return rc < 0 ? cli_fail_text(rc, err) : CLI_OK;
}

int chat_run(struct run *r, const char *template_name, const char *system)
{
    calor_session_info info;
    calor_session_describe(r->session, &info);
    struct talk t = {.r = r, .template_name = template_name, .context = info.context};
    int status = CLI_OK;
    char *line = NULL;
    size_t cap = 0;
    t.ids = malloc(t.context * sizeof *t.ids);
    t.answer = malloc(t.context * sizeof *t.answer);
    char *first = system ? strdup(system) : NULL;
    if (!t.ids || !t.answer || (system && (!first || !say(&t, "system", first)))) {
        free(first);
        status = cli_fail_text(CALOR_ENOMEM, "no memory for a conversation");
        goto out;
    }
    t.system = system != NULL;
    if ((status = try_template(&t)) != CLI_OK) goto out;
    fprintf(stderr, "Type a message; /help for commands, Ctrl-D to leave.\n");
    for (;;) {
        fputs("> ", stdout);
        fflush(stdout);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            putchar('\n');
            break;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n == 0) continue;
        if (line[0] == '/') {
            if (!command(&t, line)) break;
            continue;
        }
        char *text = strdup(line);
        if (!text || !say(&t, "user", text)) {
            free(text);
            status = cli_fail_text(CALOR_ENOMEM, "no memory for the conversation");
            break;
        }
        if (!answer(&t, &status)) break;
    }
    run_summary(r, NULL);
out:
    forget(&t, 0);
    free(t.msgs);
    free(t.ids);
    free(t.answer);
    free(line);
    return status;
}
