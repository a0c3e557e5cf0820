/* Options of a command: see cli.h. */
#include "engine/cli/cli.h"

#include "base/err.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *cli_nearest(const char *word, const char *const *names)
{
    return nearest_name(word, names);
}

static enum progress_mode progress_choice;
static const char *const progress_names[] = {"auto", "json", "none", NULL};

enum progress_mode cli_progress(void)
{
    return progress_choice;
}

/* What every command takes. */
static bool want_help, want_verbose;
static int want_progress;
static const struct cli_opt common[] = {
    {0, "progress", CLI_CHOICE, &want_progress, "MODE", "progress on stderr: auto, json or none",
     .choices = progress_names},
    {'v', "verbose", CLI_FLAG, &want_verbose, NULL, "say more on stderr"},
    {'h', "help", CLI_FLAG, &want_help, NULL, "this help"},
    {0},
};

enum { TEXT_COLUMN = 29, COLUMNS = 112 };

/* Prints the option and its help beside it, broken between words and at newlines. */
static void print_option(const struct cli_opt *o)
{
    int at = printf("  %c%c%c --%s%s%s", o->key ? '-' : ' ', o->key ? o->key : ' ', o->key ? ',' : ' ',
                    o->name, o->value ? " " : "", o->value ? o->value : "");
    if (at >= TEXT_COLUMN) {
        printf("\n");
        at = 0;
    }
    printf("%*s", TEXT_COLUMN - at, "");
    at = TEXT_COLUMN;
    for (const char *p = o->help; *p;) {
        int n = (int)strcspn(p, " \n");
        if (at > TEXT_COLUMN && at + 1 + n > COLUMNS) {
            printf("\n%*s", TEXT_COLUMN, "");
            at = TEXT_COLUMN;
        }
        at += printf("%s%.*s", at > TEXT_COLUMN ? " " : "", n, p);
        p += n;
        if (*p == '\n') {
            printf("\n%*s", TEXT_COLUMN, "");
            at = TEXT_COLUMN;
        }
        if (*p) p++;
    }
    printf("\n");
}

/* The usage line, broken between words (not inside brackets) where it would leave an ordinary terminal. */
static void print_usage(const struct cli_command *self)
{
    int at = printf("usage: calor %s", self->name), indent = at + 1, depth = 0;
    const char *p = self->args;
    while (*p) {
        size_t n = 0;
        for (; p[n] && (p[n] != ' ' || depth > 0); n++) depth += (p[n] == '[') - (p[n] == ']');
        if (at + 1 + (int)n > COLUMNS && at >= indent) at = printf("\n%*s", indent - 1, "") - 1;
        at += printf(" %.*s", (int)n, p);
        p += n;
        p += strspn(p, " ");
    }
    printf("\n\n%s.\n", self->brief);
}

static void print_help(const struct cli_command *self, const struct cli_opt *opts)
{
    print_usage(self);
    if (self->details) printf("\n%s\n", self->details);
    printf("\noptions:\n");
    for (const struct cli_opt *o = opts; o->name; o++) print_option(o);
    for (const struct cli_opt *o = common; o->name; o++) print_option(o);
    if (self->examples) printf("\nexamples:\n%s\n", self->examples);
}

int cli_usage(const struct cli_command *self, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "calor: error: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\ncalor: see 'calor help%s%s'\n", self ? " " : "", self ? self->name : "");
    return CLI_USAGE;
}

static bool set_int(const struct cli_opt *o, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (!*text || isspace((unsigned char)*text) || *end) {
        err_set(e, ERR_ARG, "'%.60s' is not a whole number", text);
    } else if (errno == ERANGE || (o->max > o->min && ((double)v < o->min || (double)v > o->max))) {
        if (o->max > o->min)
            err_set(e, ERR_ARG, "%.60s is out of range: expected %.0f to %.0f", text, o->min, o->max);
        else
            err_set(e, ERR_ARG, "%.60s does not fit in 64 bits", text);
    } else {
        *(int64_t *)o->out = v;
        return true;
    }
    return false;
}

static bool set_u64(const struct cli_opt *o, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    bool digit = isdigit((unsigned char)*text);
    unsigned long long v = digit ? strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10) : 0;
    if (!digit || *end || errno == ERANGE) {
        err_set(e, ERR_ARG, "'%.60s' is not a whole number from 0 to 18446744073709551615", text);
        return false;
    }
    *(uint64_t *)o->out = v;
    return true;
}

static bool set_float(const struct cli_opt *o, const char *text, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (!*text || isspace((unsigned char)*text) || *end || !isfinite(v)) {
        err_set(e, ERR_ARG, "'%.60s' is not a finite number", text);
    } else if (o->max > o->min && (v < o->min || v > o->max)) {
        err_set(e, ERR_ARG, "%.60s is out of range: expected %g to %g", text, o->min, o->max);
    } else {
        *(double *)o->out = v;
        return true;
    }
    return false;
}

static bool set_choice(const struct cli_opt *o, const char *text, struct err *e)
{
    char list[300] = "";
    for (int i = 0; o->choices[i]; i++) {
        if (strcmp(o->choices[i], text) == 0) {
            *(int *)o->out = i;
            return true;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", o->choices[i]);
    }
    const char *near = cli_nearest(text, o->choices);
    if (near)
        err_set(e, ERR_ARG, "'%.60s' is not one of %s: did you mean '%s'?", text, list, near);
    else
        err_set(e, ERR_ARG, "'%.60s' is not one of %s", text, list);
    return false;
}

static bool set_option(const struct cli_opt *o, const char *text, struct err *e)
{
    switch (o->kind) {
    case CLI_FLAG: *(bool *)o->out = true; return true;
    case CLI_STR: *(const char **)o->out = text; return true;
    case CLI_INT: return set_int(o, text, e);
    case CLI_U64: return set_u64(o, text, e);
    case CLI_FLOAT: return set_float(o, text, e);
    case CLI_SIZE: return size_parse(text, o->out, e) == 0;
    case CLI_CHOICE: return set_choice(o, text, e);
    case CLI_STRS: {
        struct cli_strs *s = o->out;
        if (s->n == (int)(sizeof s->v / sizeof *s->v)) {
            err_set(e, ERR_ARG, "given more than %d times", s->n);
            return false;
        }
        s->v[s->n++] = text;
        return true;
    }
    }
    return false;
}

static const struct cli_opt *find_long(const struct cli_opt *o, const char *name, size_t n)
{
    for (; o->name; o++)
        if (strlen(o->name) == n && strncmp(o->name, name, n) == 0) return o;
    return NULL;
}

static const struct cli_opt *find_short(const struct cli_opt *o, char key)
{
    for (; o->name; o++)
        if (o->key && o->key == key) return o;
    return NULL;
}

static int unknown(const struct cli_command *self, const struct cli_opt *opts, const char *arg)
{
    const char *names[128];
    int n = 0;
    for (const struct cli_opt *o = opts; o->name && n < 120; o++) names[n++] = o->name;
    for (const struct cli_opt *o = common; o->name; o++) names[n++] = o->name;
    names[n] = NULL;
    char word[NEAREST_WORD + 1];
    const char *start = arg + strspn(arg, "-");
    snprintf(word, sizeof word, "%.*s", (int)strcspn(start, "="), start);
    const char *near = cli_nearest(word, names);
    if (near) return cli_usage(self, "unknown option '%.80s': did you mean '--%s'?", arg, near);
    return cli_usage(self, "unknown option '%.80s'", arg);
}

/* Handles argv[i], an option; returns how many words it took, or 0 after an error (*status set). */
static int take_option(const struct cli_command *self, const struct cli_opt *opts, int argc, char **argv,
                       int i, int *status)
{
    const char *arg = argv[i], *value = NULL;
    const struct cli_opt *o;
    if (arg[1] == '-') {
        size_t n = strcspn(arg + 2, "=");
        o = find_long(opts, arg + 2, n);
        if (!o) o = find_long(common, arg + 2, n);
        if (arg[2 + n] == '=') value = arg + 3 + n;
    } else {
        /* "-temp" is a long option with a dash too few, not "-t emp". */
        size_t n = strcspn(arg + 1, "=");
        bool is_long = n > 1 && (find_long(opts, arg + 1, n) || find_long(common, arg + 1, n));
        o = is_long ? NULL : find_short(opts, arg[1]);
        if (!o && !is_long) o = find_short(common, arg[1]);
        if (arg[2]) value = arg + 2;
        if (o && o->kind == CLI_FLAG && value) o = NULL;
    }
    if (!o) {
        *status = unknown(self, opts, arg);
        return 0;
    }
    int used = 1;
    if (o->kind == CLI_FLAG) {
        if (value) {
            *status = cli_usage(self, "--%s takes no value", o->name);
            return 0;
        }
    } else if (!value) {
        if (i + 1 >= argc) {
            *status = cli_usage(self, "%s needs a value: --%s %s", arg, o->name, o->value);
            return 0;
        }
        value = argv[i + 1];
        used = 2;
    }
    struct err e;
    if (!set_option(o, value, &e)) {
        *status = cli_usage(self, "--%s: %s", o->name, e.msg);
        return 0;
    }
    return used;
}

bool cli_parse(const struct cli_command *self, const struct cli_opt *opts, int argc, char **argv,
               const char **pos, int *n_pos, int min_pos, int max_pos, int *status)
{
    int n = 0;
    bool options = true;
    for (int i = 1; i < argc;) {
        const char *arg = argv[i];
        if (options && strcmp(arg, "--") == 0) {
            options = false;
            i++;
        } else if (options && arg[0] == '-' && arg[1]) {
            int used = take_option(self, opts, argc, argv, i, status);
            if (!used) return false;
            i += used;
        } else {
            if (n == max_pos) {
                *status = cli_usage(self, "unexpected argument '%.80s'", arg);
                return false;
            }
            pos[n++] = arg;
            i++;
        }
        if (want_help) {
            print_help(self, opts);
            *status = CLI_OK;
            return false;
        }
    }
    if (n < min_pos) {
        *status = cli_usage(self, "too few arguments: expected calor %s %s", self->name, self->args);
        return false;
    }
    if (n_pos) *n_pos = n;
    progress_choice = (enum progress_mode)want_progress;
    if (want_verbose) log_set_level(LOG_INFO);
    return true;
}
