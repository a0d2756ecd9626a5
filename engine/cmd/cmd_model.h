/* What the commands that load a model share: --device, --dtype, --threads, timing and memory figures. */
#ifndef MULL_ENGINE_CMD_CMD_MODEL_H
#define MULL_ENGINE_CMD_CMD_MODEL_H

#include "engine/model/model.h"

#include <jansson.h>

typedef struct mull_cmd_model {
    bool typed; /* --dtype was given */
    mull_weight_type weights;
    int threads;                 /* 0: all */
    const mull_backend *backend; /* --device; NULL: the CPU */
} mull_cmd_model;

/* Parse one flag; on nonsense print usage and return its exit status. */
int mull_cmd_device(const char *command, const char *text, mull_cmd_model *o);    /* o NULL: only the CPU */
const struct mull_train_backend *mull_cmd_train_backend(const mull_cmd_model *o); /* of the same device */
/* The same for a command that runs as a job: spec gets gpus, 0 or 1. */
int mull_cmd_device_gpus(const char *command, const char *text, json_t *spec);
int mull_cmd_dtype(const char *command, const char *text, mull_cmd_model *o);
int mull_cmd_threads(const char *command, const char *text, mull_cmd_model *o);

int mull_cmd_load(const char *dir, const mull_cmd_model *o, mull_model **m, double *load_ms, mull_error *err);
double mull_cmd_ms(void);          /* monotonic milliseconds */
int64_t mull_cmd_peak_bytes(void); /* largest resident size of this process so far */

#endif
