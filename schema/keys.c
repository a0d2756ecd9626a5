/* See keys.h. */
#include "schema/keys.h"

#include <stdio.h>

void mull_key_inbox(const char *boot, char *out, size_t cap) {
    snprintf(out, cap, "mull:inbox:%s", boot);
}
