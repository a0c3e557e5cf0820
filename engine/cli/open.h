/* What the commands that run a model have in common: the options that choose how, and opening. */
#ifndef ENGINE_CLI_OPEN_H
#define ENGINE_CLI_OPEN_H

#include "engine/calor.h"
#include "engine/cli/cli.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct open_options {
    int64_t threads, context;
    const char *cpu, *activation, *profile;
    double cett;
    int mode, kv; /* indices into open_modes, open_kv */
    int screen;   /* index into open_screens */
    const char *predictor;
    bool no_mmap;
    bool recall; /* set by eval: count what the mode leaves out */
};
/* Names as enum calor_mode counts; the last, NULL, stands behind those that need no more than the model. */
extern const char *const open_modes[], *const open_kv[], *const open_screens[];
/* Whether gates have to lie in planes. */
bool open_planes(int mode, int screen);
/* The layout that a mode computes on; two modes of one layout can share a model. */
enum calor_layout open_layout(int mode);
/* What the FFN did in all layers together. */
void open_ffn_counts(const calor_session *s, uint32_t layers, calor_ffn_counts *sum);
/* What was left out in all layers together: zeros unless the session was opened with `recall`. */
void open_recall(const calor_session *s, uint32_t layers, calor_ffn_recall *sum);
/* The same as JSON: {"sparsity":…, "skipped":…, "layers":[{…}, …]}, shares from 0 to 1; NULL when nothing was
 * counted. */
json_t *open_ffn_json(const calor_session *s, uint32_t layers);

/* Entries for a command's option table, options being `o`. */
#define OPEN_OPTIONS(o)                                                                                      \
    {                                                                                                        \
        'c',     "context",                                                                                  \
        CLI_INT, &(o)->context,                                                                              \
        "N",     "tokens of context (default: the model's, at most 4096)",                                   \
        0,       2147483647.0},                                                                              \
        {'t', "threads", CLI_INT, &(o)->threads, "N", "threads (default: physical cores)", 0, 1024},         \
        {0,                                                                                                  \
         "mode",                                                                                             \
         CLI_CHOICE,                                                                                         \
         &(o)->mode,                                                                                         \
         "MODE",                                                                                             \
         "auto (default): exact where the activation has zeros, else dense-fast; exact: only the neurons "   \
         "that fire; sure: the same, screened by a statistical bound (F16, BF16, Q8_0); threshold: those "   \
         "that a profile says matter, lossy; predict: those that a predictor lets through, lossy; dense: "   \
         "all of them, the reference; dense-fast: all, the plain "                                           \
         "way",                                                                                              \
         .choices = open_modes},                                                                             \
        {0, "kv", CLI_CHOICE, &(o)->kv, "TYPE", "KV cache: f16 (default), q8_0, f32", .choices = open_kv},   \
        {0,       "activation",                                                                              \
         CLI_STR, &(o)->activation,                                                                          \
         "NAME",  "the FFN's activation, where the file does not say: relu, fatrelu:0.01 …"},                \
        {0,                                                                                                  \
         "screen",                                                                                           \
         CLI_CHOICE,                                                                                         \
         &(o)->screen,                                                                                       \
         "NAME",                                                                                             \
         "rules neurons out before their gate is computed: none (default), plane (F16, BF16, Q8_0)",         \
         .choices = open_screens},                                                                           \
        {0,                                                                                                  \
         "profile",                                                                                          \
         CLI_STR,                                                                                            \
         &(o)->profile,                                                                                      \
         "FILE",                                                                                             \
         "the model's profile (calor profile): for --mode threshold; and neurons lie from hot to cold"},     \
        {0,                                                                                                  \
         "cett",                                                                                             \
         CLI_FLOAT,                                                                                          \
         &(o)->cett,                                                                                         \
         "X",                                                                                                \
         "with --profile: leave out the weakest neurons up to this CETT (default: what the profile was "     \
         "made for, by --cett or --ppl)",                                                                    \
         0.0001,                                                                                             \
         1.0},                                                                                               \
        {0,       "predictor",                                                                               \
         CLI_STR, &(o)->predictor,                                                                           \
         "FILE",  "for --mode predict: trained by calor predictor (default: PowerInfer's, in the model)"},   \
        {0, "cpu", CLI_STR, &(o)->cpu, "TIER", "cap on the instruction set: ref, avx2, avx512, amx"},        \
    {                                                                                                        \
        0, "no-mmap", CLI_FLAG, &(o)->no_mmap, NULL,                                                         \
            "read the weights into memory instead of mapping the file"                                       \
    }

/* Whether the options go together: CLI_OK, or the exit status with the error printed. */
int open_check(int mode, const char *profile, double cett, const char *predictor);
/* Opens the model, with progress on stderr. Prints the error: CLI_OK or the exit status (128 + signal when
 * interrupted). *seconds: how long it took. */
int open_model(calor_model **out, const char *path, const struct open_options *o, double *seconds);
int open_session(calor_session **out, calor_model *m, const struct open_options *o, uint32_t batch);

/* Text of a file, "-" for standard input; *text is the caller's (free), NUL-terminated. Prints the error. */
int open_text(const char *path, char **text, size_t *len);

/* Tokens of a text, *ids is the caller's (free). Prints the error. */
int open_tokenize(const calor_model *m, const char *text, size_t len, int flags, int32_t **ids, size_t *n);

/* Most memory the process has had, in bytes: resident, mapped weights included. */
uint64_t open_peak_bytes(void);

#endif
