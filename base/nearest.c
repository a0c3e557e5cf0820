/* See nearest.h. */
#include "base/nearest.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b; case is ignored. */
static int distance(const char *a, const char *b)
{
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > NEAREST_WORD || m > NEAREST_WORD) return NEAREST_WORD;
    int d[NEAREST_WORD + 1][NEAREST_WORD + 1];
    for (int i = 0; i <= n; i++) d[i][0] = i;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= m; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            int best = least(d[i - 1][j] + 1, d[i][j - 1] + 1);
            best = least(best, d[i - 1][j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                tolower((unsigned char)a[i - 2]) == cb)
                best = least(best, d[i - 2][j - 2] + 1);
            d[i][j] = best;
        }
    return d[n][m];
}

const char *nearest_name(const char *word, const char *const *names)
{
    const char *best = NULL;
    size_t len = strlen(word);
    int limit = len < 3 ? 1 : len < 6 ? 2 : 3, nearest = limit + 1;
    for (; *names; names++) {
        int k = distance(word, *names);
        /* An unfinished word is as good as one typing error: "temperature" for "temp", "tok" for "tokenize".
         */
        size_t common = strlen(*names) < len ? strlen(*names) : len;
        if (common >= 3 && strncmp(word, *names, common) == 0 && k > 1) k = 1;
        if (k < nearest) {
            nearest = k;
            best = *names;
        }
    }
    return best;
}
