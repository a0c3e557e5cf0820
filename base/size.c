/* Sizes as people write and read them: see size.h. */
#include "base/size.h"

#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

int size_parse(const char *text, uint64_t *out, struct err *e)
{
    char *end = NULL;
    errno = 0;
    double v = isdigit((unsigned char)text[0]) || text[0] == '.' ? strtod(text, &end) : NAN;
    if (!end || end == text || !isfinite(v) || errno == ERANGE)
        return err_set(e, ERR_ARG,
                       "'%.40s' is not a size: expected a number with an optional K, M, G or T, such as 8GiB",
                       text);
    const char *units = "KMGT";
    int power = 0;
    if (*end) {
        const char *hit = NULL;
        for (const char *u = units; *u; u++)
            if (toupper((unsigned char)*end) == *u) hit = u;
        if (hit) {
            power = (int)(hit - units) + 1;
            end++;
        }
        if (strcasecmp(end, "iB") != 0 && strcasecmp(end, "B") != 0 && *end)
            return err_set(e, ERR_ARG,
                           "'%.40s' is not a size: '%.10s' is no unit (K, M, G, T, with optional iB)", text,
                           end);
        if (!hit && strcasecmp(end, "iB") == 0)
            return err_set(e, ERR_ARG, "'%.40s' is not a size: 'iB' needs K, M, G or T before it", text);
    }
    v = ldexp(v, 10 * power);
    if (v >= 0x1p63) return err_set(e, ERR_ARG, "'%.40s' is larger than any memory", text);
    *out = (uint64_t)v;
    return 0;
}

char *size_format(uint64_t bytes, char *buf, size_t n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int i = 0;
    while (v >= 1024 && i < 6) {
        v /= 1024;
        i++;
    }
    snprintf(buf, n, i == 0 ? "%.0f %s" : v < 10 ? "%.2f %s" : v < 100 ? "%.1f %s" : "%.0f %s", v, unit[i]);
    return buf;
}
