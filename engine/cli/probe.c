/* calor probe: measures the machine, or shows one of those that Calor knows. */
#include "engine/cli/cli.h"

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/strbuf.h"
#include "engine/calor.h"
#include "placement/machine.h"
#include "placement/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bar {
    struct progress p;
    char what[48];
};

/* The line names what is being measured. */
static int on_progress(double done, const char *what, void *arg)
{
    struct bar *b = arg;
    snprintf(b->what, sizeof b->what, "%s", what);
    progress_update(&b->p, done);
    return cli_interrupted();
}

static int list_one(const char *name, const char *says, void *arg)
{
    (void)arg;
    printf("%-20s %s\n", name, says);
    return 0;
}

static int list(void)
{
    struct err e = {0};
    if (machine_shipped_each(list_one, NULL, &e)) return cli_fail(&e);
    printf("\nJoin parts with '+': one with processor and memory, any number of GPUs and drives. Another "
           "amount of\n"
           "memory: ddr5-5600x2:96G. Example: rtx4090+ddr5-5600x2+gen4\n");
    return CLI_OK;
}

static int show(const struct machine *m, bool json)
{
    struct err e = {0};
    if (json) return json_print(machine_json(m), stdout, &e) ? cli_fail(&e) : CLI_OK;
    struct strbuf b;
    strbuf_init(&b);
    probe_report(m, &b);
    char *text = strbuf_take(&b);
    if (!text) return cli_fail_text(CALOR_ENOMEM, "no memory for the report");
    fputs(text, stdout);
    free(text);
    return CLI_OK;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct probe_settings s = {0};
    const char *out = NULL, *machine = NULL;
    int64_t threads = 0;
    bool json = false, names = false;
    const struct cli_opt opts[] = {
        {'o', "output", CLI_STR, &out, "FILE", "write the machine there (machine.json)"},
        {0, "quick", CLI_FLAG, &s.quick, NULL,
         "about 10 s instead of less than 60: fewer points, wider spread"},
        {0, "dir", CLI_STR, &s.dir, "FOLDER",
         "whose drive is measured: where models lie (default: here). Needs up to\n"
         "4 GiB free; the file used has no name and is gone at the end, however it ends"},
        {0, "topology", CLI_STR, &s.topology, "FILE",
         "take the topology of another machine, written by lstopo FILE.xml; nothing is\n"
         "measured then"},
        {'t', "threads", CLI_INT, &threads, "N", "default: one a physical core", 1, 1024},
        {0, "list", CLI_FLAG, &names, NULL, "list the machines that Calor knows, and stop"},
        {0, "machine", CLI_STR, &machine, "NAME",
         "show, or write with -o, one of these instead of measuring"},
        {0, "json", CLI_FLAG, &json, NULL, "print machine.json instead of tables"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, NULL, NULL, 0, 0, &status)) return status;
    if (machine && (s.quick || s.dir || s.topology || threads))
        return cli_usage(
            self, "--machine measures nothing: --quick, --dir, --topology and --threads have no meaning");
    if (s.topology && (s.quick || s.dir || threads))
        return cli_usage(self, "--topology measures nothing: --quick, --dir and --threads have no meaning");
    if (names) return list();
    struct err e = {0};
    struct machine *m = malloc(sizeof *m);
    if (!m) return cli_fail_text(CALOR_ENOMEM, "no memory for a machine");
    int rc;
    s.threads = (int)threads;
    if (machine) {
        rc = machine_shipped(m, machine, &e);
    } else {
        struct bar b = {.what = "probe"};
        s.progress = on_progress;
        s.arg = &b;
        cli_catch_interrupts(NULL, NULL);
        progress_start(&b.p, cli_progress(), b.what, stderr);
        rc = probe_machine(m, &s, &e);
        progress_end(&b.p, rc == 0);
        if (cli_interrupted()) {
            free(m);
            return 128 + cli_interrupted();
        }
    }
    if (rc == 0 && out) rc = machine_write(m, out, &e);
    if (rc) {
        free(m);
        return cli_fail(&e);
    }
    for (uint32_t i = 0; i < m->n_notes; i++)
        if (strcmp(m->note[i].what, "warning") == 0) log_warn("%s", m->note[i].how);
    status = show(m, json);
    free(m);
    return status;
}

const struct cli_command cmd_probe = {
    "probe",
    "[-o machine.json] [--quick] [--dir FOLDER]",
    "Measures this machine: memory, kernels, drive",
    "Measures what placement depends on: how fast memory is read in order and here and there,\n"
    "what the kernels do with weights in the cache, how long a team of threads needs to meet,\n"
    "what the drive delivers at each block size and depth, how fast a core unpacks zstd.\n"
    "Run it while the machine does nothing else: every figure has its spread beside it.",
    "  calor probe -o machine.json\n"
    "  calor probe --quick --dir /mnt/models\n"
    "  calor probe --list\n"
    "  calor probe --machine rtx4090+ddr5-5600x2+gen4 -o 4090.json",
    run,
};
