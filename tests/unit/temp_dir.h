/* A folder for one test program's files, removed at its end, and what tests of file formats share. */
#ifndef TESTS_TEMP_DIR_H
#define TESTS_TEMP_DIR_H

#include "tests/unit/cmocka_all.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char temp_dir[64];

/* Path of a file in the folder; the last eight results stay valid. */
__attribute__((unused)) static const char *in_dir(const char *name)
{
    static char path[8][192];
    static int i;
    i = (i + 1) % 8;
    snprintf(path[i], sizeof path[i], "%s/%s", temp_dir, name);
    return path[i];
}

/* Group set-up and tear-down for cmocka_run_group_tests. */
__attribute__((unused)) static int temp_dir_make(void **state)
{
    (void)state;
    strcpy(temp_dir, "/tmp/calor-test-XXXXXX");
    return mkdtemp(temp_dir) ? 0 : -1;
}

__attribute__((unused)) static int temp_dir_remove(void **state)
{
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", temp_dir);
    return system(cmd);
}

__attribute__((unused)) static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Must succeed; the message is shown when it does not. Needs a `struct err e`. */
#define OK(call)                                                                                             \
    do {                                                                                                     \
        e.msg[0] = 0;                                                                                        \
        if ((call) != 0) fail_msg("%s: %s", #call, e.msg);                                                   \
    } while (0)

/* Must fail with the code and a message that contains `text`. */
#define FAILS(call, err_code, text)                                                                          \
    do {                                                                                                     \
        e.msg[0] = 0;                                                                                        \
        int rc_ = (call);                                                                                    \
        if (rc_ != (err_code) || e.code != (err_code) || !strstr(e.msg, text))                               \
            fail_msg("%s: expected %d and '%s', found %d (%d) '%s'", #call, err_code, text, rc_, e.code,     \
                     e.msg);                                                                                 \
    } while (0)

#endif
