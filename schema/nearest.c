/* "Did you mean": optimal string alignment distance (insert, delete, replace, swap of neighbours). */
#include "schema/jobspec.h"

#include <ctype.h>
#include <string.h>

static int least(int a, int b) {
    return a < b ? a : b;
}

static int distance(const char *a, const char *b) {
    enum { MAX = 48 };
    int d[3][MAX + 1], n = (int)strlen(a), m = (int)strlen(b);
    if (n > MAX || m > MAX) return MAX;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            now[j] = least(least(up[j] + 1, now[j - 1] + 1), up[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && y == tolower((unsigned char)a[i - 2]))
                now[j] = least(now[j], up2[j - 2] + 1);
        }
    }
    return d[n % 3][m];
}

const char *mull_nearest(const char *word, const char *const *words, size_t n) {
    const char *best = NULL;
    int limit = (int)strlen(word) / 3 < 2 ? 2 : (int)strlen(word) / 3, at = limit + 1;
    if ((int)strlen(word) <= 2) at = 2;
    for (size_t i = 0; i < n; i++) {
        int k = distance(word, words[i]);
        if (k < at) {
            at = k;
            best = words[i];
        }
    }
    return best;
}
