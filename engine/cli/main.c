/* calor: the command line. The table of commands, and what is common to all: help, errors, signals. */
#include "engine/cli/cli.h"

#include "base/err.h"
#include "engine/calor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command *const commands[] = {
    &cmd_run,   &cmd_tokenize, &cmd_eval,  &cmd_inspect, &cmd_convert,   &cmd_synth,
    &cmd_bench, &cmd_profile,  &cmd_probe, &cmd_plan,    &cmd_predictor, NULL,
};
enum { N_COMMANDS = sizeof commands / sizeof *commands - 1 };

static void print_help(FILE *to)
{
    fprintf(to, "usage: calor COMMAND [arguments]\n\n"
                "Runs large language models on small machines.\n\ncommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->brief);
    fprintf(to,
            "\n'calor help COMMAND' explains one, with examples; 'calor --version' says which this is.\n");
}

static const struct cli_command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS + 2];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    names[N_COMMANDS] = "help";
    names[N_COMMANDS + 1] = NULL;
    const char *near = cli_nearest(name, names);
    if (near) return cli_usage(NULL, "unknown command '%.80s': did you mean '%s'?", name, near);
    return cli_usage(NULL, "unknown command '%.80s'", name);
}

int cli_fail_text(int code, const char *text)
{
    fflush(stdout);
    fprintf(stderr, "calor: error: %s\n", text);
    return code == ERR_ARG ? CLI_USAGE : CLI_ERROR;
}

int cli_fail(const struct err *e)
{
    return cli_fail_text(e->code, e->msg);
}

bool cli_color(int fd)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fd) && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

bool cli_stdout_ok(void)
{
    return !ferror(stdout);
}

static volatile sig_atomic_t caught;
static void (*interrupt_fn)(void *arg);
static void *interrupt_arg;

static void on_interrupt(int sig)
{
    if (caught) _exit(128 + sig);
    caught = sig;
    if (interrupt_fn) interrupt_fn(interrupt_arg);
}

void cli_catch_interrupts(void (*fn)(void *arg), void *arg)
{
    interrupt_fn = fn;
    interrupt_arg = arg;
    struct sigaction sa = {.sa_handler = on_interrupt}; /* no SA_RESTART: a blocked read is to return */
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

int cli_interrupted(void)
{
    return caught;
}

void cli_interrupt_clear(void)
{
    caught = 0;
}

/* A file opened while 0, 1 or 2 is closed would take that number, and text meant for people would be written
 * into it. The stand-in is opened the wrong way round, so that using it fails and is reported. */
static void guard_standard_files(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
            _exit(CLI_ERROR);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("calor %s\n", calor_version());
        return CLI_OK;
    }
    bool help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (help && argc == 2)) {
        print_help(stdout);
        return CLI_OK;
    }
    if (help) name = argv[2];
    const struct cli_command *c = find(name);
    if (!c) {
        if (name[0] == '-') return cli_usage(NULL, "unknown option '%.80s' before a command", name);
        return unknown_command(name);
    }
    if (help) {
        char *av[] = {argv[2], (char[]){"--help"}, NULL};
        return c->run(c, 2, av);
    }
    return c->run(c, argc - 1, argv + 1);
}

/* A page of a mapped file that is no longer there: the file was cut short between the engine's look at its
 * size and the use of the page. What was written so far has been flushed token by token. */
static void cut_short(int signal_number)
{
    static const char text[] =
        "\ncalor: error: a file in use lost bytes while it was read (was it truncated or is its "
        "disk gone?): nothing computed from it can be trusted\n";
    (void)signal_number;
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(CLI_ERROR);
}

int main(int argc, char **argv)
{
    guard_standard_files();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error like others, reported below */
    signal(SIGBUS, cut_short);
    signal(SIGXFSZ, SIG_IGN); /* and so is a file that may not grow */
    int status = dispatch(argc, argv);
    bool bad = ferror(stdout);
    errno = 0;
    if ((fflush(stdout) != 0 || bad) && status == CLI_OK) {
        fprintf(stderr, "calor: error: writing to standard output%s%s\n", errno ? ": " : "",
                errno ? strerror(errno) : "");
        status = CLI_ERROR;
    }
    return status;
}
