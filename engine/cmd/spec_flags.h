/* Flags that are members of a job spec: a command that does by hand what a job does lists them in a table. */
#ifndef MULL_ENGINE_CMD_SPEC_FLAGS_H
#define MULL_ENGINE_CMD_SPEC_FLAGS_H

#include <jansson.h>

typedef struct mull_spec_flag {
    const char *flag; /* without the dashes */
    char kind;        /* t text, p path, i whole number, f number; upper case: of sampling */
    const char *key;
} mull_spec_flag;

/* Sets the flag's member from its text v in spec, or in sampling. 0, or an exit status after a message about command.
 */
int mull_spec_take(const char *command, const mull_spec_flag *flag, const char *v, json_t *spec, json_t *sampling);
/* An absolute path as JSON, for a spec knows no working folder. NULL where it is no UTF-8. */
json_t *mull_spec_path(const char *path);

#endif
