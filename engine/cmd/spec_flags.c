/* See spec_flags.h. */
#include "engine/cmd/spec_flags.h"

#include "engine/cmd/cmd.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

json_t *mull_spec_path(const char *path) {
    char whole[PATH_MAX * 2], *here = path[0] == '/' ? NULL : realpath(".", NULL);
    snprintf(whole, sizeof whole, "%s%s%s", here ? here : "", here ? "/" : "", path);
    free(here);
    return json_string(whole);
}

int mull_spec_take(const char *command, const mull_spec_flag *f, const char *v, json_t *spec, json_t *sampling) {
    char flag[40];
    long long n;
    double x;
    json_t *value = NULL;
    int rc = 0;
    snprintf(flag, sizeof flag, "--%s", f->flag);
    switch (f->kind | 32) {
    case 'i':
        if (!(rc = mull_cmd_int(command, flag, v, 0, INT64_MAX, &n))) value = json_integer(n);
        break;
    case 'f':
        if (!(rc = mull_cmd_double(command, flag, v, 0, 1e12, &x))) value = json_real(x);
        break;
    case 'p':
        value = mull_spec_path(v);
        break;
    default:
        value = json_string(v);
        break;
    }
    if (rc) return rc;
    if (!value) return mull_cmd_usage(command, "%s is no UTF-8", flag);
    json_object_set_new(f->kind < 'a' ? sampling : spec, f->key, value);
    return 0;
}
