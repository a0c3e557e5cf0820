/* The frame of the command line: options, help, errors, signals. One file per command; each defines one
 * `struct cli_command` (cmd_NAME), declared at the end of this file and listed in main.c's table:
 *
 *     static int run(const struct cli_command *self, int argc, char **argv)
 *     {
 *         const char *model, *prompt = NULL;
 *         int64_t n = 128;
 *         const struct cli_opt opts[] = {
 *             {'p', "prompt", CLI_STR, &prompt, "TEXT", "text to continue"},
 *             {'n', "tokens", CLI_INT, &n, "N", "tokens to write (default 128)", 1, 1e9},
 *             {0},
 *         };
 *         int status;
 *         if (!cli_parse(self, opts, argc, argv, &model, NULL, 1, 1, &status)) return status;
 *         …
 *         if (rc) return cli_fail(&e);
 *         return CLI_OK;
 *     }
 *     const struct cli_command cmd_example = {"example", "MODEL [-p TEXT]", "Does this", NULL,
 *                                             "  calor example model.gguf -p Hello", run}; */
#ifndef ENGINE_CLI_CLI_H
#define ENGINE_CLI_CLI_H

#include "base/progress.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Exit statuses. */
enum { CLI_OK = 0, CLI_ERROR = 1, CLI_USAGE = 2 };

struct cli_command {
    const char *name;
    const char *args;     /* after "calor NAME" in the usage line: "MODEL [-p TEXT | -f FILE]" */
    const char *brief;    /* one line for the list of commands, no full stop */
    const char *details;  /* paragraphs above the options, may be NULL */
    const char *examples; /* lines that can be run as they are, may be NULL */
    /* argv[0] is the command's name. Returns the exit status. */
    int (*run)(const struct cli_command *self, int argc, char **argv);
};

enum cli_kind {
    CLI_FLAG,   /* bool: set to true */
    CLI_STR,    /* const char *: points into argv */
    CLI_INT,    /* int64_t, within [min, max] where max > min */
    CLI_U64,    /* uint64_t, decimal or 0x… (seeds) */
    CLI_FLOAT,  /* double, finite, within [min, max] where max > min */
    CLI_SIZE,   /* uint64_t bytes: "8GiB" */
    CLI_CHOICE, /* int: index into `choices` */
    CLI_STRS,   /* struct cli_strs: may be given several times */
};

struct cli_strs {
    const char *v[64];
    int n;
};

/* One option; an array of them ends with {0}. Option names are long ones; `key` is the short form or 0. */
struct cli_opt {
    char key;
    const char *name;
    enum cli_kind kind;
    void *out;         /* holds the default before; of the kind's type */
    const char *value; /* placeholder in the help: "N" */
    const char *help;
    double min, max;
    const char *const *choices; /* ends with NULL */
};

/* Parses argv[1…]: options anywhere, "--" ends them, the rest goes to pos[0 … *n_pos) (between min_pos and
 * max_pos of them). Adds -h/--help, -v/--verbose and --progress MODE to every command. Returns true to go on;
 * false when all is said (help printed, or an error): the caller returns *status. */
bool cli_parse(const struct cli_command *self, const struct cli_opt *opts, int argc, char **argv,
               const char **pos, int *n_pos, int min_pos, int max_pos, int *status);

/* Print "calor: error: …" on stderr. The first gives CLI_ERROR (CLI_USAGE for ERR_ARG), the second CLI_USAGE
 * with a pointer to the help; write `return cli_fail(…)`. */
int cli_fail(const struct err *e);
int cli_fail_text(int code, const char *text); /* a calor.h code and message */
int cli_usage(const struct cli_command *self, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What --progress said. */
enum progress_mode cli_progress(void);

/* Whether `fd` is a terminal that wants colour (NO_COLOR and TERM=dumb respected). */
bool cli_color(int fd);

/* False once standard output cannot be written (closed pipe): long output should stop. main() reports it. */
bool cli_stdout_ok(void);

/* From now on the first SIGINT or SIGTERM is remembered and `fn` (may be NULL; async-signal-safe only) is
 * called; the second ends the process at once. */
void cli_catch_interrupts(void (*fn)(void *arg), void *arg);
/* The signal caught, or 0; the exit status for it is 128 + signal. */
int cli_interrupted(void);
/* Forgets it: what it was to stop has stopped, and the process goes on. */
void cli_interrupt_clear(void);

/* The entry of `names` (ends with NULL) closest in spelling to `word`, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *names);

/* The commands. */
extern const struct cli_command cmd_bench, cmd_convert, cmd_eval, cmd_inspect, cmd_plan, cmd_predictor,
    cmd_probe, cmd_profile, cmd_run, cmd_synth, cmd_tokenize;

#endif
